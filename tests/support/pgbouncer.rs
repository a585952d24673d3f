//! PgBouncer for tests, in front of a cluster.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Mutex;

use super::postgres_folder::{Folder, reap};
use super::{Cluster, USER, psql, search_path, url, wait_until};

/// Part of the name of the Unix socket.
const BOUNCER_PORT: u16 = 6432;

/// Returns the program `pgbouncer`, which Debian has in `/usr/sbin`.
pub fn pgbouncer() -> Option<PathBuf> {
    search_path()
        .into_iter()
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file())
}

/// PgBouncer in transaction mode between clients and a cluster, at a Unix socket.
pub struct Bouncer {
    password: Option<String>,
    process: Mutex<Option<Child>>,
    folder: Folder,
}

impl Bouncer {
    /// Starts PgBouncer in front of all databases of a cluster.
    pub fn start(cluster: &Cluster) -> Self {
        let folder = Folder::new("resttool-pgbouncer-");
        let (socket, server) = (folder.path.display(), cluster.folder().display());
        let configuration = format!(
            "[databases]\n\
             * = host={server} port={}\n\
             [pgbouncer]\n\
             unix_socket_dir = {socket}\n\
             listen_port = {BOUNCER_PORT}\n\
             pool_mode = transaction\n\
             auth_type = trust\n\
             auth_file = {socket}/users\n\
             admin_users = {USER}\n\
             ignore_startup_parameters = extra_float_digits\n",
            cluster.port
        );
        folder.write("pgbouncer.ini", &configuration);
        let password = cluster.options.password.clone();
        let quoted = password.as_deref().unwrap_or_default().replace('"', "\"\"");
        folder.write("users", &format!("\"{USER}\" \"{quoted}\"\n"));
        let mut bouncer = Self { password, process: Mutex::new(None), folder };
        bouncer.start_again();
        bouncer
    }

    /// Returns the URL of a database through PgBouncer.
    pub fn url(&self, database: &str) -> String {
        let host = self.folder.path.to_str().unwrap();
        url(host, BOUNCER_PORT, self.password.as_deref(), database)
    }

    /// Waits for running transactions, and holds back later ones.
    pub fn pause(&self) {
        psql(&self.url("pgbouncer"), "PAUSE").unwrap();
    }

    /// Lets transactions run again.
    pub fn resume(&self) {
        psql(&self.url("pgbouncer"), "RESUME").unwrap();
    }

    /// Kills PgBouncer with SIGKILL.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        if let Some(mut process) = process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts a killed PgBouncer at the same address.
    pub fn start_again(&mut self) {
        let program = pgbouncer().expect("pgbouncer is not installed");
        let process = self.process.get_mut().unwrap();
        assert!(process.is_none(), "PgBouncer runs already");
        let process = process
            .insert(self.folder.spawn(&mut self.folder.command(&program), ["-q", "pgbouncer.ini"]));
        let socket = self.folder.path.join(format!(".s.PGSQL.{BOUNCER_PORT}"));
        wait_until("PgBouncer listens", || {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "PgBouncer does not start: {}", self.folder.read("log"));
            UnixStream::connect(&socket).is_ok()
        });
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        self.folder.remove();
        reap(&self.process);
    }
}
