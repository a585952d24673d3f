//! A cluster of two PostgreSQL servers that Patroni manages, with etcd, for tests.
//!
//! All ports are fixed, so the test needs a network namespace of its own.

use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::sync::Mutex;

use rustix::process::Signal;

use super::postgres_folder::{Folder, children, reap, signal, state, stop_process_tree};
use super::{USER, postgres_bin, psql, url, wait_until};

/// Seconds until another node takes the lock of a primary that does not renew it.
const TTL: u32 = 5;
const ETCD: &str = "127.0.0.1:2379";

/// Patroni on two nodes, and etcd. Each has a temporary folder, and ends when this value is dropped.
pub struct Patroni {
    pub nodes: [Node; 2],
    _etcd: Etcd,
}

impl Patroni {
    /// Starts etcd and both nodes. Returns when the second node replicates the first one.
    pub fn start() -> Self {
        let etcd = Etcd::start();
        let nodes = [Node::new(0), Node::new(1)];
        for node in &nodes {
            node.start_again();
            // The first node that starts becomes the primary.
            wait_until("a primary takes changes", || nodes[0].takes_changes() == Some(true));
        }
        wait_until("the replica streams", || nodes[0].has_replica());
        Self { nodes, _etcd: etcd }
    }

    /// Returns the URL of a database, with both nodes.
    pub fn url(&self, database: &str) -> String {
        let [one, other] = self.nodes.each_ref().map(|node| node.port);
        format!("postgres://{USER}@127.0.0.1:{one},127.0.0.1:{other}/{database}?sslmode=disable")
    }
}

/// A PostgreSQL server with its Patroni.
pub struct Node {
    /// The port of PostgreSQL.
    port: u16,
    patroni: Mutex<Option<Child>>,
    folder: Folder,
}

impl Node {
    fn new(number: u16) -> Self {
        let folder = Folder::new("resttool-patroni-");
        let (port, api) = (5432 + number, 8008 + number);
        let (path, programs) = (folder.path.display(), postgres_bin().unwrap());
        let programs = programs.display();
        let configuration = format!(
            "scope: test
name: node{number}
restapi: {{listen: '127.0.0.1:{api}', connect_address: '127.0.0.1:{api}'}}
etcd: {{host: '{ETCD}'}}
watchdog: {{mode: 'off'}}
bootstrap:
  dcs:
    ttl: {TTL}
    loop_wait: 1
    retry_timeout: 2
    postgresql:
      use_pg_rewind: true
      parameters: {{wal_log_hints: 'on', wal_keep_size: 64MB}}
  initdb: [encoding: UTF8, locale: C, 'no-sync']
postgresql:
  listen: '127.0.0.1:{port}'
  connect_address: '127.0.0.1:{port}'
  bin_dir: '{programs}'
  data_dir: '{path}/data'
  pgpass: '{path}/pgpass'
  authentication:
    superuser: {{username: {USER}}}
    replication: {{username: replicator}}
  parameters:
    unix_socket_directories: '{path}'
    dynamic_shared_memory_type: mmap
    shared_buffers: 16MB
    fsync: 'off'
  pg_hba:
  - local all all trust
  - host all all 127.0.0.1/32 trust
  - host replication all 127.0.0.1/32 trust
"
        );
        folder.write("patroni.yml", &configuration);
        Self { port, patroni: Mutex::new(None), folder }
    }

    /// Starts Patroni, which starts PostgreSQL.
    pub fn start_again(&self) {
        let mut command = self.folder.command(Path::new("/usr/bin/patroni"));
        let process = self.folder.spawn(&mut command, ["patroni.yml"]);
        assert!(self.patroni.lock().unwrap().replace(process).is_none(), "Patroni runs already");
    }

    /// Kills Patroni and PostgreSQL with SIGKILL.
    pub fn kill(&self) {
        // First, so that it does not start PostgreSQL again.
        let mut patroni = self.patroni.lock().unwrap().take().unwrap();
        patroni.kill().unwrap();
        patroni.wait().unwrap();
        let postmaster = self.postmaster();
        let mut processes = stop_process_tree(postmaster, false);
        processes.push(postmaster);
        for process in &processes {
            signal(*process, Signal::KILL);
        }
        wait_until("killed processes end", || processes.iter().all(|pid| state(*pid).is_none()));
    }

    /// Stops Patroni and PostgreSQL with SIGSTOP.
    pub fn freeze(&self) {
        stop_process_tree(self.patroni_id(), true);
        stop_process_tree(self.postmaster(), true);
    }

    /// Continues a frozen node.
    pub fn thaw(&self) {
        for process in [self.postmaster(), self.patroni_id()] {
            for child in children(process) {
                signal(child, Signal::CONT);
            }
            signal(process, Signal::CONT);
        }
    }

    /// Runs SQL in a database by the Unix socket.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        psql(&url(self.folder.path.to_str().unwrap(), self.port, None, database), sql)
    }

    /// Returns true if the node is the primary, false if it is a replica, and `None` if it does not
    /// answer.
    pub fn takes_changes(&self) -> Option<bool> {
        self.psql(USER, "SELECT NOT pg_is_in_recovery()").ok().map(|answer| answer == "t")
    }

    /// Returns true if a replica streams from this node.
    pub fn has_replica(&self) -> bool {
        // A base backup streams too, by another name.
        let sql = "SELECT count(*) FROM pg_stat_replication \
                   WHERE state = 'streaming' AND application_name LIKE 'node%'";
        self.psql(USER, sql).is_ok_and(|count| count == "1")
    }

    fn patroni_id(&self) -> u32 {
        self.patroni.lock().unwrap().as_ref().unwrap().id()
    }

    fn postmaster(&self) -> u32 {
        let file = self.folder.read("data/postmaster.pid");
        file.lines().next().unwrap().parse().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the node at port {}:\n{}", self.port, self.folder.read("log"));
        }
        self.folder.remove();
        reap(&self.patroni);
    }
}

/// An etcd of one member.
struct Etcd {
    process: Mutex<Option<Child>>,
    folder: Folder,
}

impl Etcd {
    fn start() -> Self {
        let folder = Folder::new("resttool-etcd-");
        let mut command = folder.command(Path::new("/usr/bin/etcd"));
        let client = format!("http://{ETCD}");
        let (peer, members) = ("http://127.0.0.1:2380", "default=http://127.0.0.1:2380");
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
        // With version 3 of the API, a primary of Patroni 3.0.2 that was frozen takes the lock back.
        let process = folder.spawn(&mut command, ["--initial-cluster", members, "--enable-v2"]);
        wait_until("etcd listens", || TcpStream::connect(ETCD).is_ok());
        Self { process: Mutex::new(Some(process)), folder }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.folder.remove();
        reap(&self.process);
    }
}
