#!/usr/bin/env python3
"""Soak test (O-07): loads one server for a while, and checks that its memory and descriptors stay flat.

Over TLS it sends 900 requests per second with the right password, and 100 with other credentials. Each of
the latter has a connection and a source of its own. It changes a user every second and checks the next
request. It replaces the certificate every minute, and compares it in each handshake. It makes and checks a
backup every five minutes. 32 more connections pipeline ten requests every second. The reader of the log is
stuck from the start. Memory, descriptors, errors and the longest response time are sampled every second.
It needs Python 3.9 or later, openssl and a release build, and stops all processes that it has started.

    benches/soak.py                      twenty minutes
    benches/soak.py --minutes 600        a night
    benches/soak.py --write              the figures into docs/operations.md and docs/soak.svg
"""

import argparse
import base64
import http.client
import itertools
import multiprocessing
import os
import pathlib
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOL = ROOT / "target/release/resttool"
RIGHT_RATE = 900
WRONG_RATE = 100
RIGHT_CLIENTS = 2
# Throttled clients wait one second for the response. This many may wait at a time.
WRONG_CLIENTS = 40
PIPELINING_CLIENTS = 32
PIPELINED = 10
# The sources that guess, the user names that they guess at (half of them unknown), and the guests that come and
# go. Once the server has seen them all, further growth is a leak. benches/compare.py tests new names and sources.
SOURCES = 8_000
USERS = 1_000
GUESTS = 10
# A client reconnects after this many requests.
REQUESTS_PER_CONNECTION = 500


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


RIGHT = basic("roy", "open-sesame")


# Clients

class Changed(Exception):
    """The certificate was another one than those that stood in the file before and after the handshake."""


def connect(port, certificate):
    """A connection. The certificate is self-signed, and compared with the one in the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    stands = lambda: ssl.PEM_cert_to_DER_cert(certificate.read_text())
    before = stands()
    stream = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=10))
    if stream.getpeercert(binary_form=True) not in (before, stands()):
        raise Changed("a certificate that was exchanged before")
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def ask(stream, authorization, source=None):
    """The status of the answer."""
    head = f"GET /rest-auth HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n"
    if source:
        head += f"X-Forwarded-For: {source}\r\n"
    stream.sendall((head + "\r\n").encode())
    answer = http.client.HTTPResponse(stream)
    answer.begin()
    answer.read()
    return answer.status


def pipelining_client(port, certificate, tally, stop, slots):
    request = f"GET /rest-auth HTTP/1.1\r\nHost: localhost\r\nAuthorization: {RIGHT}\r\n\r\n".encode()
    stream = None
    for _ in paced(PIPELINING_CLIENTS, stop, slots):
        try:
            if stream is None:
                stream = connect(port, certificate)
                reader = stream.makefile("rb")
            stream.sendall(request * PIPELINED)
            for _ in range(PIPELINED):
                status = int(reader.readline().split()[1])
                fields = http.client.parse_headers(reader)
                reader.read(int(fields["Content-Length"]))
                if status != 200:
                    tally.error(f"a pipelined request: {status}")
            tally.pipelined(PIPELINED)
        except (OSError, http.client.HTTPException, Changed, IndexError) as e:
            tally.error(f"a pipelined request: {e!r}")
            stream = None


def some_source():
    number = random.randrange(SOURCES)
    return f"198.{18 + number // 65536}.{number // 256 % 256}.{number % 256}"


def something_wrong():
    return random.choice([
        lambda: basic("roy", f"guess-{random.random()}"),
        lambda: basic(f"user-{random.randrange(USERS)}", f"guess-{random.random()}"),
        lambda: basic(f"nobody-{random.randrange(USERS)}", f"guess-{random.random()}"),
        lambda: "Basic ====",
    ])()


class Tally:
    """What one process of clients has seen since it last told of it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.seen = self.nothing()

    @staticmethod
    def nothing():
        return {"right": 0, "pipelined": 0, "wrong": {}, "longest": 0.0, "errors": []}

    def take(self):
        with self.lock:
            taken, self.seen = self.seen, self.nothing()
            return taken

    def right(self, took):
        with self.lock:
            self.seen["right"] += 1
            self.seen["longest"] = max(self.seen["longest"], took)

    def pipelined(self, count):
        with self.lock:
            self.seen["pipelined"] += count

    def wrong(self, status):
        with self.lock:
            self.seen["wrong"][status] = self.seen["wrong"].get(status, 0) + 1

    def error(self, what):
        with self.lock:
            self.seen["errors"].append(what)


