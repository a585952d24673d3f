#!/usr/bin/env python3
"""Compares resttool with nginx, Apache and Caddy on this machine, and checks its bars.

Every installed server gets the same user with the same bcrypt hash. It serves the same bytes at two paths, one
with authentication and one without. wrk is the load generator. Figures are medians of the rounds. Ratios are
taken within one run, since machines differ. The script needs Python 3.9 or later, wrk and a release build, and
stops all processes that it has started.

    benches/compare.py                   the table, and the bars
    benches/compare.py --write           that, and the table into README.md and docs/compare.svg
    benches/compare.py --only table      a part: table, guesses, flood, revoke, users, memory or forward
"""

import argparse
import base64
import contextlib
import copy
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOL = ROOT / "target/release/resttool"
BODY = '"You are authorized to see this message"\n'
PASSWORD = "open-sesame"
RIGHT = "Basic " + base64.b64encode(b"roy:open-sesame").decode()
CORES = len(os.sched_getaffinity(0))
# Short loads with and without authentication, in each round.
PAIRS = 5
# In one second a server that hashes for every request may answer none.
PAIR_SECONDS = 2
# 16 guesses are under way at any time: a window is to hold many times as many.
GUESS_SECONDS = 20
NO_LIMITS = ["--source-failures", "0", "--user-failures", "0"]


# Servers

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server's processes, all in a group of their own. Not in a session of their own, unless `session` says so: the
    kernel may share out the cores by sessions, and then priorities say nothing between a server and its clients."""

    def __init__(self, name, version, command, port, right, free, env=None, log=None, session=False):
        self.name, self.version, self.port = name, version, port
        self.right, self.free = right, free
        self.log = open(log, "wb") if log else subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            env={**os.environ, **(env or {})}, preexec_fn=os.setsid if session else os.setpgrp)
        end = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError):
                if ask(port, free)[0] == 200:
                    break
            if time.monotonic() > end or self.process.poll() is not None:
                self.stop()
                raise SystemExit(f"{name} does not answer")
            time.sleep(0.05)

    def members(self):
        """The processes, as (id, fields of /proc/ID/stat from the third on)."""
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    stat = pathlib.Path(f"/proc/{entry}/stat").read_text()
                    fields = stat.rpartition(")")[2].split()
                    if fields[2] == str(self.process.pid):
                        yield int(entry), fields

    def cpu(self):
        """Seconds of processor time so far, of all processes, user and system."""
        ticks = sum(int(f[11]) + int(f[12]) for _, f in self.members())
        return ticks / os.sysconf("SC_CLK_TCK")

    def resident(self):
        """Megabytes of resident memory."""
        pages = sum(int(f[21]) for _, f in self.members())
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        for process, _ in list(self.members()):
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def ask(port, path, authorization=None, timeout=10, **fields):
    """Status and headers of a GET on a connection of its own."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=fields)
    if authorization:
        request.add_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return reply.status, reply.headers
    except urllib.error.HTTPError as e:
        return e.code, e.headers


def run(*command, stdin=None):
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout


def resttool(folder, *options, database=None, session=False):
    database = database or folder / "users.db"
    port = free_port()
    env = {k: None for k in os.environ if k.startswith("RESTTOOL_")}
    for name in env:
        del os.environ[name]
    command = [TOOL, "serve", "--port", port, "--database", database, *options]
    version = run(TOOL, "--version").split()[1]
    return Server("resttool", version, list(map(str, command)), port, "/rest-auth", "/healthz",
                  log=folder / f"resttool-{port}.log", session=session)


