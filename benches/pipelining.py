#!/usr/bin/env python3
"""Measures the cost of pipelining clients for other clients, and checks the bars.

The server gets one core, so that all connections share one thread. wrk and this script get the other cores.
Latencies are compared with processor time of the same run, since machines differ. The script needs Python 3.9
or later, wrk, two cores and a release build.

    benches/pipelining.py                    both parts
    benches/pipelining.py --only memory      a part: latency or memory
"""

import argparse
import contextlib
import math
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

TOOL = pathlib.Path(__file__).resolve().parent.parent / "target/release/resttool"
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
# 200 bytes, with the longest response that there is.
LONG_REQUEST = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\nX-Padding: ".ljust(196, b"x") + b"\r\n\r\n"
FIRST_CORE, *OTHER_CORES = sorted(os.sched_getaffinity(0))
CONNECTIONS = 64
CROWD = 2000


class Server:
    """resttool on the first core."""

    def __init__(self, folder):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        command = [TOOL, "serve", "--port", str(self.port), "--log-level", "off"]
        # The server creates a store at the default location only.
        env = {**os.environ, "XDG_DATA_HOME": str(folder)}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=env,
                                        preexec_fn=lambda: os.sched_setaffinity(0, [FIRST_CORE]))
        end = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError):
                self.connect().close()
                break
            if time.monotonic() > end or self.process.poll() is not None:
                self.stop()
                raise SystemExit("the server does not answer")
            time.sleep(0.05)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def ask(self, count=1):
        with self.connect() as s:
            for _ in range(count):
                s.sendall(REQUEST)
                if not s.recv(4096).startswith(b"HTTP/1.1 200"):
                    raise SystemExit("the server refuses a request")

    def request_threads(self):
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum((task / "comm").read_text().startswith("actix-rt") for task in tasks)

    def processor_time(self):
        """Milliseconds of the processor that the server took so far."""
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1e3 / os.sysconf("SC_CLK_TCK")

    def resident(self):
        """Kilobytes of resident memory."""
        pages = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e3

    def stop(self):
        self.process.terminate()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def latencies(server, seconds):
    """How long another client waits for each of its responses, sorted, in milliseconds."""
    seen = []
    with server.connect() as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.monotonic()
            s.sendall(REQUEST)
            s.recv(4096)
            seen.append((time.monotonic() - start) * 1e3)
    return sorted(seen)


def beside_pipelining(server, script, options):
    """The latencies of another client, and the server's processor time for a request, both in milliseconds."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{options.seconds + 1}s", "-s", script,
               f"http://127.0.0.1:{server.port}/healthz"]
    before = server.processor_time()
    # At the lowest priority: the client that is measured must not wait for the processor behind the load.
    load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setscheduler(
        0, os.SCHED_IDLE, os.sched_param(0)))
    time.sleep(0.5)
    seen = latencies(server, options.seconds)
    report, _ = load.communicate()
    served = len(seen) + int(re.search(r"(\d+) requests in", report)[1])
    return seen, (server.processor_time() - before) / served


def measure_latency(folder, options):
    """Compares the wait with a turn: one request of each connection.

    Beside clients that wait for each response, the wait depends on how fast these are, so on the machine.
    """
    pipelining = folder / "pipelining.lua"
    pipelining.write_text(
        "init = function() local all = {} "
        "for n = 1, 64 do all[n] = wrk.format('GET', '/healthz') end requests = table.concat(all) end "
        "request = function() return requests end")
    with Server(folder) as server:
        server.ask()
        # One for requests, and one for the control socket.
        if server.request_threads() > 2:
            raise SystemExit("the server has more than one thread for requests")
        rounds = []
        for _ in range(options.rounds):
            seen, each = beside_pipelining(server, pipelining, options)
            turn = CONNECTIONS * each
            rounds.append((turn, seen[len(seen) // 2], seen[len(seen) * 99 // 100], seen[len(seen) // 2] / turn))
    turn, p50, p99, ratio = (statistics.median(values) for values in zip(*rounds))
    print(f"a request of each of {CONNECTIONS} connections (a turn): {turn:.2f} ms of processor time")
    print(f"latency of another client: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    return bar("p50 of another client, in turns", ratio, 1.5, "x")


def crowd(server, options, reads):
    """Kilobytes that each connection costs at most, while it sends requests without waiting."""
    before, most = server.resident(), 0
    batch = LONG_REQUEST * 100
    connections = [server.connect() for _ in range(CROWD)]
    for s in connections:
        s.setblocking(False)
    end = time.monotonic() + options.seconds + 1
    while time.monotonic() < end:
        for s in connections:
            # A connection that gets nowhere is ended by the server.
            with contextlib.suppress(BlockingIOError, ConnectionError):
                s.send(batch)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                if reads:
                    s.recv(1 << 18)
        most = max(most, server.resident())
    for s in connections:
        s.close()
    return (most - before) / CROWD


def measure_memory(folder, options):
    held = True
    for what, reads in (("reads", True), ("never reads", False)):
        with Server(folder) as server:
            server.ask()
            before = server.resident()
            each = crowd(server, options, reads)
            held &= bar(f"memory of a connection that pipelines and {what}", each, 24, " KB")
            kept = math.inf
            end = time.monotonic() + 15
            while kept > 0.2 * each and time.monotonic() < end:
                time.sleep(0.5)
                kept = (server.resident() - before) / CROWD
            held &= bar("memory kept after they have left, for each", kept, 0.2 * each, " KB")
    return held


def bar(what, value, most, unit):
    held = value <= most
    print(f"{what}: {value:.2f}{unit} (bar: {most:.3g}{unit}){'' if held else ' MISSED'}")
    return held


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["latency", "memory"])
    parser.add_argument("--rounds", type=int, default=5, help="loads (default: 5)")
    parser.add_argument("--seconds", type=int, default=3, help="length of a load (default: 3)")
    options = parser.parse_args()
    os.sched_setaffinity(0, OTHER_CORES)
    parts = {"latency": measure_latency, "memory": measure_memory}
    held = True
    with tempfile.TemporaryDirectory() as folder:
        for name, part in parts.items():
            if options.only in (None, name):
                held &= part(pathlib.Path(folder), options)
    sys.exit(not held)


if __name__ == "__main__":
    main()
