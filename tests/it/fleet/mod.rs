//! Several servers and commands, each a process of its own, on one PostgreSQL.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::support::cli::{Completed, ServerProcess, command, finish};
use crate::support::client::{Connection, Request, Response};
use crate::support::postgres::{Cluster, ClusterOptions};
use crate::support::store::{TempStore, hash_of};

mod changes;
mod commit;
mod failover;
mod hints;
mod outage;
mod partition;
mod patroni;
mod revocation;
mod schema;
mod tls;

/// The password of each user.
const PASSWORD: &str = "open-sesame";
/// The length of the lease if `database init` is given none.
const LEASE: Duration = Duration::from_secs(1);

/// Returns a cluster that listens on TCP, which the tests of this process share.
fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::with(ClusterOptions { tcp: true, ..Default::default() }))
}

/// A database with the schema, and a home folder for servers and commands.
struct Fleet<'a> {
    cluster: &'a Cluster,
    database: String,
    home: TempStore,
}

impl<'a> Fleet<'a> {
    /// Creates a database with the schema.
    fn new(cluster: &'a Cluster) -> Self {
        let fleet = Self::without_schema(cluster);
        fleet.succeed("database init", "");
        fleet
    }

    /// Creates an empty database.
    fn without_schema(cluster: &'a Cluster) -> Self {
        Self { cluster, database: cluster.create_database(), home: TempStore::new() }
    }

    fn url(&self) -> String {
        self.cluster.url(&self.database)
    }

    /// Returns the URL at another address, e.g. the one of a proxy.
    fn url_at(&self, address: SocketAddr) -> String {
        self.cluster.url_at(address, &self.database)
    }

    fn command_at(&self, url: &str, words: &str) -> Command {
        let words = words.split(' ').chain(["--database", url]);
        let mut command = command(self.home.folder(), words);
        // The lowest one: these tests are not about time.
        command.env("RESTTOOL_COST", "4");
        command
    }

    fn run_at(&self, url: &str, words: &str, input: &str) -> Completed {
        finish(self.command_at(url, words), input)
    }

    fn run(&self, words: &str, input: &str) -> Completed {
        self.run_at(&self.url(), words, input)
    }

    /// Runs a command that has to succeed. Returns its standard output.
    fn succeed(&self, words: &str, input: &str) -> String {
        let outcome = self.run(words, input);
        assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
        outcome.stdout
    }

    fn psql(&self, sql: &str) -> String {
        self.cluster.psql(&self.database, sql)
    }

    /// Adds users in the group `wine` with the same password, without commands.
    fn add<'n>(&self, names: impl IntoIterator<Item = &'n str>) {
        let hash = hash_of(PASSWORD);
        let names: Vec<_> = names.into_iter().map(|name| format!("('{name}')")).collect();
        let names = names.join(", ");
        self.psql(&format!(
            "INSERT INTO resttool.users (name, hash) \
             SELECT name, '{}' FROM (VALUES {names}) AS names (name);
             INSERT INTO resttool.memberships \
             SELECT name, 'wine' FROM (VALUES {names}) AS names (name)",
            hash.as_str()
        ));
    }

    /// Starts a server without limits on failures.
    fn serve(&self, words: &str) -> ServerProcess {
        self.serve_at(&self.url(), words)
    }

    /// Starts a server that reaches the database at this URL.
    fn serve_at(&self, url: &str, words: &str) -> ServerProcess {
        let words = format!("serve --port 0 --source-failures 0 --user-failures 0 {words}",);
        ServerProcess::start(self.command_at(url, words.trim_end()))
    }
}

fn login(user: &str) -> Request {
    Request::get("/rest-auth").basic(user, PASSWORD)
}

/// Opens a connection on which the password is in the cache of the server.
fn verified(server: &ServerProcess, user: &str) -> Connection {
    let mut connection = Connection::open(server.address);
    let status = eventually(|| Some(connection.send(&login(user)).status).filter(|s| *s != 503));
    assert_eq!((status, connection.send(&login(user)).status), (200, 200), "{user}");
    connection
}

/// Returns the status of a login on a new connection. The server closes one that was idle for long.
fn status(server: &ServerProcess, user: &str) -> u16 {
    login(user).send(server.address).status
}

/// Polls every 10 ms until there is a value. Panics after 30 s.
fn eventually<T>(mut poll: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = poll() {
            return value;
        }
        assert!(Instant::now() < end, "timed out");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a request, and returns the response with the time that it took.
fn timed(connection: &mut Connection, request: &Request) -> (Response, Duration) {
    let start = Instant::now();
    (connection.send(request), start.elapsed())
}
