//! PostgreSQL clusters, PgBouncer and Patroni for tests, each in a temporary folder of its own.
//!
//! PostgreSQL does not run as root. A test that runs as root starts it as the system user
//! `postgres`.
//!
//! A watcher process belongs to each folder. It waits for the end of a pipe that the test process
//! holds, ends the processes in the folder and removes the folder. It does so when the value is
//! dropped, and when the test process exits or is killed.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustix::process::Signal;

use postgres_folder::{Folder, children, command, reap, run, signal, state, stop_process_tree};

#[path = "patroni.rs"]
mod patroni;
#[path = "pgbouncer.rs"]
mod pgbouncer;
#[path = "postgres_folder.rs"]
mod postgres_folder;

pub use patroni::{Node, Patroni};
pub use pgbouncer::{Bouncer, pgbouncer};

/// Time limit of each wait.
const DEADLINE: Duration = Duration::from_secs(30);
/// The superuser of each cluster, and the system user that runs PostgreSQL in place of root.
const USER: &str = "postgres";
/// Part of the name of a Unix socket. Clusters with TCP have another.
const SOCKET_PORT: u16 = 5432;

/// Numbers databases and standbys.
static COUNTER: AtomicUsize = AtomicUsize::new(1);

/// Returns the folder of PostgreSQL's programs: `$POSTGRES_BIN` if it is set, the newest version in
/// `/usr/lib/postgresql`, or the folder of `postgres` in `$PATH`.
pub fn postgres_bin() -> Option<PathBuf> {
    if let Some(bin) = std::env::var_os("POSTGRES_BIN") {
        return Some(PathBuf::from(bin));
    }
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    versions
        .into_iter()
        .map(|(_, bin)| bin)
        .chain(search_path())
        .find(|bin| bin.join("postgres").is_file())
}

/// Runs SQL with psql at a URL. Returns the output, or the error output of a failed run.
///
/// Statements are sent one at a time, and the first error ends the run. Values are separated by
/// `|`.
pub fn psql(url: &str, sql: &str) -> Result<String, String> {
    let mut process = client("psql")
        .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = process.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // psql closes its input early after an error.
        scope.spawn(move || drop(input.write_all(sql.as_bytes())));
        process.wait_with_output().unwrap()
    });
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Polls a condition every 10 ms. Panics after 30 s.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns a cluster that the tests of one process share. It ends with the process.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(Cluster::start)
}

/// Options of [`Cluster::with`]. The default is a Unix socket and `trust`.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// Listens on 127.0.0.1 and a free port, in addition to the Unix socket.
    pub tcp: bool,
    /// Listens on this address in place of 127.0.0.1, and accepts its network. Implies `tcp`.
    pub address: Option<Ipv4Addr>,
    /// Uses TLS with a certificate for this host name, e.g. `localhost`. Implies `tcp`, and
    /// connections by TCP without TLS are refused.
    pub tls: Option<String>,
    /// Requires SCRAM-SHA-256 with this password of the superuser.
    pub password: Option<String>,
    /// Lines of `postgresql.conf`. A value is written as a quoted string.
    pub settings: Vec<(String, String)>,
}

impl ClusterOptions {
    fn host(&self) -> Ipv4Addr {
        self.address.unwrap_or(Ipv4Addr::LOCALHOST)
    }
}

/// A PostgreSQL server with one superuser, `postgres`, in a temporary folder.
///
/// Dropping it shuts the server down immediately and removes the folder.
pub struct Cluster {
    options: ClusterOptions,
    port: u16,
    postmaster: Mutex<Option<Child>>,
    folder: Folder,
}

impl Cluster {
    /// Starts a cluster with a Unix socket and without passwords.
    pub fn start() -> Self {
        Self::with(ClusterOptions::default())
    }

    /// Starts a cluster.
    pub fn with(options: ClusterOptions) -> Self {
        let cluster = Self::new(options);
        let mut initdb = cluster.folder.command(&program("initdb"));
        initdb.args(["-D", "data", "-U", USER, "-E", "UTF8", "--locale=C"]);
        // Short segments of the write-ahead log are faster to create and to copy.
        initdb.args(["--no-sync", "--wal-segsize=1"]);
        match &cluster.options.password {
            None => initdb.args(["-A", "trust"]),
            Some(password) => {
                cluster.folder.write("password", password);
                initdb.args(["-A", "scram-sha-256", "--pwfile=password"])
            }
        };
        run(&mut initdb);
        if let Some(host) = &cluster.options.tls {
            cluster.create_certificate(host);
        }
        cluster.launch_first()
    }

