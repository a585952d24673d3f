#!/usr/bin/env python3
"""Measures time and memory of the commands that administer users.

    cargo build --release
    benches/provision.py

Each figure is shown beside its bar. If one misses its bar, the exit code is 1. The script leaves no files behind."""

import argparse
import base64
import contextlib
import hashlib
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOL = ROOT / "target/release/resttool"
CORES = len(os.sched_getaffinity(0))


# A process begins with the memory of the one that starts it, so a small one does that. It says how long the program took, and the
# most memory that it held.
STARTER = """
import os, sys, time
start = time.perf_counter()
process = os.fork()
if not process:
    os.execv(sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(process, 0)
took = time.perf_counter() - start
os.write(int(sys.argv[1]), f"{took} {usage.ru_maxrss / 1000}".encode())
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Run:
    """A run of the program: seconds that it took, and the most memory that it held, in MB."""

    def __init__(self, folder, *words, stdin=b"", cores=None, pipe=None):
        env = {key: value for key, value in os.environ.items() if not key.startswith("RESTTOOL_")}
        env["RESTTOOL_DATABASE"] = str(folder / "users.db")
        limit = (lambda: os.sched_setaffinity(0, cores)) if cores else None
        told, tell = os.pipe()
        with open(told) as told, tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            given.write(stdin)
            given.seek(0)
            feeder = pipe and subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE)
            command = [sys.executable, "-S", "-c", STARTER, tell, TOOL, *words]
            done = subprocess.run(list(map(str, command)), stdin=feeder.stdout if feeder else given, stdout=subprocess.DEVNULL, stderr=said, env=env,
                                  preexec_fn=limit, pass_fds=[tell])
            os.close(tell)
            if feeder:
                feeder.stdout.close()
                feeder.wait()
            if done.returncode:
                said.seek(0)
                raise SystemExit(f"{' '.join(map(str, words))}: {said.read().decode()}")
            self.took, self.memory = map(float, told.read().split())


class Bars:
    def __init__(self):
        self.held = True

    def show(self, what, value, holds, bar):
        self.held &= holds
        print(f"{'holds' if holds else 'FAILS'}  {what}: {value} (bar: {bar})", flush=True)


@contextlib.contextmanager
def place():
    with tempfile.TemporaryDirectory(prefix="resttool-provision-") as folder:
        yield pathlib.Path(folder)


def a_hash():
    return subprocess.run([TOOL, "hash", "--password-stdin", "--cost", "12"], input=b"open-sesame",
                          capture_output=True, check=True).stdout.strip()


def one_user(bars, rounds):
    """By turns, so that both meet the same machine."""
    with place() as folder:
        add, bare = [], []
        for n in range(rounds):
            bare.append(Run(folder, "hash", "--password-stdin", stdin=b"open-sesame").took)
            add.append(Run(folder, "useradd", f"user-{n}", "--password-stdin", stdin=b"open-sesame").took)
        ratio = statistics.median(add) / statistics.median(bare)
        bars.show("useradd at cost 12 to the bare hash", f"{ratio:.3f}", ratio <= 1.1, "1.1")


def a_loop(bars):
    with place() as folder:
        script = 'for n in $(seq 1000); do printf %s "$HASH" | "$TOOL" useradd user-$n --hash-stdin --quiet || exit; done'
        env = {**os.environ, "TOOL": str(TOOL), "HASH": a_hash().decode(), "RESTTOOL_DATABASE": str(folder / "users.db")}
        start = time.perf_counter()
        subprocess.run(["sh", "-c", script], env=env, check=True)
        took = time.perf_counter() - start
        bars.show("1,000 useradd --hash-stdin in a shell loop", f"{took:.2f} s", took < 10, "10 s")


def many_passwords(bars):
    def lines(many):
        return b"".join(b"user-%d:open-sesame-%d\n" % (n, n) for n in range(many))

    def one_by_one(folder):
        """A single password is hashed by the bcrypt crate. Seconds for each, without those of the program's start."""
        start = Run(folder, "--version").took
        return statistics.median(Run(folder, "hash", "--password-stdin", "--cost", 10, stdin=b"open-sesame").took - start
                                 for _ in range(15))

    def legacy(many):
        digest = base64.b64encode(hashlib.sha1(b"open-sesame").digest())
        return b"".join(b"user-%d:{SHA}%s\n" % (n, digest) for n in range(many))

    for what, words, given in (("chpasswd of 1,000", ("chpasswd", "--create"), lines(1000)),
                               ("import of 1,000 {SHA} hashes", ("import", "-"), legacy(1000))):
        shares, rates = [], []
        for _ in range(3):
            with place() as folder:
                before = one_by_one(folder)
                took = Run(folder, *words, "--cost", 10, stdin=given).took
                alone = statistics.mean([before, one_by_one(folder)])
                shares.append(1000 / took / (CORES / alone))
                rates.append(1000 / took)
        share = statistics.median(shares)
        bars.show(f"{what} at cost 10, {statistics.median(rates):.1f} a second, to {CORES} x the bcrypt crate's",
                  f"{share:.3f}", share >= 1.9, "1.9")


