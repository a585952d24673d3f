#!/usr/bin/env python3
"""Compares the cost of connections with nginx: new and resumed ones of many clients over TLS, and plain ones.

Each figure is the median of rounds in which the two servers take turns, with the same certificate (ECDSA P-256) and
the same version of TLS. A connection carries one request: the verified password of a user here, and a static response at nginx. The
script needs Python 3.9 or later, wrk, openssl, nginx and a release build, and stops all processes that it has started.
If a figure misses its bar, the exit code is 1.

    cargo build --release
    benches/tls.py                     all parts
    benches/tls.py --only tls          a part: tls or plain
"""

import argparse
import os
import pathlib
import re
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile

import compare
from compare import Bars, CORES, NO_LIMITS, PASSWORD, RIGHT, Server, TOOL, free_port

PARTS = "tls", "plain"
ROUNDS = 10
SECONDS = 3
# For TLS 1.2 fewer, since they take minutes.
CLIENTS = {"TLS 1.3": 10_000, "TLS 1.2": 3_000}


def certificate(folder):
    files = folder / "cert.pem", folder / "key.pem"
    compare.run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days",
                "90", "-subj", "/CN=localhost", "-keyout", files[1], "-out", files[0])
    files[1].chmod(0o600)
    return files


def resttool(folder, pair, tool):
    database, port, plain = folder / "users.db", free_port(), free_port()
    if not database.exists():
        cheap = compare.run(tool, "hash", "--password-stdin", "--cost", "4", stdin=PASSWORD).strip()
        compare.run(tool, "useradd", "roy", "--hash-stdin", "--database", database, stdin=cheap)
    command = [tool, "serve", "--port", port, "--database", database, "--cost", "4", "--log-level", "off",
               "--ops-listen", f"127.0.0.1:{plain}", *NO_LIMITS]
    if pair:
        command += ["--tls-cert", pair[0], "--tls-key", pair[1]]
    server = Server("resttool", "", list(map(str, command)), plain, "/rest-auth", "/healthz")
    server.listens = port
    return server