    /// Creates a database with a new name, and returns the name.
    pub fn create_database(&self) -> String {
        let name = format!("test_{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        self.psql(USER, &format!("CREATE DATABASE {name}"));
        name
    }

    /// Returns the URL of a database, by TCP if the cluster listens there.
    pub fn url(&self, database: &str) -> String {
        match self.address() {
            Some(address) => self.url_at(address, database),
            None => self.socket_url(database),
        }
    }

    /// Returns the URL of a database by TCP at another address, e.g. the one of a proxy.
    pub fn url_at(&self, address: SocketAddr, database: &str) -> String {
        let password = self.options.password.as_deref();
        if self.options.tls.is_some() {
            let ca = encode(self.ca_path().to_str().unwrap());
            url("localhost", address.port(), password, database)
                + &format!("?sslmode=verify-full&sslrootcert={ca}")
        } else {
            url(&address.ip().to_string(), address.port(), password, database) + "?sslmode=disable"
        }
    }

    /// Returns the URL of a database by the Unix socket.
    pub fn socket_url(&self, database: &str) -> String {
        let host = self.folder.path.to_str().unwrap();
        url(host, self.port, self.options.password.as_deref(), database)
    }

    /// Returns the TCP address of the server, if it has one.
    pub fn address(&self) -> Option<SocketAddr> {
        self.options.tcp.then(|| (self.options.host(), self.port).into())
    }

    /// Returns the path of the certificate authority in PEM.
    pub fn ca_path(&self) -> PathBuf {
        self.folder.path.join("ca.pem")
    }

    /// Returns the temporary folder. The data folder is `data` in it.
    pub fn folder(&self) -> &Path {
        &self.folder.path
    }

    /// Returns the process ID of the postmaster. Panics if it does not run.
    pub fn pid(&self) -> u32 {
        self.postmaster.lock().unwrap().as_ref().expect("the cluster does not run").id()
    }

    /// Returns the log of the server.
    pub fn log(&self) -> String {
        self.folder.read("log")
    }

    /// Runs SQL with psql as superuser by the Unix socket. Panics on an error.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        psql(&self.socket_url(database), sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Returns the number of client connections to a database.
    pub fn backends(&self, database: &str) -> usize {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' \
             AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
            database.replace('\'', "''")
        );
        self.psql(USER, &sql).parse().unwrap()
    }

