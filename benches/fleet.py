#!/usr/bin/env python3
"""Measures several servers on one PostgreSQL database, and checks the bars.

The script starts clusters of its own in memory, with Unix sockets only, as the system user postgres if it runs as root. It
needs Python 3.9 or later, wrk, PostgreSQL 13 or later and a release build, and stops all processes that it has started. If a
figure misses its bar, the exit code is 1.

    cargo build --release
    benches/fleet.py                     all parts
    benches/fleet.py --only commands     a part: commands, revoke, impaired, cost, changes, failover or idle
"""

import argparse
import base64
import concurrent.futures
import contextlib
import glob
import http.client
import os
import pathlib
import pwd
import random
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

import compare
from compare import Bars, NO_LIMITS, PASSWORD, RIGHT, TOOL, resttool

PARTS = "commands", "revoke", "impaired", "cost", "changes", "failover", "idle"
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def binaries():
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[4]))
    if not found:
        raise SystemExit("PostgreSQL is missing: apt-get install postgresql")
    return pathlib.Path(found[-1])


class Cluster:
    """A PostgreSQL server with a Unix socket."""

    def __init__(self, primary=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=MEMORY))
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
        self.data = self.folder / "data"
        if primary:
            self.program("pg_basebackup", "-D", self.data, "-R", "-h", primary.folder, "-c", "fast")
        else:
            self.program("initdb", "-D", self.data, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()

    def program(self, name, *words):
        command = [binaries() / name, *words]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True, cwd="/").stdout

    def start(self):
        options = (f"-c listen_addresses='' -c unix_socket_directories={self.folder} -c max_connections=500 "
                   "-c track_counts=on -c wal_keep_size=64MB -c shared_buffers=64MB")
        self.program("pg_ctl", "-D", self.data, "-w", "-l", self.folder / "log", "-o", options, "start")
        self.pid = int((self.data / "postmaster.pid").read_text().split()[0])

    def psql(self, sql):
        return self.program("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.folder, "-d", "postgres", "-c", sql).strip()

    def url(self, *others):
        hosts = ",".join(str(cluster.folder).replace("/", "%2F") for cluster in (self, *others))
        return f"postgres://{self.user}@{hosts}/postgres"

    def tree(self):
        children = subprocess.run(["pgrep", "-P", str(self.pid)], capture_output=True, text=True).stdout.split()
        return [self.pid, *map(int, children)]

    def signal(self, number):
        for process in self.tree():
            with contextlib.suppress(OSError):
                os.kill(process, number)

    def stop(self):
        self.signal(signal.SIGCONT)
        with contextlib.suppress(subprocess.CalledProcessError):
            self.program("pg_ctl", "-D", self.data, "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


@contextlib.contextmanager
def database():
    with Cluster() as cluster:
        tool(cluster.url(), "database", "init", "--quiet")
        yield cluster


def tool(url, *words, stdin=None, check=True):
    done = subprocess.run([TOOL, *map(str, words), "--database", str(url)], input=stdin, capture_output=True, text=True)
    if check and done.returncode:
        raise SystemExit(f"{words}: {done.stderr}")
    return done


def timed(*words, **options):
    begun = time.monotonic()
    done = tool(*words, **options)
    return time.monotonic() - begun, done


def add_roy(url):
    tool(url, "useradd", "roy", "--cost", "4", "--password-stdin", "--quiet", stdin=PASSWORD)


def hash_of_password():
    done = subprocess.run([TOOL, "hash", "--cost", "4", "--password-stdin"], input=PASSWORD, capture_output=True, text=True)
    return done.stdout.strip()


def add_many(url, count):
    line = hash_of_password()
    lines = "".join(f"user-{n}:{line}\n" for n in range(count))
    return timed(url, "import", "-", "--quiet", stdin=lines)[0]


def credentials(user):
    return "Basic " + base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()


class Client:
    """A keep-alive connection."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def status(self, user):
        self.connection.request("GET", "/rest-auth", headers={"Authorization": credentials(user)})
        answer = self.connection.getresponse()
        answer.read()
        return answer.status


@contextlib.contextmanager
def loads(ports, connections=16):
    """Keeps servers busy with the cached password of roy.

    Each program is in a session of its own, and servers beside a load have to be, as services are in control groups.
    The kernel shares out the cores by sessions, and each process of PostgreSQL has one. Beside one busy session for
    all servers and clients, a process of PostgreSQL waited some 30 ms for a core each time, and at times 0.6 s."""
    running = [subprocess.Popen(["wrk", "-t1", f"-c{connections}", "-d1h", "-H", f"Authorization: {RIGHT}",
                                 f"http://127.0.0.1:{port}/rest-auth"], stdout=subprocess.DEVNULL,
                                start_new_session=True) for port in ports]
    try:
        yield
    finally:
        for process in running:
            process.terminate()
            process.wait()


def commands(bars, _):
    with database() as cluster:
        url = cluster.url()
        hashing = statistics.median(timed(url, "hash", "--cost", "4", "--password-stdin", stdin=PASSWORD)[0] for _ in range(9))
        adds = [timed(url, "useradd", f"new-{n}", "--cost", "4", "--password-stdin", "--quiet", stdin=PASSWORD)[0]
                for n in range(9)]
        add = statistics.median(adds) - hashing
        bars.show("useradd of a new user, beyond its hash", f"{add * 1000:.0f} ms", add < 0.05, "50 ms")
        remove = statistics.median(timed(url, "userdel", f"new-{n}", "--quiet")[0] for n in range(5))
        bars.show("userdel", f"{remove:.2f} s", remove < 1.5, "1.5 s")
        many, _ = timed(url, "userdel", *(f"new-{n}" for n in range(5, 9)), "--quiet")
        bars.show("userdel of 4 users", f"{many:.2f} s", many < 1.5, "1.5 s")
        took = add_many(url, 100_000)
        bars.show("import of 100,000 users", f"{took:.1f} s", took < 5, "5 s")
        took, _ = timed(url, "userlist", "--json")
        bars.show("userlist --json of 100,000 users", f"{took:.2f} s", took < 2, "2 s")


def revoke(bars, options):
    with database() as cluster, tempfile.TemporaryDirectory() as folder:
        url, folder = cluster.url(), pathlib.Path(folder)
        add_roy(url)
        add_many(url, options.users)
        with contextlib.ExitStack() as stack:
            # Of the lowest cost: a refused user takes a hash, and the loads leave hash workers little time.
            serve = lambda: resttool(folder, *NO_LIMITS, "--cost", "4", database=url, session=True)
            servers = [stack.enter_context(serve()) for _ in range(3)]
            ports = [server.port for server in servers]
            for port in ports:
                client = Client(port)
                assert client.status("roy") == 200
                for n in range(options.users):
                    assert client.status(f"user-{n}") == 200, n
            stack.enter_context(loads(ports))
            refused, granted = [], []

            def one(n):
                tool(url, "userdel", f"user-{n}", "--quiet")
                # On new connections: servers close those that are idle for as long as a removal may take.
                statuses = [compare.ask(port, "/rest-auth", credentials(f"user-{n}"), timeout=30)[0] for port in ports]
                (refused if statuses == [401] * 3 else granted).append((n, statuses))

            with concurrent.futures.ThreadPoolExecutor(50) as pool:
                list(pool.map(one, range(options.users)))
            bars.show("removed users refused on each of three busy servers", f"{len(refused)} of {options.users}",
                      not granted, "all")
            if granted:
                print(granted[:5])


class Proxy:
    """A proxy on a Unix socket in front of a database, with a fault."""

    def __init__(self, cluster):
        self.folder, self.cluster = pathlib.Path(tempfile.mkdtemp()), cluster
        self.flows, self.delay = threading.Event(), 0
        self.flows.set()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.folder / ".s.PGSQL.5432"))
        self.listener.listen(64)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(self.cluster.folder / ".s.PGSQL.5432"))
                for pair in (client, server, False), (server, client, True):
                    threading.Thread(target=self.pump, args=pair, daemon=True).start()

    def pump(self, source, target, is_answer):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.flows.wait()
                if is_answer:
                    time.sleep(self.delay)
                target.sendall(data)
        self.flows.wait()
        for end in source, target:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def url(self):
        return self.cluster.url().replace(str(self.cluster.folder).replace("/", "%2F"), str(self.folder).replace("/", "%2F"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.flows.set()
        self.listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def impaired(bars, options):
    """A server that is frozen, cut off or gets late answers grants nothing to removed users."""
    for fault in "frozen", "cut off", "delayed by 600 ms":
        with database() as cluster, tempfile.TemporaryDirectory() as folder, Proxy(cluster) as proxy:
            folder = pathlib.Path(folder)
            add_many(cluster.url(), options.users)
            serve = lambda url: resttool(folder, *NO_LIMITS, "--cost", "4", database=url)
            with serve(cluster.url()) as healthy, serve(proxy.url()) as server:
                for port in healthy.port, server.port:
                    while compare.ask(port, "/readyz")[0] != 200:
                        time.sleep(0.1)
                    client = Client(port)
                    for n in range(options.users):
                        status = client.status(f"user-{n}")
                        assert status == 200, (n, status)
                if fault == "frozen":
                    server.process.send_signal(signal.SIGSTOP)
                elif fault == "cut off":
                    proxy.flows.clear()
                else:
                    proxy.delay = 0.6
                seen = []

                def ask(port, n):
                    return compare.ask(port, "/rest-auth", credentials(f"user-{n}"), timeout=60)[0]

                def one(n):
                    tool(cluster.url(), "userdel", f"user-{n}", "--quiet")
                    seen.append(ask(healthy.port, n))
                    if fault != "frozen":
                        seen.append(ask(server.port, n))

                with concurrent.futures.ThreadPoolExecutor(50) as pool:
                    list(pool.map(one, range(options.users)))
                    if fault == "frozen":
                        server.process.send_signal(signal.SIGCONT)
                        seen += pool.map(lambda n: ask(server.port, n), range(options.users))
                refused = sum(status in (401, 503) for status in seen)
                bars.show(f"removed users refused by a healthy server and one that is {fault}",
                          f"{refused} of {2 * options.users}", refused == len(seen) == 2 * options.users, "all")


def cost(bars, options):
    """Processor time of a request with a cached password, with new processes in each pair."""
    with database() as cluster, tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        places = {"SQLite": folder / "users.db", "PostgreSQL": cluster.url()}
        for place in places.values():
            add_roy(place)
        seen = {name: [] for name in places}
        for turn in range(options.rounds):
            order = list(places) if turn % 2 else list(places)[::-1]
            for name in (*order, *order[::-1]):
                with resttool(folder, *NO_LIMITS, database=places[name]) as server:
                    assert compare.ask(server.port, "/rest-auth", RIGHT)[0] == 200
                    before = server.cpu()
                    out = compare.run("wrk", "-t1", "-c16", "-d2s", "-H", f"Authorization: {RIGHT}",
                                      f"http://127.0.0.1:{server.port}/rest-auth")
                    requests = int(out.partition(" requests in")[0].split()[-1])
                    seen[name].append((server.cpu() - before) / requests)
        ratio = statistics.median(a / b for a, b in zip(seen["PostgreSQL"], seen["SQLite"]))
        micros = ", ".join(f"{name} {statistics.median(values) * 1e6:.1f} us" for name, values in seen.items())
        bars.show("processor time of a cached request to that on SQLite", f"{ratio:.3f} ({micros})", ratio <= 1.02, "1.0, 2 % noise")


SCRIPT = """
local values = {}
function init(args)
    for line in io.lines(args[1]) do values[#values + 1] = line end
    math.randomseed(os.time())
end
function request()
    return wrk.format("GET", "/rest-auth", {Authorization = values[math.random(#values)]})
end
function done(summary, latency)
    io.write(string.format("p99 %d requests %d errors %d\\n", latency:percentile(99), summary.requests, summary.errors.status))
end
"""


def changes(bars, options):
    """A change every second with 10,000 active users."""
    users = 10_000
    with database() as cluster, tempfile.TemporaryDirectory() as folder:
        url, folder = cluster.url(), pathlib.Path(folder)
        add_many(url, users)
        (folder / "values").write_text("".join(credentials(f"user-{n}") + "\n" for n in range(users)))
        (folder / "script.lua").write_text(SCRIPT)

        def load(port, seconds):
            out = compare.run("wrk", "-t1", "-c16", f"-d{seconds}s", "-s", folder / "script.lua", f"http://127.0.0.1:{port}/",
                              "--", folder / "values")
            words = out.rpartition("p99 ")[2].split()
            return int(words[0]), int(words[4])

        reads = lambda: int(cluster.psql("SELECT coalesce(sum(idx_scan), 0) FROM pg_stat_user_tables WHERE relname = 'users'"))
        with resttool(folder, *NO_LIMITS, database=url) as server:
            client = Client(server.port)
            for n in range(users):
                assert client.status(f"user-{n}") == 200
            load(server.port, 2)
            pairs, rows = [], []
            for _ in range(options.rounds):
                quiet, _ = load(server.port, 5)
                before = reads()
                stop = threading.Event()

                def change():
                    while not stop.wait(1):
                        name = f"user-{random.randrange(users)}"
                        cluster.psql(f"UPDATE resttool.users SET changed = changed + 1 WHERE name = '{name}'")

                thread = threading.Thread(target=change)
                thread.start()
                busy, errors = load(server.port, 5)
                stop.set()
                thread.join()
                time.sleep(1.5)  # statistics of the database are reported with a delay
                rows.append((reads() - before) / 5)
                assert errors == 0
                pairs.append(busy / quiet)
            ratio = statistics.median(pairs)
            bars.show("p99 with a change a second to that without", f"{ratio:.2f}", ratio < 1.1, "1.1")
            bars.show("reads of users a second, with one changed user a second and its own update",
                      f"{statistics.median(rows):.1f}", statistics.median(rows) <= 8, "8")


def failover(bars, _):
    for what in ("killed", "frozen"):
        with database() as primary:
            primary.psql("ALTER SYSTEM SET synchronous_standby_names = ''")
            add_roy(primary.url())
            with Cluster(primary) as standby, tempfile.TemporaryDirectory() as folder:
                with resttool(pathlib.Path(folder), *NO_LIMITS, database=primary.url(standby)) as server:
                    assert compare.ask(server.port, "/rest-auth", RIGHT)[0] == 200
                    seen, stop = [], threading.Event()

                    def ask():
                        while not stop.is_set():
                            begun = time.monotonic()
                            status, headers = compare.ask(server.port, "/rest-auth", RIGHT)
                            seen.append((begun, time.monotonic(), status, headers.get("Retry-After")))

                    threads = [threading.Thread(target=ask) for _ in range(4)]
                    [thread.start() for thread in threads]
                    time.sleep(1)
                    primary.signal(signal.SIGKILL if what == "killed" else signal.SIGSTOP)
                    lost = time.monotonic()
                    time.sleep(2)
                    standby.program("pg_ctl", "-D", standby.data, "-w", "promote")
                    promoted = time.monotonic()
                    time.sleep(5)
                    stop.set()
                    [thread.join() for thread in threads]
                    others = {(status, after) for *_, status, after in seen} - {(200, None), (503, "1")}
                    again = min(end for begun, end, status, _ in seen if status == 200 and begun > lost + 1.1)
                    late = [status for begun, _, status, _ in seen if begun > promoted + 3 and status != 200]
                    gap = again - promoted
                    bars.show(f"primary {what}: answered again after the promotion", f"{gap:.2f} s", gap < 3 and not late, "3 s")
                    bars.show(f"primary {what}: other answers than 200 and 503 with Retry-After", len(others), not others, 0)


def idle(bars, options):
    with database() as cluster, tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        url, folder = cluster.url(), pathlib.Path(folder)
        add_roy(url)
        servers = [stack.enter_context(resttool(folder, *NO_LIMITS, "--hash-workers", "1", database=url))
                   for _ in range(options.servers)]
        connections = int(cluster.psql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'resttool'"))
        bars.show(f"connections of {options.servers} servers", connections, connections == options.servers, options.servers)

        def queries(seconds):
            sql = "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database WHERE datname = 'postgres'"
            time.sleep(2)  # statistics of the database are reported with a delay
            before = int(cluster.psql(sql))
            time.sleep(seconds)
            return max(0, int(cluster.psql(sql)) - before - 1) / seconds

        stop = threading.Event()

        def use():
            while not stop.is_set():
                for server in servers:
                    compare.ask(server.port, "/rest-auth", RIGHT)
                stop.wait(20)

        user = threading.Thread(target=use)
        user.start()
        time.sleep(10)
        busy = queries(20)
        stop.set()
        user.join()
        limit = 4 * options.servers
        bars.show(f"queries a second of {options.servers} busy servers", f"{busy:.0f}", busy <= limit * 1.02, limit)
        time.sleep(70)
        for server in servers:
            assert compare.ask(server.port, "/healthz")[0] == 200 and compare.ask(server.port, "/readyz")[0] == 200
        quiet = queries(20)
        bars.show(f"queries a second of {options.servers} idle servers", f"{quiet:.2f}", quiet < 0.1, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="measure one part")
    parser.add_argument("--rounds", type=int, default=9, help="of pairs; default: 9")
    parser.add_argument("--users", type=int, default=1000, help="to remove; default: 1000")
    parser.add_argument("--servers", type=int, default=300, help="that are idle; default: 300")
    options = parser.parse_args()
    bars = Bars()
    for part in PARTS:
        if options.only in (None, part):
            globals()[part](bars, options)
    raise SystemExit(0 if bars.held else 1)


if __name__ == "__main__":
    main()
