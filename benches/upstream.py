#!/usr/bin/env python3
"""Measures `serve --upstream` against nginx as a proxy without authentication, and checks the bars.

Both pass requests to the same nginx, which answers with 1 KiB, and take turns. With auth_request, nginx asks resttool
about each request; Caddy checks the password itself, where it is installed. The script needs Python 3.9 or later, wrk,
curl, nginx and a release build, and stops all processes that it has started. If a figure misses its bar, the exit code
is 1.

    cargo build --release
    benches/upstream.py                       all parts
    benches/upstream.py --only transfer       a part: requests, transfer, sockets, revoke or flood
"""

import argparse
import contextlib
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import compare
from compare import Bars, CORES, NO_LIMITS, PASSWORD, RIGHT, Server, TOOL, free_port

PARTS = "requests", "transfer", "sockets", "revoke", "flood"
SIZE = 2_000_000_000
SOCKETS = 1000
HANDSHAKE = ("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
             f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: {RIGHT}\r\n\r\n")
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def nginx(folder, name, locations, http=""):
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if not program:
        raise SystemExit("nginx is missing: apt-get install nginx-light")
    home, port = pathlib.Path(tempfile.mkdtemp(dir=folder)), free_port()
    temp = "".join(f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (home / "conf").write_text(f"""
        {"user root;" if os.geteuid() == 0 else ""} worker_processes {CORES}; pid {home}/pid; daemon off;
        error_log {home}/error.log; events {{ worker_connections 4096; }}
        http {{
            access_log off; sendfile on; keepalive_requests 100000000; client_max_body_size 0; {temp} {http}
            server {{ listen 127.0.0.1:{port}; location = /free {{ return 200; }} {locations} }}
        }}""")
    command = [program, "-c", home / "conf", "-e", home / "error.log"]
    return Server(name, "", list(map(str, command)), port, "/", "/free")


def api(folder):
    """The API: 1 KiB, and a large file."""
    (folder / "files").mkdir()
    with open(folder / "files/large", "wb") as large:
        large.truncate(SIZE)
    return nginx(folder, "api", f'location / {{ return 200 "{"x" * 1024}"; }} '
                 f"location /files/ {{ alias {folder}/files/; }}")


def proxy(folder, port):
    return nginx(folder, "nginx", PASS, upstream(port))


def upstream(port):
    return f"upstream api {{ server 127.0.0.1:{port}; keepalive 64; keepalive_requests 100000000; }}"


PASS = """location / {
    proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $remote_addr;
}"""


def with_auth_request(folder, port, gate):
    """nginx that asks resttool about each request."""
    return nginx(folder, "nginx with auth_request", PASS.replace("{", "{ auth_request /auth;", 1) + f"""
        location = /auth {{
            internal; proxy_pass http://gate; proxy_pass_request_body off; proxy_set_header Content-Length "";
            proxy_http_version 1.1; proxy_set_header Connection "";
        }}""", f"{upstream(port)} upstream gate {{ server 127.0.0.1:{gate}; keepalive 64; }}")


def database(folder):
    path = folder / "store/users.db"
    if not path.exists():
        path.parent.mkdir(mode=0o700)
        cheap = compare.run(TOOL, "hash", "--password-stdin", "--cost", "4", stdin=PASSWORD).strip()
        for user in ("roy", "ann"):
            compare.run(TOOL, "useradd", user, "--hash-stdin", "--database", path, stdin=cheap)
    return path


def gate(folder, port, *options, limits=NO_LIMITS):
    """resttool in front of the API, or without one."""
    own, operators = free_port(), free_port()
    command = [TOOL, "serve", "--port", own, "--database", database(folder), "--log-level", "off", "--ops-listen",
               f"127.0.0.1:{operators}", *limits, *options]
    command += ["--upstream", f"http://127.0.0.1:{port}"] if port else []
    server = Server("resttool", "", list(map(str, command)), operators, "/", "/healthz")
    server.port = own
    return server


@contextlib.contextmanager
def caddy(folder, port):
    program = shutil.which("caddy")
    if not program:
        yield None
        return
    own = free_port()
    cheap = compare.run(TOOL, "hash", "--password-stdin", "--cost", "4", stdin=PASSWORD).strip()
    (folder / "Caddyfile").write_text(f"""{{
        admin off
        auto_https off
        storage file_system {folder}/caddy
    }}
    http://127.0.0.1:{own} {{
        @api not path /free
        basic_auth @api {{
            roy {cheap}
        }}
        respond /free 200
        reverse_proxy 127.0.0.1:{port}
    }}""")
    with Server("Caddy", "", [program, "run", "--config", str(folder / "Caddyfile")], own, "/", "/free") as server:
        yield server


def load(server, connections, seconds=1):
    """Requests per second, microseconds of processor time of each, and the median latency in microseconds."""
    before = server.cpu()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-H", f"Authorization: {RIGHT}",
               f"http://127.0.0.1:{server.port}/"]
    out = compare.run(*command)
    spent = server.cpu() - before
    requests = int(re.search(r"(\d+) requests in", out).group(1))
    if "Non-2xx" in out or "Socket errors" in out or not requests:
        raise SystemExit(f"{server.name}: {out}")
    value, unit = re.search(r"50%\s+([\d.]+)(us|ms)", out).groups()
    median = float(value) * (1000 if unit == "ms" else 1)
    return float(re.search(r"Requests/sec:\s+(\S+)", out).group(1)), spent / requests * 1e6, median


def measure_requests(bars, folder, options):
    counts = 1, 16, 64
    seen = {}
    with api(folder) as files, gate(folder, None) as asked:
        for n in range(options.rounds):
            # Two starts of the same server differ by up to 9 %, so each round has new processes.
            with contextlib.ExitStack() as stack:
                servers = [proxy(folder, files.port), gate(folder, files.port),
                           with_auth_request(folder, files.port, asked.port), caddy(folder, files.port)]
                servers = [server for server in map(stack.enter_context, servers) if server]
                for server in servers:
                    load(server, 16)
                for connections in counts:
                    for server in servers[n % len(servers):] + servers[:n % len(servers)]:
                        seen.setdefault((connections, server.name), []).append(load(server, connections))
    names = list(dict.fromkeys(name for _, name in seen))
    for connections in counts:
        base = seen[connections, "nginx"]
        for name in names:
            rate, cpu, latency = map(statistics.median, zip(*seen[connections, name]))
            ratios = [[one[k] / other[k] for one, other in zip(seen[connections, name], base)] for k in range(3)]
            rates, cpus, latencies = map(statistics.median, ratios)
            print(f"{connections:3} connections, {name}: {rate:,.0f} requests a second ({rates:.2f} x nginx), "
                  f"{cpu:.1f} us of processor time ({cpus:.2f} x), p50 {latency:.0f} us ({latencies:.2f} x)", flush=True)
            if name != "resttool":
                continue
            if connections == 1:
                bars.show("latency at one connection, p50, to nginx's", f"{latencies:.2f}", latencies <= 1.3, "1.3")
            else:
                what = f"with {connections} connections, to nginx without authentication"
                bars.show(f"requests a second {what}", f"{rates:.2f}", rates >= 0.85, "0.85")
                bars.show(f"processor time of a request {what}", f"{cpus:.2f}", cpus <= 1.25, "1.25")


class Sink:
    """An API that reads an upload to its end before it answers. nginx would answer at once."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            threading.Thread(target=self.serve, args=self.listener.accept()[:1], daemon=True).start()

    def serve(self, connection):
        space = memoryview(bytearray(1 << 20))
        with connection, contextlib.suppress(OSError):
            while head := connection.recv_into(space):
                text = bytes(space[:head])
                while b"\r\n\r\n" not in text:
                    text += connection.recv(4096)
                fields, _, begun = text.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", fields)
                left = int(length.group(1)) - len(begun) if length else 0
                while left > 0:
                    left -= connection.recv_into(space, min(left, len(space)))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def measure_transfer(bars, folder, options):
    with api(folder) as files, contextlib.ExitStack() as stack:
        for what, bar, port in (("download", 0.9, files.port), ("upload", 1.5, Sink().port)):
            theirs, ours = stack.enter_context(proxy(folder, port)), stack.enter_context(gate(folder, port))
            load(ours, 1)
            before, most, seen = ours.resident(), 0, []
            for n in range(5):
                rates = {}
                for server in ((theirs, ours) if n % 2 else (ours, theirs)):
                    url = f"http://127.0.0.1:{server.port}/files/large"
                    there = ["-T", folder / "files/large", "-H", "Expect:", f"http://127.0.0.1:{server.port}/put"]
                    arguments = [url] if what == "download" else there
                    key = f"speed_{what}"
                    out = compare.run("curl", "-sSf", "-H", f"Authorization: {RIGHT}", "-o", "/dev/null", "-w",
                                      f"%{{{key}}}", *map(str, arguments))
                    rates[server.name] = float(out) / 1e6
                    most = max(most, ours.resident())
                print(f"{what}: {rates['resttool']:,.0f} MB/s, nginx {rates['nginx']:,.0f} MB/s", flush=True)
                seen.append(rates["resttool"] / rates["nginx"])
            ratio = statistics.median(seen)
            bars.show(f"{what} of {SIZE / 1e9:g} GB, throughput to nginx's", f"{ratio:.2f}", ratio >= bar, f"{bar}")
            bars.show("growth of memory meanwhile", f"{most - before:.1f} MB", most - before < 8, "8 MB")


class Sockets:
    """An API that accepts WebSockets and says nothing."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]
        self.open = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                head = b""
                while not head.endswith(b"\r\n\r\n") and (piece := connection.recv(4096)):
                    head += piece
                connection.sendall(SWITCHED)
                self.open.append(connection)


def open_sockets(server):
    clients = []
    for _ in range(SOCKETS):
        client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        client.sendall(HANDSHAKE.encode())
        if not client.recv(4096).startswith(b"HTTP/1.1 101"):
            raise SystemExit("a WebSocket was refused")
        clients.append(client)
    return clients


def measure_sockets(bars, folder, options):
    sockets = Sockets()
    with gate(folder, sockets.port) as ours:
        open_sockets(ours)[0].close()
        time.sleep(3)
        before = ours.resident()
        clients = open_sockets(ours)
        each = (ours.resident() - before) * 1e3 / SOCKETS
        bars.show(f"memory of each of {SOCKETS} open WebSockets", f"{each:.1f} KB", each < 40, "40 KB")
        for client in clients:
            client.close()


def measure_revoke(bars, folder, options):
    sockets = Sockets()
    with gate(folder, sockets.port) as ours:
        clients = open_sockets(ours)
        compare.run(TOOL, "userdel", "roy", "--database", database(folder))
        returned, last = time.monotonic(), 0
        for client in clients:
            with contextlib.suppress(ConnectionError):
                if client.recv(1):
                    raise SystemExit("a removed user got something")
            last = time.monotonic() - returned
        bars.show(f"{SOCKETS} of {SOCKETS} open WebSockets closed after userdel", f"{last:.2f} s", last <= 1, "1 s")


def measure_flood(bars, folder, options):
    """The p99 of a verified user beside 32 connections without credentials, and beside 32 that guess passwords."""
    different = compare.Different(folder)
    from_elsewhere = {"X-Forwarded-For": "192.0.2.1"}
    knock, one, many = [], [], []
    with api(folder) as backend:
        for _ in range(3):
            with gate(folder, backend.port, "--trusted-proxy", "127.0.0.1", limits=[]) as ours:
                compare.login_until_let_in(ours, **from_elsewhere)
                for values, script in ((knock, None), (one, different.script("/")),
                                       (many, different.script("/", forwarded=True))):
                    flood = compare.Load(ours, "/", 6, 32, script=script)
                    time.sleep(1)
                    fields = [f"Authorization: {RIGHT}", "X-Forwarded-For: 192.0.2.1"]
                    user = compare.Load(ours, "/", 4, 1, fields=fields).end()
                    if user.errors:
                        raise SystemExit(f"{user.errors} refusals of the verified user")
                    values.append(user.p99)
                    flood.end()
                    compare.drain(ours)
    knock, one, many = map(statistics.median, (knock, one, many))
    print(f"p99 of a verified user beside 32 connections without credentials: {knock:.2f} ms", flush=True)
    most = max(2, 2 * knock)
    bars.show("p99 while they guess from one source", f"{one:.2f} ms", one <= most, f"{most:.2f} ms")
    bars.show("p99 while they guess from many sources", f"{many:.2f} ms", many <= most, f"{most:.2f} ms")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--only", choices=PARTS, help="measure one part")
parser.add_argument("--rounds", type=int, default=15, help="of requests; default: 15")
options = parser.parse_args()
bars = Bars()
for part, measure in zip(PARTS, (measure_requests, measure_transfer, measure_sockets, measure_revoke, measure_flood)):
    if options.only in (None, part):
        with tempfile.TemporaryDirectory(prefix="resttool-upstream-") as folder:
            measure(bars, pathlib.Path(folder), options)
sys.exit(not bars.held)