    /// Starts a standby with the options of this cluster. Returns when it streams from here.
    pub fn standby(&self) -> Self {
        let standby = Self::new(self.options.clone());
        let name = format!("standby_{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let source = self.socket_url("") + &format!("?application_name={name}");
        run(standby
            .folder
            .command(&program("pg_basebackup"))
            .args(["-D", "data", "-R", "-X", "stream", "-c", "fast", "--no-sync"])
            .args(["-d", &source]));
        if self.options.tls.is_some() {
            for file in ["ca.pem", "server.pem", "server.key"] {
                standby.folder.write(file, &self.folder.read(file));
            }
        }
        let standby = standby.launch_first();
        let sql = format!(
            "SELECT count(*) FROM pg_stat_replication \
             WHERE application_name = '{name}' AND state = 'streaming'"
        );
        wait_until("standby streams", || self.psql(USER, &sql) == "1");
        standby
    }

    /// Promotes a standby to primary. Returns when it accepts writes.
    pub fn promote(&self) {
        assert_eq!(self.psql(USER, "SELECT pg_promote(true, 30)"), "t", "cannot promote");
    }

    /// Kills the postmaster and its children with SIGKILL, as the out-of-memory killer would.
    pub fn kill(&self) {
        let mut postmaster = self.postmaster.lock().unwrap();
        let Some(mut process) = postmaster.take() else { return };
        let children = stop_process_tree(process.id(), false);
        // The children are signalled first: they end by themselves without a postmaster.
        for pid in &children {
            signal(*pid, Signal::KILL);
        }
        process.kill().unwrap();
        process.wait().unwrap();
        wait_until("killed processes end", || children.iter().all(|pid| state(*pid).is_none()));
    }

    /// Stops the postmaster and its children with SIGSTOP. Clients connect, and get no answer.
    pub fn freeze(&self) {
        stop_process_tree(self.pid(), true);
    }

    /// Continues a frozen cluster.
    pub fn thaw(&self) {
        let pid = self.pid();
        for child in children(pid) {
            signal(child, Signal::CONT);
        }
        signal(pid, Signal::CONT);
    }

    /// Stops the server, which ends its sessions ("fast" shutdown). Kills it after 30 s.
    pub fn stop(&mut self) {
        if self.postmaster.get_mut().unwrap().is_none() {
            return;
        }
        self.thaw();
        signal(self.pid(), Signal::INT);
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            let postmaster = self.postmaster.get_mut().unwrap();
            if postmaster.as_mut().unwrap().try_wait().unwrap().is_some() {
                *postmaster = None;
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }

    /// Starts a stopped or killed server at the same address.
    pub fn start_again(&mut self) {
        if let Err(log) = self.launch() {
            panic!("PostgreSQL does not start: {log}");
        }
    }

    /// Stops the server and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Creates the folder.
    fn new(mut options: ClusterOptions) -> Self {
        options.tcp |= options.tls.is_some() || options.address.is_some();
        let folder = Folder::new("resttool-postgres-");
        Self { options, port: SOCKET_PORT, postmaster: Mutex::new(None), folder }
    }

    /// Starts the server for the first time, at a port that is free.
    fn launch_first(mut self) -> Self {
        for _ in 0..5 {
            if self.options.tcp {
                let listener = TcpListener::bind((self.options.host(), 0)).unwrap();
                self.port = listener.local_addr().unwrap().port();
            }
            self.configure();
            match self.launch() {
                Ok(()) => return self,
                // Another process took the port.
                Err(log) if self.options.tcp && log.contains("Address already in use") => {
                    fs::remove_file(self.folder.path.join("log")).unwrap();
                }
                Err(log) => panic!("PostgreSQL does not start: {log}"),
            }
        }
        panic!("PostgreSQL finds no free port");
    }

    /// Writes `postgresql.conf` and `pg_hba.conf`.
    fn configure(&self) {
        let options = &self.options;
        let path = |name: &str| self.folder.path.join(name).to_str().unwrap().to_owned();
        let mut settings = vec![
            (
                "listen_addresses",
                if options.tcp { options.host().to_string() } else { String::new() },
            ),
            ("port", self.port.to_string()),
            ("unix_socket_directories", path("")),
            // Segments in files, which end with the folder even after SIGKILL.
            ("dynamic_shared_memory_type", "mmap".into()),
            ("shared_buffers", "16MB".into()),
            ("max_connections", "200".into()),
            ("fsync", "off".into()),
            ("full_page_writes", "off".into()),
            // A standby that was away for a while finds what it missed.
            ("wal_keep_size", "64MB".into()),
            ("min_wal_size", "8MB".into()),
            ("max_wal_size", "128MB".into()),
            ("log_line_prefix", "%m [%p] %u@%d ".into()),
        ];
        if options.tls.is_some() {
            settings.extend([
                ("ssl", "on".into()),
                ("ssl_cert_file", path("server.pem")),
                ("ssl_key_file", path("server.key")),
            ]);
        }
        let settings: String = settings
            .iter()
            .map(|(name, value)| (*name, value))
            .chain(options.settings.iter().map(|(name, value)| (name.as_str(), value)))
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect();
        self.folder.write("data/postgresql.conf", &settings);
        let host = if options.tls.is_some() { "hostssl" } else { "host" };
        let method = if options.password.is_some() { "scram-sha-256" } else { "trust" };
        let clients = if options.address.is_some() { "samenet" } else { "127.0.0.1/32" };
        let rules = format!(
            "local all,replication all {method}\n\
             {host} all,replication all {clients} {method}\n"
        );
        self.folder.write("data/pg_hba.conf", &rules);
    }

    /// Starts the server and waits until it accepts connections. Returns the log if it ends.
    fn launch(&self) -> Result<(), String> {
        let mut postmaster = self.postmaster.lock().unwrap();
        assert!(postmaster.is_none(), "the cluster runs already");
        let process = postmaster.insert(
            self.folder.spawn(&mut self.folder.command(&program("postgres")), ["-D", "data"]),
        );
        let pid = process.id().to_string();
        let file = self.folder.path.join("data/postmaster.pid");
        let end = Instant::now() + DEADLINE;
        loop {
            if process.try_wait().unwrap().is_some() {
                *postmaster = None;
                return Err(self.log());
            }
            // pg_ctl decides by the same lines.
            let text = fs::read_to_string(&file).unwrap_or_default();
            let mut lines = text.lines().map(str::trim);
            if lines.next() == Some(&pid) && lines.nth(6) == Some("ready") {
                return Ok(());
            }
            assert!(Instant::now() < end, "PostgreSQL is not ready: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Creates a certificate authority and the certificate of the server.
    fn create_certificate(&self, host: &str) {
        let mut ca = CertificateParams::new([]).unwrap();
        ca.distinguished_name.push(DnType::CommonName, "resttool test CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let ca_key = KeyPair::generate().unwrap();
        self.folder.write("ca.pem", &ca.self_signed(&ca_key).unwrap().pem());
        let mut server = CertificateParams::new([host.to_owned()]).unwrap();
        server.distinguished_name.push(DnType::CommonName, host);
        let key = KeyPair::generate().unwrap();
        let certificate = server.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        self.folder.write("server.pem", &certificate.pem());
        self.folder.write("server.key", &key.serialize_pem());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.folder.remove();
        reap(&self.postmaster);
    }
}

/// Returns a command of PostgreSQL's client programs, as the user of the test.
fn client(name: &str) -> Command {
    command(&program(name), None)
}

/// Returns the path of a program of PostgreSQL.
fn program(name: &str) -> PathBuf {
    postgres_bin().expect("PostgreSQL is not installed").join(name)
}

fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect()
}

fn url(host: &str, port: u16, password: Option<&str>, database: &str) -> String {
    let password = password.map(|password| format!(":{}", encode(password))).unwrap_or_default();
    format!("postgres://{USER}{password}@{}:{port}/{}", encode(host), encode(database))
}

/// Percent-encodes all but unreserved characters (RFC 3986, section 2.3).
fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}