def nginx(folder, pair):
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if not program:
        raise SystemExit("nginx is missing: apt-get install nginx-light")
    home, port, plain = pathlib.Path(tempfile.mkdtemp(dir=folder)), free_port(), free_port()
    temp = "".join(f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    tls = f"ssl_certificate {pair[0]}; ssl_certificate_key {pair[1]}; ssl_protocols TLSv1.2 TLSv1.3;" if pair else ""
    body = compare.BODY.strip().replace('"', r'\"')
    (home / "conf").write_text(f"""
        {"user root;" if os.geteuid() == 0 else ""} worker_processes {CORES}; pid {home}/pid; daemon off;
        error_log {home}/error.log; events {{ worker_connections 4096; }}
        http {{
            access_log off; keepalive_requests 100000000; {temp}
            server {{
                listen 127.0.0.1:{port} {"ssl" if pair else ""}; {tls}
                location = /rest-auth {{ default_type application/json; return 200 "{body}"; }}
            }}
            server {{ listen 127.0.0.1:{plain}; location = /free {{ return 200; }} }}
        }}""")
    server = Server("nginx", "", [program, "-c", home / "conf", "-e", home / "error.log"], plain, "/rest-auth", "/free")
    server.listens = port
    return server


def load(server):
    """Connections per second, and microseconds of processor time of each."""
    before = server.cpu()
    command = ["wrk", "-t", CORES, "-c", 16, "-d", f"{SECONDS}s", "--timeout", "30s", "-H", f"Authorization: {RIGHT}",
               "-H", "Connection: close", f"http://127.0.0.1:{server.listens}/rest-auth"]
    out = compare.run(*map(str, command))
    spent = server.cpu() - before
    requests = int(re.search(r"(\d+) requests in", out).group(1))
    if "Non-2xx" in out or not requests:
        raise SystemExit(f"{server.name}: {out}")
    return float(re.search(r"Requests/sec:\s+(\S+)", out).group(1)), spent / requests * 1e6


class Clients:
    """Clients of one version of TLS, which come back with the session of their first connection."""

    def __init__(self, server, version):
        self.server, self.reused, self.sessions = server, 0, []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self.context.minimum_version = self.context.maximum_version = version
        self.request = f"GET /rest-auth HTTP/1.1\r\nHost: a\r\nAuthorization: {RIGHT}\r\nConnection: close\r\n\r\n"

    def connect(self, session=None):
        with socket.create_connection(("127.0.0.1", self.server.listens), timeout=30) as plain:
            with self.context.wrap_socket(plain, session=session) as tls:
                tls.sendall(self.request.encode())
                answer = b""
                while piece := tls.recv(4096):
                    answer += piece
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise SystemExit(f"a client got {answer[:80]}")
                self.reused += tls.session_reused
                return tls.session

    def arrive(self, number):
        """Microseconds of processor time of the server for each new client."""
        before = self.server.cpu()
        self.sessions += [self.connect() for _ in range(number)]
        return (self.server.cpu() - before) / number * 1e6

    def come_back(self, number):
        """The same for each client that resumes its session."""
        before = self.server.cpu()
        for session in self.sessions[:number]:
            self.connect(session)
        del self.sessions[:number]
        return (self.server.cpu() - before) / number * 1e6


def measure_tls(bars, folder, tool):
    pair = certificate(folder)
    for version, name in ((ssl.TLSVersion.TLSv1_3, "TLS 1.3"), (ssl.TLSVersion.TLSv1_2, "TLS 1.2")):
        each = CLIENTS[name] // ROUNDS
        with nginx(folder, pair) as theirs, resttool(folder, pair, tool) as ours:
            theirs, ours = Clients(theirs, version), Clients(ours, version)
            for what, measure in (("new", Clients.arrive), ("resumed", Clients.come_back)):
                seen = []
                for n in range(ROUNDS):
                    order = (theirs, ours) if n % 2 else (ours, theirs)
                    cost = {clients: measure(clients, each) for clients in order}
                    seen.append((cost[ours], cost[theirs]))
                print(f"{name}, {what}: us here/nginx:", ", ".join(f"{one:.0f}/{other:.0f}" for one, other in seen))
                ratio = statistics.median(one / other for one, other in seen)
                bars.show(f"processor time of a {what} connection of {name} to nginx's", f"{ratio:.2f}", ratio <= 1.25,
                          "1.25")
            resumed = ours.reused
            bars.show(f"of {each * ROUNDS} clients of {name} resumed", f"{resumed}", resumed == each * ROUNDS,
                      f"{each * ROUNDS}")


def measure_plain(bars, folder, tool):
    rates = []
    with nginx(folder, None) as theirs, resttool(folder, None, tool) as ours:
        for server in (theirs, ours):
            load(server)
        for n in range(ROUNDS):
            seen = {server.name: load(server) for server in ((theirs, ours) if n % 2 else (ours, theirs))}
            one, other = seen["resttool"], seen["nginx"]
            print(f"{one[0]:,.0f} connections a second, {one[1]:.0f} us each; nginx {other[0]:,.0f}, {other[1]:.0f} us",
                  flush=True)
            rates.append(one[0] / other[0])
    rate = statistics.median(rates)
    bars.show("new plain connections a second to nginx's", f"{rate:.2f}", rate >= 0.95, "0.95")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--only", choices=PARTS, help="measure one part")
parser.add_argument("--tool", type=pathlib.Path, default=TOOL, help="another release build")
options = parser.parse_args()
bars = Bars()
for part, measure in (("tls", measure_tls), ("plain", measure_plain)):
    if options.only in (None, part):
        with tempfile.TemporaryDirectory(prefix="resttool-tls-") as folder:
            measure(bars, pathlib.Path(folder), options.tool)
sys.exit(not bars.held)
