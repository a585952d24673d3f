#!/usr/bin/env python3
"""Measures logins after a restart, and lone ones, against an older build.

    cargo build --release
    benches/storm.py --parent PATH    PATH is a release build of the parent commit

Storm: many users log in once each, from an address each, over 16 connections. A refused client waits as Retry-After
says. Lone: the processor time of one refused login while nothing else happens, by turns with the older build. If a
figure misses its bar, the exit code is 1. The script needs Python 3.9 or later, and stops all processes that it has
started."""

import argparse
import base64
import collections
import contextlib
import http.client
import pathlib
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import compare
from compare import Bars, NO_LIMITS, Server, free_port

CONNECTIONS = 16
PAIRS = 15
CORES = compare.CORES


def start(tool, folder, cost, *options):
    port = free_port()
    command = [tool, "serve", "--port", port, "--database", folder / "users.db", "--cost", cost,
               "--trusted-proxy", "127.0.0.1", *options]
    return Server("resttool", "", list(map(str, command)), port, "/rest-auth", "/healthz",
                  log=folder / f"resttool-{port}.log")


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# Storm

def add_users(folder, users, cost):
    """Makes a store for each build, with the same users. The older build may not know the newer schema."""
    folders = {}
    for tool in (options.parent, compare.TOOL):
        folders[tool] = folder / f"store-{len(folders)}"
        folders[tool].mkdir(mode=0o700)
    lines = "".join(f"user-{n}:open-sesame-{n}\n" for n in range(users))
    first, second = (folder / "users.db" for folder in folders.values())
    subprocess.run([options.parent, "chpasswd", "--create", "--cost", str(cost), "--quiet", "--database", first],
                   input=lines.encode(), check=True)
    subprocess.run([options.parent, "backup", "--quiet", second, "--database", first], check=True)
    return folders


def storm(server, users):
    """Seconds until all users are in, the refusals of each user, and the slowest login in seconds."""
    waiting = queue.SimpleQueue()
    for n in range(users):
        waiting.put(n)
    refusals, slowest, failed = collections.Counter(), [], []

    def connection():
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        with contextlib.closing(client), contextlib.suppress(queue.Empty):
            while True:
                n = waiting.get_nowait()
                begun = time.monotonic()
                fields = {"Authorization": basic(f"user-{n}", f"open-sesame-{n}"),
                          "X-Forwarded-For": f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"}
                while True:
                    client.request("GET", "/rest-auth", headers=fields)
                    answer = client.getresponse()
                    answer.read()
                    if answer.status not in (429, 503):
                        break
                    refusals[n] += 1
                    time.sleep(int(answer.headers["Retry-After"]))
                if answer.status != 200:
                    failed.append(answer.status)
                slowest.append(time.monotonic() - begun)

    threads = [threading.Thread(target=connection) for _ in range(CONNECTIONS)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - begun
    if failed or len(slowest) != users:
        raise SystemExit(f"{len(failed)} of {users} logins were refused: {sorted(set(failed))}")
    return took, max(refusals.values(), default=0), max(slowest)


def measure_storm(bars, folder, options):
    folders = add_users(folder, options.users, options.cost)
    ratios, most = [], 0
    for _ in range(options.rounds):
        took = {}
        for tool in (options.parent, compare.TOOL):
            with start(tool, folders[tool], options.cost) as server:
                took[tool], refused, slowest = storm(server, options.users)
            print(f"{options.users} users are in after {took[tool]:.1f} s, the slowest login took {slowest:.2f} s, "
                  f"at most {refused} refusals of one user: {tool}", flush=True)
            most = max(most, refused if tool == compare.TOOL else 0)
        ratios.append(took[compare.TOOL] / took[options.parent])
    ratio = statistics.median(ratios)
    bars.show(f"time until {options.users} users are in, to the parent's", f"{ratio:.3f}", ratio <= 0.5, "0.5")
    bars.show("refusals of one user at most", most, most <= 3, "3")


# Lone logins

def processor_time(server):
    """Nanoseconds that all threads of a server ran (/proc/PID/task/TID/schedstat)."""
    total = 0
    for process, _ in server.members():
        for task in pathlib.Path(f"/proc/{process}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total


def lone(server, n):
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(client):
        before = processor_time(server)
        client.request("GET", "/rest-auth", headers={"Authorization": basic("user-0", f"wrong-{n}")})
        answer = client.getresponse()
        answer.read()
        if answer.status != 401:
            raise SystemExit(f"a wrong password got {answer.status}")
        return processor_time(server) - before


def measure_lone(bars, folder):
    folders = add_users(folder, 1, 12)
    with (start(options.parent, folders[options.parent], 12, *NO_LIMITS) as parent,
          start(compare.TOOL, folders[compare.TOOL], 12, *NO_LIMITS) as ours):
        ratios, times = [], []
        for n in range(PAIRS):
            pair = {}
            for server in (parent, ours) if n % 2 else (ours, parent):
                pair[server] = lone(server, n)
            times.append(pair[ours] / 1e6)
            ratios.append(pair[ours] / pair[parent])
    ratio = statistics.median(ratios)
    print(f"a lone refused login takes {statistics.median(times):.0f} ms of processor time")
    bars.show("processor time of a lone login, to the parent's", f"{ratio:.3f}", ratio <= 1.03, "1.03")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--parent", type=pathlib.Path, required=True, help="a release build of the parent commit")
parser.add_argument("--rounds", type=int, default=3, help="of the storm; default: 3")
parser.add_argument("--users", type=int, default=2000, help="of the storm; default: 2000")
parser.add_argument("--cost", type=int, default=10, help="of their hashes; default: 10")
parser.add_argument("--only", choices=("storm", "lone"), action="append", help="a part; may be repeated")
options = parser.parse_args()

bars = Bars()
for part, measure in (("lone", lambda folder: measure_lone(bars, folder)),
                      ("storm", lambda folder: measure_storm(bars, folder, options))):
    if part in (options.only or ("storm", "lone")):
        with tempfile.TemporaryDirectory(prefix="resttool-storm-") as folder:
            measure(pathlib.Path(folder))
sys.exit(not bars.held)