def paced(rate, stop, slots):
    """Waits until the next request is due. A late client goes on at once."""
    start = time.monotonic()
    while not stop.is_set():
        due = start + next(slots) / rate
        while (left := due - time.monotonic()) > 0:
            if stop.wait(left):
                return
        yield


def right_client(port, certificate, tally, stop, slots):
    stream = None
    served = 0
    for _ in paced(RIGHT_RATE / RIGHT_CLIENTS, stop, slots):
        try:
            begun = time.monotonic()
            if stream is None:
                stream, served = connect(port, certificate), 0
            status = ask(stream, RIGHT)
            tally.right(time.monotonic() - begun)
            if status != 200:
                tally.error(f"the right password: {status}")
            served += 1
            if served == REQUESTS_PER_CONNECTION:
                stream.close()
                stream = None
        except (OSError, http.client.HTTPException, Changed) as e:
            tally.error(f"the right password: {e!r}")
            stream = None


def wrong_client(port, certificate, tally, stop, slots):
    for _ in paced(WRONG_RATE, stop, slots):
        try:
            with connect(port, certificate) as stream:
                status = ask(stream, something_wrong(), some_source())
            tally.wrong(status)
            if status not in (401, 429):
                tally.error(f"a wrong password: {status}")
        except (OSError, http.client.HTTPException, Changed) as e:
            tally.error(f"a wrong password: {e!r}")


def clients(client, count, port, certificate, pipe, stop):
    """A process of clients, which tells every second what they have seen."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tally = Tally()
    slots = itertools.count()
    threads = [threading.Thread(target=client, args=(port, certificate, tally, stop, slots)) for _ in range(count)]
    for thread in threads:
        thread.start()
    while not stop.wait(1):
        pipe.send(tally.take())
    for thread in threads:
        thread.join()
    pipe.send(tally.take())
    pipe.close()


# The server and who administers it

def run(*words, stdin=""):
    done = subprocess.run([str(word) for word in words], input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout


def make_certificates(folder, count):
    for n in range(count):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90",
            "-subj", "/CN=localhost", "-keyout", folder / f"key-{n}.pem", "-out", folder / f"cert-{n}.pem")


def put_certificate(folder, n):
    """The key first: until the certificate has come too, the pair before stays in force."""
    for kind in ("key", "cert"):
        aside = folder / "aside.pem"
        shutil.copy(folder / f"{kind}-{n}.pem", aside)
        aside.chmod(0o600)
        aside.rename(folder / f"{kind}.pem")


class Server:
    def __init__(self, folder):
        words = ["serve", "--port", "0", "--cost", "4", "--trusted-proxy", "127.0.0.1", "--database", folder / "users.db",
                 "--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem"]
        self.process = subprocess.Popen([str(word) for word in (TOOL, *words)], stderr=subprocess.PIPE, text=True)
        said = ""
        while " listening on https://" not in said:
            line = self.process.stderr.readline()
            if not line:
                raise RuntimeError(said)
            said += line
        self.port = int(said.split(" listening on https://")[1].split("\n")[0].rsplit(":", 1)[1])
        # From now on its log has no reader. The pipe is full soon.

    def memory(self):
        """Megabytes that are resident."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self):
        self.process.terminate()
        code = self.process.wait(timeout=30)
        self.process.stderr.close()
        return code