def nginx(folder, line):
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if not program:
        return None
    home, port = folder / "nginx", free_port()
    home.mkdir()
    (home / "users").write_text(line)
    for file in ("rest-auth", "free"):
        (home / file).write_text(BODY)
    temp = "".join(f"{kind}_temp_path {home}/{kind};" for kind in
                   ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    (home / "conf").write_text(f"""
        {user} worker_processes {CORES}; pid {home}/pid; error_log {home}/error.log; daemon off;
        events {{ worker_connections 1024; }}
        http {{
            access_log off; keepalive_requests 100000000; {temp}
            default_type application/json; root {home};
            server {{
                listen 127.0.0.1:{port};
                location = /rest-auth {{ auth_basic "x"; auth_basic_user_file {home}/users; }}
                location = /free {{ }}
            }}
        }}""")
    version = subprocess.run([program, "-v"], capture_output=True, text=True).stderr
    version = re.search(r"nginx/(\S+)", version).group(1)
    return Server("nginx", version, [program, "-c", home / "conf", "-e", home / "error.log"],
                  port, "/rest-auth", "/free")


def apache(folder, line):
    program = shutil.which("apache2") or shutil.which("/usr/sbin/apache2")
    modules = pathlib.Path("/usr/lib/apache2/modules")
    if not program or not modules.is_dir():
        return None
    home, port = folder / "apache", free_port()
    home.mkdir()
    (home / "users").write_text(line)
    for file in ("rest-auth", "free"):
        (home / file).write_text(BODY)
    if os.geteuid() == 0:
        # Its workers give up root.
        folder.chmod(0o711)
        for path in (home, *home.iterdir()):
            path.chmod(0o755)
    load = "\n".join(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in
                     ("mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic"))
    user = "User www-data\nGroup www-data" if os.geteuid() == 0 else ""
    (home / "conf").write_text(f"""
        ServerRoot {home}
        ServerName localhost
        PidFile {home}/pid
        ErrorLog {home}/error.log
        Listen 127.0.0.1:{port}
        {load}
        {user}
        DocumentRoot {home}
        MaxKeepAliveRequests 0
        KeepAliveTimeout 60
        <Location /rest-auth>
            AuthType Basic
            AuthName x
            AuthUserFile {home}/users
            Require valid-user
        </Location>""")
    version = re.search(r"Apache/(\S+)", run(program, "-v")).group(1)
    return Server("Apache", version, [program, "-DFOREGROUND", "-f", home / "conf"],
                  port, "/rest-auth", "/free")


def caddy(folder, line):
    program = shutil.which("caddy")
    if not program:
        return None
    home, port = folder / "caddy", free_port()
    home.mkdir()
    user, _, hashed = line.strip().partition(":")
    body = BODY.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    (home / "Caddyfile").write_text(f"""{{
    admin off
    auto_https off
}}
http://127.0.0.1:{port} {{
    basic_auth /rest-auth {{
        {user} {hashed}
    }}
    respond /rest-auth `{BODY}` 200
    respond /free `{BODY}` 200
}}
""")
    version = run(program, "version").split()[0].lstrip("v")
    return Server("Caddy", version, [program, "run", "--config", home / "Caddyfile", "--adapter", "caddyfile"],
                  port, "/rest-auth", "/free", env={"XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)})


# Load

# Requests with credentials that differ in every one of them. base64 of text in threes is looked up, not computed.
DIFFERENT = """
local threads = {}
function setup(thread)
    thread:set("id", #threads)
    table.insert(threads, thread)
end
local three = {}
function init(args)
    local c = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    for n = 0, 999 do
        local a, b, d = string.byte(string.format("%03d", n), 1, 3)
        local bits = a * 65536 + b * 256 + d
        local out = ""
        for shift = 3, 0, -1 do
            local i = math.floor(bits / 64 ^ shift) % 64
            out = out .. c:sub(i + 1, i + 1)
        end
        three[n] = out
    end
    seen, n = {}, START
end
local headers = {}
function request()
    n = n + 1
    local unique = three[id + 1] .. three[math.floor(n / 1e6) % 1000] .. three[math.floor(n / 1e3) % 1000] .. three[n % 1000]
    headers["Authorization"] = "Basic PREFIX" .. unique .. "SUFFIX"
    if FORWARDED then
        local m = n * 2 + id
        headers["X-Forwarded-For"] = string.format("%d.%d.%d.%d", 11 + math.floor(m / 16777216) % 200, math.floor(m / 65536) % 256, math.floor(m / 256) % 256, m % 256)
    end
    return wrk.format("GET", "PATH", headers)
end
RESPONSEfunction done(summary, latency)
    local out = {}
    for _, thread in ipairs(threads) do
        local seen = thread:get("seen")
        for key, count in pairs(seen) do out[key] = (out[key] or 0) + count end
    end
    for key, count in pairs(out) do io.write("status ", key:sub(2), " ", count, "\\n") end
end
"""

COUNT = """
function response(status)
    local key = "s" .. status
    seen[key] = (seen[key] or 0) + 1
end
"""

ACTIVE = """
local requests = {}
function init(args)
    for line in io.lines("FILE") do
        -- The requests differ in any case, so that the load generator has as much to do for one user as for many.
        local headers = { Authorization = line, ["X-Request"] = string.format("%05d", #requests) }
        table.insert(requests, wrk.format("GET", "/rest-auth", headers))
    end
    math.randomseed(SEED)
end
function request()
    return requests[math.random(#requests)]
end
"""


class Load:
    """A run of wrk."""

    def __init__(self, server, path, seconds, connections=16, threads=None, fields=(), script=None):
        self.server, self.before, self.seconds = server, server.cpu(), seconds
        threads = min(threads or CORES, connections)
        command = ["wrk", "-t", threads, "-c", connections, "-d", f"{seconds}s", "--timeout", "30s", "--latency"]
        for field in fields:
            command += ["-H", field]
        if script:
            command += ["-s", script]
        command.append(f"http://127.0.0.1:{server.port}{path}")
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)

    def end(self):
        out, _ = self.process.communicate()
        self.cpu = self.server.cpu() - self.before
        requests, took = re.search(r"(\d+) requests in (\S+),", out).groups()
        self.requests, self.took = int(requests), milliseconds(took) / 1000
        self.rate = float(re.search(r"Requests/sec:\s+(\S+)", out).group(1))
        self.p99 = milliseconds(re.search(r"^ +99% +(\S+)", out, re.M).group(1))
        self.statuses = {int(s): int(n) for s, n in re.findall(r"status (\d+) (\d+)", out)}
        self.errors = int((re.search(r"Non-2xx or 3xx responses: (\d+)", out) or [0, 0])[1])
        return self


def milliseconds(text):
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if not match:
        raise SystemExit(f"wrk's latency is {text}")
    number, unit = match.groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}[unit]


class Different:
    """Makes scripts whose credentials were never sent before."""

    def __init__(self, folder):
        self.folder, self.count = folder, 0

    def script(self, path="/rest-auth", names=False, forwarded=False, count=False):
        """Counting statuses costs the load generator time, so it is for where they are asked for."""
        self.count += 1
        prefix, suffix = (b"roy:wrong---", b"") if not names else (b"usr", b":x--")
        text = DIFFERENT.replace("START", str(self.count * 5_000_000 % 900_000_000))
        text = text.replace("PREFIX", base64.b64encode(prefix).decode())
        text = text.replace("SUFFIX", base64.b64encode(suffix + b"--"[: -len(suffix) % 3]).decode())
        text = text.replace("PATH", path).replace("RESPONSE", COUNT if count else "")
        text = text.replace("FORWARDED", "true" if forwarded else "false")
        script = self.folder / f"different-{self.count}.lua"
        script.write_text(text)
        return script


# What is measured

def median(values):
    return statistics.median(values)


def login_until_let_in(server, within=10, **fields):
    start = time.monotonic()
    while ask(server.port, server.right, RIGHT, timeout=30, **fields)[0] != 200:
        if time.monotonic() - start > within:
            raise SystemExit(f"{server.name} does not let roy in")
        time.sleep(0.05)
    return time.monotonic() - start


def measure_table(folder, hashed, options):
    """Right and no password by turns, and wrong ones, of every server; then again."""
    different = Different(folder)
    line = f"roy:{hashed}\n"
    rows = []
    with contextlib.ExitStack() as stack:
        servers = [make and stack.enter_context(make) for make in
                   (resttool(folder), nginx(folder, line), apache(folder, line), caddy(folder, line))]
        servers = [server for server in servers if server]
        unlimited = stack.enter_context(resttool(folder, *NO_LIMITS))
        rates = {server.name: [] for server in servers}
        guesses = {server.name: [] for server in servers}
        for server in servers:
            login_until_let_in(server)
        # Rates and processor time drift on a shared machine. What is set against each other is measured by turns in short
        # loads, of which now one and now the other comes first.
        for n in range(PAIRS * options.rounds):
            for server in servers:
                fields = {server.free: [], server.right: [f"Authorization: {RIGHT}"]}
                pair = {}
                for path in sorted(fields, reverse=n % 2 == 0):
                    load = Load(server, path, PAIR_SECONDS, fields=fields[path]).end()
                    if load.errors:
                        raise SystemExit(f"{server.name}: {load.errors} refusals of {path}")
                    if not load.requests:
                        raise SystemExit(f"{server.name}: no response to {path} in {PAIR_SECONDS} s")
                    if path == server.right:
                        # Who hashes for every request still does so for those that wrk has given up.
                        drain(server)
                    pair[path] = (load.rate, load.cpu / load.requests * 1e6)
                right, free = pair[server.right], pair[server.free]
                rates[server.name].append((*right, *free, right[1] / free[1]))
        for _ in range(options.rounds):
            for server in servers:
                guessed = unlimited if server.name == "resttool" else server
                guesses[server.name].append(guess(guessed, different, options))
        for server in servers:
            seen = (*zip(*rates[server.name]), *zip(*guesses[server.name]))
            rows.append((f"{server.name} {server.version}", *map(median, seen)))
    for server, row in zip(servers, rows):
        row_p99 = flood_of_others(folder, server.name, line, options)
        rows[rows.index(row)] = (*row, row_p99)
    return rows


def guess(server, different, options):
    """Wrong passwords that a server refuses a second, and the cores that it is busy with."""
    start = server.cpu()
    load = Load(server, "/rest-auth", max(options.seconds, GUESS_SECONDS), script=different.script(count=True)).end()
    busy = (server.cpu() - start) / load.took
    drain(server)
    return load.statuses.get(401, 0) / load.took, busy


def measure_guesses(folder, hashed, options):
    """Wrong passwords a second of resttool and of nginx, and the median of the ratios of the rounds."""
    different = Different(folder)
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(resttool(folder, *NO_LIMITS))
        theirs = stack.enter_context(nginx(folder, f"roy:{hashed}\n"))
        rounds = [(guess(ours, different, options)[0], guess(theirs, different, options)[0])
                  for _ in range(options.rounds)]
    return (*map(median, zip(*rounds)), median(ours / theirs for ours, theirs in rounds))


def drain(server):
    """Waits until a server has nothing to do any more."""
    busy = server.cpu()
    while True:
        time.sleep(0.5)
        now = server.cpu()
        if now - busy < 0.05:
            return
        busy = now


def flood_of_others(folder, name, line, options):
    """The 99th percentile of one verified user while 32 connections send ever other wrong passwords; None if there
    was no answer within 3 seconds."""
    sub = pathlib.Path(tempfile.mkdtemp(dir=folder))
    sub.chmod(0o711)
    make = {"resttool": lambda: resttool(folder), "nginx": lambda: nginx(sub, line),
            "Apache": lambda: apache(sub, line), "Caddy": lambda: caddy(sub, line)}[name]
    with make() as server:
        login_until_let_in(server)
        values = []
        for _ in range(options.rounds):
            flood = Load(server, server.right, options.seconds + 4, 32, script=Different(sub).script())
            time.sleep(1)
            try:
                ask(server.port, server.right, RIGHT, timeout=3)
                load = Load(server, server.right, options.seconds, 1, fields=[f"Authorization: {RIGHT}"]).end()
                values.append(load.p99 if load.requests else float("inf"))
            except OSError:
                values.append(float("inf"))
            flood.end()
            drain(server)
        return median(values)


def measure_flood(folder, options):
    """The verified user among 32 connections that knock, that guess from one source, and from many; and one who was
    not verified before."""
    different = Different(folder)
    proxy = ["--trusted-proxy", "127.0.0.1"]
    user = [f"Authorization: {RIGHT}"]
    from_elsewhere = user + ["X-Forwarded-For: 192.0.2.1"]
    knock, one, many, entry = [], [], [], []
    for _ in range(options.rounds):
        with resttool(folder, *proxy) as server:
            login_until_let_in(server, **{"X-Forwarded-For": "192.0.2.1"})
            for values, path, script in (
                    (knock, server.free, different.script(server.free)),
                    (one, server.right, different.script()),
                    (many, server.right, different.script(forwarded=True))):
                flood = Load(server, path, options.seconds + 2, 32, script=script)
                time.sleep(1)
                load = Load(server, server.right, options.seconds, 1, fields=from_elsewhere).end()
                if load.errors:
                    raise SystemExit(f"{load.errors} refusals of the verified user")
                values.append(load.p99)
                flood.end()
                drain(server)
        with resttool(folder, *proxy) as server:
            flood = Load(server, server.right, 6, 32, script=different.script())
            time.sleep(1)
            entry.append(login_until_let_in(server, **{"X-Forwarded-For": "192.0.2.1"}))
            flood.end()
    return median(knock), median(one), median(many), max(entry)


def measure_revocation(folder, hashed, options):
    """Of so many users who are removed by a command, how many the next request refuses, while 16 connections are busy
    (with a pause of 1 ms after each answer, or the commands would wait for the cores); and what the command takes."""
    database = folder / "revoke.db"
    run(TOOL, "useradd", "roy", "--hash-stdin", "--database", database, stdin=hashed)
    cheap = run(TOOL, "hash", "--password-stdin", "--cost", "4", stdin=PASSWORD).strip()
    ann = "Basic " + base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
    refused, took, served = 0, [], []
    pause = folder / "pause.lua"
    pause.write_text("function delay() return 1 end")
    with resttool(folder, *NO_LIMITS, database=database) as server:
        login_until_let_in(server)
        stop = threading.Event()

        def busy():
            while not stop.is_set():
                load = Load(server, server.right, 5, 16, fields=[f"Authorization: {RIGHT}"], script=pause).end()
                served.append((load.rate, load.errors))

        thread = threading.Thread(target=busy)
        thread.start()
        try:
            for _ in range(options.tries):
                run(TOOL, "useradd", "ann", "--hash-stdin", "--database", database, stdin=cheap)
                for _ in range(2):
                    if ask(server.port, server.right, ann)[0] != 200:
                        raise SystemExit("ann is not let in")
                start = time.monotonic()
                run(TOOL, "userdel", "ann", "--database", database)
                took.append((time.monotonic() - start) * 1000)
                refused += ask(server.port, server.right, ann)[0] == 401
        finally:
            stop.set()
            thread.join()
    if any(errors for _, errors in served):
        raise SystemExit("the one who stays was refused")
    return refused, median(took), median([rate for rate, _ in served])


def measure_users(folder, options):
    """Measures requests per second with 10^5 users, 10^4 of them active, as a ratio to one user; and the memory."""
    import sqlite3
    database = folder / "many.db"
    cheap = run(TOOL, "hash", "--password-stdin", "--cost", "4", stdin=PASSWORD).strip()
    run(TOOL, "useradd", "roy", "--hash-stdin", "--database", database, stdin=cheap)
    connection = sqlite3.connect(database)
    connection.executemany("INSERT INTO users (name, hash) VALUES (?, ?)",
                           ((f"user-{n}", cheap) for n in range(100_000)))
    connection.commit()
    connection.close()
    active = folder / "active"
    values = ["Basic " + base64.b64encode(f"user-{n * 10}:{PASSWORD}".encode()).decode() for n in range(10_000)]
    active.write_text("\n".join(values) + "\n")
    one = folder / "one"
    one.write_text("\n".join(values[5000:5001] * len(values)) + "\n")
    rates = {active: [], one: []}
    with resttool(folder, "--cost", "4", *NO_LIMITS, database=database) as server:
        for value in values:
            if ask(server.port, server.right, value)[0] != 200:
                raise SystemExit("a user is not let in")
        # Rates drift on a shared machine; pairs of neighbours tell more than two medians.
        for n in range(4 * options.rounds):
            # Each goes first as often as the other.
            for file, seen in sorted(rates.items(), reverse=n % 2 == 0):
                script = folder / "active.lua"
                script.write_text(ACTIVE.replace("FILE", str(file)).replace("SEED", str(n + 1)))
                load = Load(server, server.right, options.seconds, script=script).end()
                if load.errors:
                    raise SystemExit(f"{load.errors} refusals")
                seen.append(load.rate)
        ratios = [many / single for many, single in zip(rates[active], rates[one])]
        return median(ratios), server.resident()


def forward_nginx(folder, printed, upstream, line, ports):
    """nginx in front of the upstream: without authentication, as `resttool print nginx` has it, and with its own."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    home = folder / "forward-nginx"
    home.mkdir()
    (home / "users").write_text(line)
    temp = "".join(f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    to_api = 'proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection "";'
    (home / "conf").write_text(f"""
        {user} worker_processes {CORES}; pid {home}/pid; error_log {home}/error.log; daemon off;
        events {{ worker_connections 1024; }}
        http {{
            access_log off; keepalive_requests 100000000; {temp}
            server {{ listen 127.0.0.1:{upstream}; location / {{ default_type application/json; return 200 '{BODY.strip()}'; }} }}
            server {{ listen 127.0.0.1:{ports[0]}; location / {{ {to_api} }} }}
            server {{ listen 127.0.0.1:{ports[2]}; location / {{ auth_basic x; auth_basic_user_file {home}/users; {to_api} }} }}
            {printed}
        }}""")
    return Server("nginx", "", [program, "-c", home / "conf", "-e", home / "error.log"], ports[0], "/", "/")


def forward_caddy(folder, printed, upstream, line, ports):
    """The same with Caddy; the upstream is nginx's."""
    home = folder / "forward-caddy"
    home.mkdir()
    user, _, hashed = line.strip().partition(":")
    sites = "".join(f"""
http://:{port} {{
    bind 127.0.0.1
    {inside}
    reverse_proxy 127.0.0.1:{upstream}
}}""" for port, inside in ((ports[0], ""), (ports[2], f"basic_auth {{\n{user} {hashed}\n}}")))
    (home / "Caddyfile").write_text(f"{{\nadmin off\nauto_https off\n}}\n{printed}{sites}\n")
    return Server("Caddy", "", [shutil.which("caddy"), "run", "--config", home / "Caddyfile", "--adapter", "caddyfile"],
                  ports[0], "/", "/", env={"XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)})


def measure_forward(folder, hashed, options):
    """Requests a second through a proxy to an upstream: without authentication and with resttool asked for each of them, by
    turns; and with the proxy's own basic authentication."""
    line = f"roy:{hashed}\n"
    upstream = free_port()
    rows = []
    with contextlib.ExitStack() as stack:
        gate = stack.enter_context(resttool(folder, "--trusted-proxy", "127.0.0.1"))
        for name, make in (("nginx", forward_nginx), ("caddy", forward_caddy)):
            if not (shutil.which(name) or shutil.which(f"/usr/sbin/{name}")):
                continue
            ports = [free_port() for _ in range(3)]
            printed = run(TOOL, "print", name, "--port", str(gate.port), "--upstream", f"127.0.0.1:{upstream}",
                          "--listen", f"127.0.0.1:{ports[1]}")
            plain = stack.enter_context(make(folder, printed, upstream, line, ports))
            asks, own = copy.copy(plain), copy.copy(plain)
            asks.port, own.port = ports[1], ports[2]
            login_until_let_in(asks)
            rates = {asks: [], plain: [], own: []}
            fields = {asks: [f"Authorization: {RIGHT}"], plain: [], own: [f"Authorization: {RIGHT}"]}
            for n in range(PAIRS * options.rounds):
                for server in (plain, asks) if n % 2 else (asks, plain):
                    load = Load(server, "/", PAIR_SECONDS, fields=fields[server]).end()
                    if load.errors:
                        raise SystemExit(f"{name}: {load.errors} refusals")
                    rates[server].append(load.rate)
            for _ in range(options.rounds):
                rates[own].append(Load(own, "/", max(options.seconds, 6), fields=fields[own]).end().rate)
                drain(own)
            ratio = median(a / b for a, b in zip(rates[asks], rates[plain]))
            rows.append((plain.name, median(rates[plain]), median(rates[asks]), ratio, median(rates[own])))
    return rows


def measure_memory(folder, options):
    """Resident memory along a flood of distinct names, addresses and passwords, at the lowest cost."""
    different = Different(folder)
    sizes, sent, hashed = [], 0, 0
    with resttool(folder, "--cost", "4", "--trusted-proxy", "127.0.0.1", "--log-level", "warn") as server:
        while sent < options.flood:
            load = Load(server, server.right, 20, 24, script=different.script(names=True, forwarded=True, count=True)).end()
            sent += load.requests
            hashed += load.statuses.get(401, 0)
            sizes.append((sent, hashed, server.resident()))
            print(f"  {sent:9} requests, {hashed:8} hashes: {sizes[-1][2]:6.2f} MB", flush=True)
    return sizes


# What is shown

def table(rows):
    lines = ["| server | right password, req/s | no authentication, req/s | CPU a request, us | of that without | wrong/s | p99 in a flood |",
             "| --- | --- | --- | --- | --- | --- | --- |"]
    for name, right, cpu, free, free_cpu, ratio, wrong, _, p99 in rows:
        answer = "no answer within 3 s" if p99 == float("inf") else f"{p99:.2f} ms" if p99 < 1000 else f"{p99 / 1000:.1f} s"
        lines.append(f"| {name} | {number(right)} | {number(free)} | {number(cpu)} | {number(ratio)} x | {wrong:.1f} | {answer} |")
    return "\n".join(lines)


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def svg(rows):
    """Requests a second with the right password and with none, on a logarithmic scale; and wrong passwords a second."""
    left, width, height, top = 120, 720, 56, 58
    end = top + height * len(rows)
    below, low = end + 90, 32
    bottom = below + low * len(rows)
    decades = 6
    step = (width - left - 90) / decades
    most = max(row[6] for row in rows)

    def x(value):
        import math
        return left + max(0.0, math.log10(max(value, 1))) * step

    def bar(end_of_bar, y, colour, text):
        out.append(f'<rect x="{left}" y="{y}" width="{end_of_bar - left:.1f}" height="18" fill="{colour}"/>')
        out.append(f'<text x="{end_of_bar + 6:.1f}" y="{y + 13}" fill="#222">{text}</text>')

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom + 10}" '
           f'viewBox="0 0 {width} {bottom + 10}" font-family="sans-serif" font-size="12" role="img" aria-labelledby="t">',
           '<title id="t">Requests a second with the right password and without authentication, and wrong passwords a second</title>',
           f'<rect width="{width}" height="{bottom + 10}" fill="#ffffff"/>',
           f'<text x="{left}" y="20" font-size="14" fill="#222">Requests a second, bcrypt cost 12 (logarithmic)</text>',
           f'<rect x="{left}" y="30" width="12" height="12" fill="#1f6f8b"/><text x="{left + 18}" y="41" fill="#222">right password</text>',
           f'<rect x="{left + 130}" y="30" width="12" height="12" fill="#b9c7cf"/><text x="{left + 148}" y="41" fill="#222">no authentication</text>']
    for power in range(decades + 1):
        at = left + power * step
        out.append(f'<line x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{end}" stroke="#e3e8eb"/>')
        out.append(f'<text x="{at:.1f}" y="{end + 18}" text-anchor="middle" fill="#555">{10 ** power:,}</text>')
    out.append(f'<text x="{left}" y="{below - 12}" font-size="14" fill="#222">Wrong passwords a second, bcrypt cost 12</text>')
    for n, (name, right, _, free, _, _, wrong, *_rest) in enumerate(rows):
        y, lower = top + n * height, below + n * low
        out.append(f'<text x="{left - 10}" y="{y + 32}" text-anchor="end" fill="#222">{name}</text>')
        bar(x(right), y + 8, "#1f6f8b", number(right))
        bar(x(free), y + 28, "#b9c7cf", number(free))
        out.append(f'<text x="{left - 10}" y="{lower + 14}" text-anchor="end" fill="#222">{name}</text>')
        bar(left + wrong / most * (width - left - 90), lower, "#1f6f8b", f"{wrong:.1f}")
    out.append("</svg>")
    return "\n".join(out) + "\n"


class Bars:
    def __init__(self):
        self.held = True

    def show(self, what, value, holds, bar):
        self.held &= holds
        print(f"{'holds' if holds else 'FAILS'}  {what}: {value} (bar: {bar})", flush=True)


def write(rows):
    readme = ROOT / "README.md"
    text = readme.read_text()
    marks = "<!-- benches/compare.py -->", "<!-- / -->"
    before, _, rest = text.partition(marks[0])
    _, _, after = rest.partition(marks[1])
    readme.write_text(f"{before}{marks[0]}\n{table(rows)}\n{marks[1]}{after}")
    (ROOT / "docs/compare.svg").write_text(svg(rows))


def main():
    parts = ("table", "guesses", "flood", "revoke", "users", "memory", "forward")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--seconds", type=int, default=4, help="of each load but those in pairs and of guesses; default: 4")
    parser.add_argument("--tries", type=int, default=1000, help="of userdel; default: 1000")
    parser.add_argument("--flood", type=int, default=1_000_000, help="requests of the memory flood")
    parser.add_argument("--only", choices=parts, action="append", help="a part; may be repeated")
    parser.add_argument("--write", action="store_true", help="the table into README.md and docs/compare.svg")
    options = parser.parse_args()
    wanted = options.only or parts
    if not shutil.which("wrk"):
        raise SystemExit("wrk is missing: apt-get install wrk")
    if not TOOL.exists():
        raise SystemExit(f"{TOOL} is missing: cargo build --release")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bars = Bars()
    with tempfile.TemporaryDirectory(prefix="resttool-compare-") as folder:
        folder = pathlib.Path(folder)
        hashed = run(TOOL, "hash", "--password-stdin", "--cost", "12", stdin=PASSWORD).strip()
        run(TOOL, "useradd", "roy", "--hash-stdin", "--database", folder / "users.db", stdin=hashed)
        if "table" in wanted:
            rows = measure_table(folder, hashed, options)
            print(table(rows), flush=True)
            by = {row[0].split()[0]: row for row in rows}
            ours = by["resttool"]
            bars.show("processor time, right password to no authentication", f"{ours[5]:.3f}", ours[5] <= 1.15, "1.15")
            if "Caddy" in by:
                ratio = ours[1] / by["Caddy"][1]
                bars.show("requests a second to Caddy's", f"{ratio:.2f}", ratio >= 2.5, "2.5")
            if "nginx" in by:
                ratio = ours[1] / by["nginx"][3]
                bars.show("requests a second to nginx's of a file without authentication", f"{ratio:.2f}", ratio > 1, "1")
                ratio = ours[6] / by["nginx"][6]
                bars.show("wrong passwords a second to nginx's", f"{ratio:.2f}", ratio >= 2, "2")
            bars.show("cores busy with wrong passwords", f"{ours[7]:.2f}", ours[7] >= 0.9 * CORES, f"{0.9 * CORES:.1f}")
            if options.write:
                write(rows)
        if "guesses" in wanted and "table" not in wanted:
            ours, theirs, ratio = measure_guesses(folder, hashed, options)
            print(f"wrong passwords a second: {ours:.1f} of resttool, {theirs:.1f} of nginx", flush=True)
            bars.show("wrong passwords a second to nginx's", f"{ratio:.2f}", ratio >= 2, "2")
        if "flood" in wanted:
            knock, one, many, entry = measure_flood(folder, options)
            most = max(2, 2 * knock)
            print(f"p99 of a verified user while 32 connections knock: {knock:.2f} ms", flush=True)
            bars.show("p99 while they guess from one source", f"{one:.2f} ms", one <= most, f"{most:.2f} ms")
            bars.show("p99 while they guess from many sources", f"{many:.2f} ms", many <= most, f"{most:.2f} ms")
            bars.show("an unverified user from elsewhere is let in after", f"{entry:.2f} s", entry <= 3, "3 s")
        if "revoke" in wanted:
            refused, took, rate = measure_revocation(folder, hashed, options)
            bars.show("removed users refused at once", f"{refused} of {options.tries}", refused == options.tries, "all")
            print(f"beside {rate:,.0f} requests a second of others; userdel takes {took:.2f} ms", flush=True)
        if "users" in wanted:
            ratio, resident = measure_users(folder, options)
            bars.show("requests a second, 10,000 active of 100,000 users to one", f"{ratio:.3f}", ratio >= 0.9, "0.9")
            bars.show("resident memory with them", f"{resident:.1f} MB", resident < 64, "64 MB")
        if "memory" in wanted:
            sizes = measure_memory(folder, options)
            half = next(size for sent, _, size in sizes if sent >= sizes[-1][0] / 2)
            growth = sizes[-1][2] - half
            bars.show("growth in the second half of a flood of distinct ones", f"{growth:.2f} MB", growth < 1, "1 MB")
        if "forward" in wanted and not (shutil.which("nginx") or shutil.which("/usr/sbin/nginx")):
            print("nginx is not installed: without it there is no upstream to ask through a proxy")
        elif "forward" in wanted:
            print("| proxy | without authentication, req/s | asking resttool, req/s | ratio | its own basic auth, req/s |")
            print("| --- | --- | --- | --- | --- |")
            rows = measure_forward(folder, hashed, options)
            for name, plain, asks, ratio, own in rows:
                print(f"| {name} | {number(plain)} | {number(asks)} | {ratio:.2f} x | {number(own)} |", flush=True)
            for name, plain, asks, ratio, own in rows:
                bars.show(f"requests through {name} that asks resttool to those without authentication", f"{ratio:.2f}",
                          ratio >= 0.5, "0.5")
                if name == "nginx":
                    bars.show("those to nginx's own basic auth", f"{asks / own:,.0f}", asks >= 1000 * own, "1,000")
    return 0 if bars.held else 1


if __name__ == "__main__":
    sys.exit(main())
