#!/usr/bin/env python3
"""Restarts a server under load, with a socket that a service manager keeps open, and counts failed connections.

wrk opens a new connection for each request, and the server is stopped and started anew all the time. Before that,
`resttool health` is timed, from the start of its process to the end. The script needs Python 3.9 or later, wrk, bash
and a release build, and stops all processes that it has started. If a connection fails, or a bar does not hold, the
exit code is 1.

    cargo build --release
    benches/restart.py
"""

import argparse
import os
import pathlib
import re
import shlex
import socket
import statistics
import subprocess
import tempfile
import time

import compare
from compare import Bars, NO_LIMITS, PASSWORD, RIGHT, TOOL


def start(folder, listener):
    """Starts a server as systemd does: with the socket as descriptor 3. Returns it when it is ready."""
    serve = shlex.join(map(str, [TOOL, "serve", "--database", folder / "users.db", "--log-level", "info", *NO_LIMITS]))
    script = f"exec 3<&{listener.fileno()}; export LISTEN_FDS=1 LISTEN_PID=$$; exec {serve}"
    log = open(folder / "log", "w+")
    process = subprocess.Popen(["bash", "-c", script], pass_fds=[listener.fileno()], stderr=log)
    while "listening on" not in (folder / "log").read_text():
        if process.poll() is not None:
            raise SystemExit("the server has ended: " + (folder / "log").read_text())
        time.sleep(0.005)
    return process


def stop(process):
    process.terminate()
    if process.wait():
        raise SystemExit(f"the server ended with {process.returncode}")


def health(url):
    """Returns the median time of `resttool health`, in milliseconds."""
    times = []
    for _ in range(51):
        begun = time.perf_counter()
        subprocess.run([TOOL, "health", url], check=True, stdout=subprocess.DEVNULL)
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=100_000, help="to open; default: 100,000")
    options = parser.parse_args()
    served, failed, restarts = 0, 0, 0
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        folder = pathlib.Path(folder)
        hashed = compare.run(TOOL, "hash", "--password-stdin", "--cost", "4", stdin=PASSWORD).strip()
        compare.run(TOOL, "useradd", "roy", "--hash-stdin", "--database", folder / "users.db", stdin=hashed)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/rest-auth"
        process = start(folder, listener)
        try:
            asked = health(url.replace("/rest-auth", "/readyz"))
            while served < options.connections:
                load = subprocess.Popen(["wrk", "-t1", "-c16", "-d5s", "--timeout", "30s", "-H", f"Authorization: {RIGHT}",
                                         "-H", "Connection: close", url], stdout=subprocess.PIPE, text=True)
                while load.poll() is None:
                    time.sleep(0.2)
                    stop(process)
                    process = start(folder, listener)
                    restarts += 1
                out = load.stdout.read()
                served += int(re.search(r"(\d+) requests in", out)[1])
                errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
                failed += sum(map(int, errors.groups())) if errors else 0
                refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
                failed += int(refused[1]) if refused else 0
        finally:
            process.kill()
            process.wait()
    bars = Bars()
    bars.show("health, ms", f"{asked:.1f}", asked < 10, 10)
    bars.show(f"failed connections of {served:,} in {restarts} restarts", failed, failed == 0, 0)
    raise SystemExit(0 if bars.held else 1)


if __name__ == "__main__":
    main()