def a_hundred_thousand(bars):
    with place() as folder:
        digest = a_hash()
        file = folder / "htpasswd"
        file.write_bytes(b"".join(b"user-%06d:%s\n" % (n * 7919 % 100_000, digest) for n in range(100_000)))
        for words, seconds, memory in (
            (("import", file), 2, 64),
            (("userlist", "--json"), 1, 32),
            (("export", folder / "out"), 1, 32),
            (("export", folder / "out.jsonl", "--format", "jsonl"), 1, 32),
        ):
            run = Run(folder, *words)
            what = " ".join(str(word) if str(word).startswith("-") or "/" not in str(word) else "FILE" for word in words)
            bars.show(f"{what} of 100,000 users", f"{run.took:.2f} s", run.took < seconds, f"{seconds} s")
            bars.show(f"{what}, memory", f"{run.memory:.1f} MB", run.memory < memory, f"{memory} MB")
        if sorted((folder / "out").read_bytes().splitlines()) != sorted(file.read_bytes().splitlines()):
            raise SystemExit("what was exported is not what was imported")


def random_hash(generator):
    """A bcrypt hash of cost 10 with a random salt and digest. Their last characters leave unused bits zero."""
    alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    characters = generator.choices(alphabet, k=51)
    salt = "".join(characters[:21]) + generator.choice(alphabet[::16])
    return f"$2y$10${salt}{''.join(characters[21:])}{generator.choice(alphabet[::4])}"


def a_million(bars):
    with place() as folder:
        file, generator = folder / "htpasswd", random.Random(1)
        with open(file, "w") as out:
            out.writelines(f"user-{n:07}:{random_hash(generator)}\n" for n in range(1, 1_000_001))
        for source, words, pipe in (("a file", ("import", file), None), ("a pipe", ("import", "-"), file)):
            runs = []
            for _ in range(3):
                with place() as empty:
                    runs.append(Run(empty, *words, pipe=pipe))
            took, memory = (statistics.median(figures) for figures in zip(*((run.took, run.memory) for run in runs)))
            what = f"import of 1,000,000 lines from {source}"
            bars.show(what, f"{took:.2f} s", took < 6, "6 s")
            bars.show(f"{what}, memory", f"{memory:.1f} MB", memory <= 96, "96 MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="of useradd and hash by turns; default: 15")
    options = parser.parse_args()
    if not TOOL.exists():
        raise SystemExit(f"{TOOL} is missing: cargo build --release")
    bars = Bars()
    one_user(bars, options.rounds)
    a_loop(bars)
    many_passwords(bars)
    a_hundred_thousand(bars)
    a_million(bars)
    return 0 if bars.held else 1


if __name__ == "__main__":
    sys.exit(main())