class Administrator:
    """Changes a user, and asks whether that counts."""

    def __init__(self, folder, port):
        self.folder, self.port = folder, port
        self.turn = 0
        self.changes = 0

    def change(self, errors):
        guest = f"guest-{self.turn // 4 % GUESTS}"
        database = ("--database", self.folder / "users.db", "--quiet")
        verb, words, password, expected = [
            ("useradd", ("--password-stdin", "--cost", "4"), "first-one", {"first-one": 200}),
            ("passwd", ("--password-stdin", "--cost", "4"), "second-one", {"first-one": 401, "second-one": 200}),
            ("usermod", ("--lock",), "", {"second-one": 401}),
            ("userdel", (), "", {"second-one": 401}),
        ][self.turn % 4]
        self.turn += 1
        try:
            run(TOOL, verb, guest, *words, *database, stdin=password)
            self.changes += 1
            # Its own source, so that it is not held against others.
            source = f"203.0.113.{self.turn % (4 * GUESTS)}"
            with connect(self.port, self.folder / "cert.pem") as stream:
                for password, status in expected.items():
                    seen = ask(stream, basic(guest, password), source)
                    if seen != status:
                        errors.append(f"after {verb} {guest}: {seen} and not {status}")
        except (OSError, RuntimeError, http.client.HTTPException, Changed) as e:
            errors.append(f"{verb} {guest}: {e!r}")

    def backup(self, errors):
        copy = self.folder / "copy.db"
        try:
            run(TOOL, "backup", copy, "--database", self.folder / "users.db", "--quiet")
            run(TOOL, "check", "--cost", "4", "--database", copy, "--quiet")
        except RuntimeError as e:
            errors.append(str(e))


