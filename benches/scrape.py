#!/usr/bin/env python3
"""Measures scrapes of the metrics, and what they and the figures cost requests.

    cargo build --release
    npm install puppeteer-core && export NODE_PATH=$PWD/node_modules
    benches/scrape.py [--parent PATH]    PATH is a release build of the parent commit

The cache holds 65,536 verified passwords. Scrapes are timed while wrk sends about half of the requests that the server
answers at most. The 99th percentile of requests is compared with and without a scrape a second, by turns. The
first paint of the status page is measured in Chromium. With --parent, so is the processor time of a request with that
build. If a figure misses its bar, the exit code is 1. The
script needs Python 3.9 or later, wrk, Chromium and Node.js, and stops all processes that it has started."""

import argparse
import base64
import contextlib
import http.client
import json
import pathlib
import sqlite3
import statistics
import sys
import tempfile
import threading
import time

import compare
from compare import Bars, Load, NO_LIMITS, PASSWORD, RIGHT, Server, free_port

ENTRIES = 65_536
PAIRS = 15
# Of p99, which differs more from run to run.
TAIL_PAIRS = 30


def basic(user):
    return "Basic " + base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()


def start(tool, database, *options):
    port = free_port()
    command = [tool, "serve", "--port", port, "--database", database, "--cost", "4", *NO_LIMITS, *options]
    return Server("resttool", "", list(map(str, command)), port, "/rest-auth", "/healthz",
                  log=database.parent / f"resttool-{port}.log")


def add_users(tool, database, users):
    cheap = compare.run(tool, "hash", "--password-stdin", "--cost", "4", stdin=PASSWORD).strip()
    compare.run(tool, "useradd", "roy", "--hash-stdin", "--database", database, stdin=cheap)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = ((f"user-{n}", cheap) for n in range(users - 1))
        connection.executemany("INSERT INTO users (name, hash) VALUES (?, ?)", rows)
        connection.commit()


def log_in_all(server):
    def some(first):
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        with contextlib.closing(client):
            for n in range(first, ENTRIES - 1, 8):
                client.request("GET", "/rest-auth", headers={"Authorization": basic(f"user-{n}")})
                answer = client.getresponse()
                answer.read()
                if answer.status != 200:
                    raise SystemExit("a user is not let in")

    threads = [threading.Thread(target=some, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    compare.login_until_let_in(server)


class Operators:
    """The listener for operators."""

    def __init__(self, port):
        self.port = port

    def scrape(self):
        """The metrics, and the milliseconds that they took, on a connection of their own."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(client):
            start = time.perf_counter()
            client.request("GET", "/metrics")
            answer = client.getresponse()
            text = answer.read().decode()
            took = (time.perf_counter() - start) * 1000
        if answer.status != 200:
            raise SystemExit(f"a scrape got {answer.status}")
        return text, took


def load(server, seconds, connections, script=None):
    fields = [f"Authorization: {RIGHT}"]
    return Load(server, "/rest-auth", seconds, connections=connections, fields=fields, script=script)


# Each connection waits between its requests, since a load that leaves no processor time is one of the machine.
PAUSE = "function delay() return 2 end\n"


def measure_scrapes(bars, folder):
    database, port = folder / "users.db", free_port()
    add_users(compare.TOOL, database, ENTRIES)
    with start(compare.TOOL, database, "--ops-listen", f"127.0.0.1:{port}") as server:
        log_in_all(server)
        operators = Operators(port)
        entries = next(line for line in operators.scrape()[0].splitlines() if line.startswith("resttool_cache_entries"))
        top = load(server, 4, 16).end().rate
        pause = folder / "pause.lua"
        pause.write_text(PAUSE)
        rates = {some: load(server, 2, some, pause).end().rate for some in (16, 32, 48, 64, 96, 128)}
        half = min(rates, key=lambda connections: abs(rates[connections] - top / 2))
        print("requests a second by connections:", {one: round(rate) for one, rate in rates.items()})
        print(f"{entries}; at most {top:,.0f} requests a second, {rates[half]:,.0f} over {half} connections", flush=True)
        running = load(server, 10, half, pause)
        times = []
        while running.process.poll() is None:
            times.append(operators.scrape()[1])
            time.sleep(0.05)
        running.end()
        took = statistics.median(times)
        print(f"{len(times)} scrapes, the slowest took {max(times):.2f} ms")
        bars.show("a scrape at half of the load", f"{took:.2f} ms", took < 2, "2 ms")
        page = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        page.request("GET", "/status")
        size = len(page.getresponse().read())
        bars.show("the status page", f"{size / 1000:.1f} kB", size < 50_000, "50 kB")
        browse = pathlib.Path(__file__).parent.parent / "tests/browser/status.js"
        seen = json.loads(compare.run("node", browse, f"http://127.0.0.1:{port}/status"))
        paint = statistics.median(seen["paints"])
        bars.show("first paint of the status page", f"{paint:.0f} ms", paint < 100, "100 ms")
        pairs = []
        for n in range(TAIL_PAIRS):
            p99 = {}
            for scraped in (True, False) if n % 2 else (False, True):
                running = load(server, 3, half, pause)
                for _ in range(3):
                    time.sleep(0.9)
                    if scraped:
                        operators.scrape()
                p99[scraped] = running.end().p99
            pairs.append((p99[True], p99[False]))
        ratio = statistics.median(one / other for one, other in pairs)
        print("p99 in ms, with and without:", ", ".join(f"{one:.2f}/{other:.2f}" for one, other in pairs))
        bars.show("p99 beside a scrape a second to that without", f"{ratio:.3f}", ratio <= 1.05, "1.05")


def measure_requests(bars, folder, parent):
    databases = {}
    for tool in (parent, compare.TOOL):
        databases[tool] = folder / f"{len(databases)}.db"
        add_users(tool, databases[tool], 1)
    ratios = []
    for n in range(PAIRS):
        ops = ["--ops-listen", f"127.0.0.1:{free_port()}"]
        # Two starts of the same program differ by up to 9 %, so each pair has new processes.
        with start(parent, databases[parent]) as theirs, start(compare.TOOL, databases[compare.TOOL], *ops) as ours:
            for server in (theirs, ours):
                compare.login_until_let_in(server)
            time_of = dict.fromkeys((theirs, ours), 0)
            for server in (theirs, ours, ours, theirs) if n % 2 else (ours, theirs, theirs, ours):
                done = load(server, 1, 16).end()
                time_of[server] += done.cpu / done.requests
        ratios.append(time_of[ours] / time_of[theirs])
    ratio = statistics.median(ratios)
    bars.show("processor time of a request to the parent's", f"{ratio:.3f}", ratio <= 1.02, "1.02")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--parent", type=pathlib.Path, help="a release build of the parent commit")
options = parser.parse_args()
bars = Bars()
with tempfile.TemporaryDirectory(prefix="resttool-scrape-") as folder:
    measure_scrapes(bars, pathlib.Path(folder))
if options.parent:
    with tempfile.TemporaryDirectory(prefix="resttool-scrape-") as folder:
        measure_requests(bars, pathlib.Path(folder), options.parent)
sys.exit(not bars.held)