def live(folder, options):
    """Seconds of it: dictionaries with what was seen in each."""
    seconds = round(options.minutes * 60)
    swaps = seconds // options.swap_every
    make_certificates(folder, swaps + 1)
    put_certificate(folder, 0)
    hashed = run(TOOL, "hash", "--password-stdin", "--cost", "4", stdin="nobody-guesses-it").strip()
    run(TOOL, "useradd", "roy", "--password-stdin", "--cost", "4", "--database", folder / "users.db", stdin="open-sesame")
    run(TOOL, "import", "-", "--database", folder / "users.db", stdin="".join(f"user-{n}:{hashed}\n" for n in range(USERS)))
    server = Server(folder)
    stop = multiprocessing.Event()
    processes, pipes = [], []
    try:
        with connect(server.port, folder / "cert.pem") as stream:
            assert ask(stream, RIGHT) == 200
        at_rest = settled(server)
        groups = [(right_client, 1)] * RIGHT_CLIENTS
        groups += [(wrong_client, WRONG_CLIENTS), (pipelining_client, PIPELINING_CLIENTS)]
        for client, count in groups:
            ours, theirs = multiprocessing.Pipe(duplex=False)
            arguments = (client, count, server.port, folder / "cert.pem", theirs, stop)
            processes.append(multiprocessing.Process(target=clients, args=arguments))
            processes[-1].start()
            theirs.close()
            pipes.append(ours)
        samples, wal = [], folder / "users.db-wal"
        administrator = Administrator(folder, server.port)
        start = time.monotonic()
        for second in range(1, seconds + 1):
            time.sleep(max(0, start + second - time.monotonic()))
            sample = {"second": second, "right": 0, "pipelined": 0, "wrong": {}, "longest": 0.0, "errors": [], "swap": False, "backup": False}
            if second % options.swap_every == 0:
                put_certificate(folder, second // options.swap_every)
                sample["swap"] = True
            administrator.change(sample["errors"])
            if second % options.backup_every == 0:
                administrator.backup(sample["errors"])
                sample["backup"] = True
            sample.update(memory=server.memory(), descriptors=server.descriptors(), wal=wal.stat().st_size / 1e6)
            for pipe in pipes:
                while pipe.poll():
                    add(sample, pipe.recv())
            samples.append(sample)
            if second % 60 == 0:
                print(f"{second // 60} min: {samples[-1]['memory']:.2f} MB, {samples[-1]['descriptors']} descriptors, "
                      f"{sum(len(sample['errors']) for sample in samples)} errors", flush=True)
        stop.set()
        for pipe in pipes:
            try:
                while True:
                    add(samples[-1], pipe.recv())
            except EOFError:
                pass
        for process in processes:
            process.join()
        after = settled(server)
        code = server.stop()
        if code != 0:
            samples[-1]["errors"].append(f"the server ended with {code}")
        return samples, (at_rest, after), administrator.changes
    finally:
        stop.set()
        for process in processes:
            process.join(timeout=15)
            if process.is_alive():
                process.kill()
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def settled(server):
    """The descriptors when no connection is left: as many for two seconds."""
    same, count = 0, server.descriptors()
    while same < 20:
        time.sleep(0.1)
        now = server.descriptors()
        same, count = (same + 1, count) if now == count else (0, now)
    return count


def add(sample, seen):
    sample["right"] += seen["right"]
    sample["pipelined"] += seen["pipelined"]
    sample["longest"] = max(sample["longest"], seen["longest"])
    sample["errors"] += seen["errors"]
    for status, count in seen["wrong"].items():
        sample["wrong"][status] = sample["wrong"].get(status, 0) + count


# Report

def part(samples, key, begin, end):
    """The mean of a part of the time, as fractions of all of it."""
    some = [sample[key] for sample in samples[int(len(samples) * begin):int(len(samples) * end)]]
    return sum(some) / len(some)


def summary(samples, descriptors, changes):
    right = sum(sample["right"] for sample in samples)
    pipelined = sum(sample["pipelined"] for sample in samples)
    wrong = {}
    for sample in samples:
        for status, count in sample["wrong"].items():
            wrong[status] = wrong.get(status, 0) + count
    errors = sum(len(sample["errors"]) for sample in samples)
    early, late = part(samples, "memory", 0.2, 0.4), part(samples, "memory", 0.8, 1)
    minutes = len(samples) / 60
    rows = [
        ("requests", f"{right + pipelined + sum(wrong.values()):,} in {minutes:.1f} minutes: {right + pipelined:,} with the right password, {sum(wrong.values()):,} with other credentials"),
        ("pipelined requests", f"{pipelined:,}, on {PIPELINING_CLIENTS} connections"),
        ("responses to other credentials", ", ".join(f"{count:,} x {status}" for status, count in sorted(wrong.items()))),
        ("users changed", f"{changes:,}, each checked by the next request"),
        ("certificates replaced", f"{sum(sample['swap'] for sample in samples)}"),
        ("backups", f"{sum(sample['backup'] for sample in samples)}, each complete"),
        ("errors", f"{errors}"),
        ("resident memory", f"{early:.2f} MB in the second fifth of the time, {late:.2f} MB in the last; {max(s['memory'] for s in samples):.2f} MB at most"),
        ("descriptors", f"{descriptors[0]} before all clients and {descriptors[1]} after them; {max(s['descriptors'] for s in samples)} at most"),
        ("write-ahead log", f"{max(s['wal'] for s in samples):.2f} MB at most"),
        ("longest response time with the right password", f"{1000 * max(s['longest'] for s in samples):.0f} ms"),
    ]
    bars = [
        ("errors", errors, errors == 0, "0"),
        # SQLite keeps what it closes of a file that it has open twice, for the next time that it opens it.
        ("descriptors after all clients, and before", f"{descriptors[1]} and {descriptors[0]}", descriptors[1] <= descriptors[0] + 2, "2 more"),
        ("longest response time with the right password", f"{max(s['longest'] for s in samples):.2f} s", max(s["longest"] for s in samples) < 1, "1 s"),
    ]
    if minutes >= 10:  # before that, what is to be remembered is not full yet
        bars.append(("memory in the last fifth to that in the second", f"{late / early:.3f}", late <= 1.05 * early, "1.05"))
    return rows, bars


def svg(samples):
    left, width, panel, gap = 70, 820, 120, 46
    span = len(samples)
    x = lambda second: left + second / span * (width - left - 20)
    errors = list(itertools.accumulate(len(sample["errors"]) for sample in samples))
    panels = [
        ("Resident memory, MB", [sample["memory"] for sample in samples], "#1f6f8b"),
        ("Open descriptors", [sample["descriptors"] for sample in samples], "#1f6f8b"),
        ("Errors up to then", errors, "#a33b20"),
        ("Longest wait of a right password in each second, ms", [1000 * sample["longest"] for sample in samples], "#1f6f8b"),
    ]
    height = 40 + len(panels) * (panel + gap) + 20
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
           'font-family="sans-serif" font-size="12" role="img" aria-labelledby="t">',
           '<title id="t">Memory, descriptors, errors and the longest wait while one server lives under load</title>',
           f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
           f'<text x="{left}" y="20" fill="#222">Lines: a certificate was exchanged (grey), a backup was made (green). Below: minutes.</text>']
    for n, (title, values, colour) in enumerate(panels):
        top = 50 + n * (panel + gap)
        bottom = top + panel
        most = max(max(values) * 1.1, 1)
        out.append(f'<text x="{left}" y="{top - 6}" font-size="13" fill="#222">{title}</text>')
        for mark, shade in (("swap", "#d5dadd"), ("backup", "#7aa874")):
            for sample in samples:
                if sample[mark]:
                    at = x(sample["second"])
                    out.append(f'<line x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{bottom}" stroke="{shade}"/>')
        out.append(f'<path d="M{left} {top}V{bottom}H{width - 20}" fill="none" stroke="#888"/>')
        for share in (0, 0.5, 1):
            value = most * share
            shown = f"{value:.0f}" if most >= 10 else f"{value:.1f}"
            out.append(f'<text x="{left - 8}" y="{bottom - share * panel + 4:.1f}" text-anchor="end" fill="#555">{shown}</text>')
        points = " ".join(f"{x(s['second']):.1f},{bottom - value / most * panel:.1f}" for s, value in zip(samples, values))
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
        for minute in range(0, span // 60 + 1, max(1, span // 600)):
            out.append(f'<text x="{x(minute * 60):.1f}" y="{bottom + 15}" text-anchor="middle" fill="#555">{minute}</text>')
    out.append("</svg>")
    return "\n".join(out) + "\n"


def write(rows, samples):
    page = ROOT / "docs/operations.md"
    text = page.read_text()
    marks = "<!-- benches/soak.py -->", "<!-- / -->"
    before, _, rest = text.partition(marks[0])
    _, _, after = rest.partition(marks[1])
    table = "\n".join(["| measure | result |", "| --- | --- |"] + [f"| {what} | {seen} |" for what, seen in rows])
    page.write_text(f"{before}{marks[0]}\n{table}\n{marks[1]}{after}")
    (ROOT / "docs/soak.svg").write_text(svg(samples))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="duration of the test; default: 20")
    parser.add_argument("--swap-every", type=int, default=60, metavar="SECONDS", help="default: 60")
    parser.add_argument("--backup-every", type=int, default=300, metavar="SECONDS", help="default: 300")
    parser.add_argument("--write", action="store_true", help="the figures into docs/operations.md and docs/soak.svg")
    options = parser.parse_args()
    if not shutil.which("openssl"):
        raise SystemExit("openssl is missing: apt-get install openssl")
    if not TOOL.exists():
        raise SystemExit(f"{TOOL} is missing: cargo build --release")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="resttool-soak-") as folder:
        samples, descriptors, changes = live(pathlib.Path(folder), options)
    rows, bars = summary(samples, descriptors, changes)
    for what, seen in rows:
        print(f"{what}: {seen}")
    for what in sorted({error for sample in samples for error in sample["errors"]})[:10]:
        print(f"error: {what}")
    for what, value, holds, bar in bars:
        print(f"{'holds' if holds else 'FAILS'}  {what}: {value} (bar: {bar})")
    if options.write:
        write(rows, samples)
    if not all(holds for _, _, holds, _ in bars):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
