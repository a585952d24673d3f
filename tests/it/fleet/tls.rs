//! TLS and passwords of the database.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::cli::{Completed, command, finish};
use crate::support::postgres::{Cluster, ClusterOptions};
use crate::support::store::TempStore;

const SECRET: &str = "a secret of the superuser";

/// A database with TLS and passwords, and a home folder for commands.
struct Secured {
    cluster: Cluster,
    home: TempStore,
}

impl Secured {
    /// Starts a cluster whose certificate is for `localhost`.
    fn start() -> Self {
        let (tls, password) = (Some("localhost".to_owned()), Some(SECRET.to_owned()));
        let cluster = Cluster::with(ClusterOptions { tls, password, ..ClusterOptions::default() });
        Self { cluster, home: TempStore::new() }
    }

    fn url(&self, host: &str, parameters: &str) -> String {
        let port = self.cluster.address().unwrap().port();
        format!("postgres://postgres@{host}:{port}/postgres?{parameters}")
    }

    fn verified_url(&self) -> String {
        self.url("localhost", &format!("sslrootcert={}", self.cluster.ca_path().display()))
    }

    /// Runs a command with variables of the environment.
    fn run(&self, words: &str, url: &str, variables: &[(&str, &str)]) -> Completed {
        let words = words.split(' ').chain(["--database", url]);
        let mut command = command(self.home.folder(), words);
        command.envs(variables.iter().copied());
        finish(command, "")
    }

    fn refused(&self, url: &str, variables: &[(&str, &str)], code: i32, parts: &[&str]) {
        let outcome = self.run("userlist", url, variables);
        assert_eq!(outcome.code, code, "{url}: {}", outcome.stderr);
        for part in parts {
            assert!(outcome.stderr.contains(part), "{url}: {part} in {}", outcome.stderr);
        }
        assert!(!outcome.stderr.contains(SECRET), "{}", outcome.stderr);
    }
}

/// Writes a certificate of another authority.
fn other_ca(folder: &Path) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new([]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let path = folder.join("other.pem");
    fs::write(&path, ca.self_signed(&key).unwrap().pem()).unwrap();
    path.display().to_string()
}

/// F-12: chain and name are verified unless the URL says otherwise.
#[test]
#[ignore = "needs PostgreSQL"]
fn certificate_of_the_database_is_verified() {
    let secured = Secured::start();
    let password = [("PGPASSWORD", SECRET)];
    let outcome = secured.run("database init", &secured.verified_url(), &password);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let other = other_ca(secured.home.folder());
    let ca = secured.cluster.ca_path();
    let ca = ca.display();
    for (host, parameters) in [
        ("localhost", format!("sslmode=verify-full&sslrootcert={ca}")),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={ca}")),
        ("127.0.0.1", "sslmode=require".to_owned()),
    ] {
        let outcome = secured.run("userlist", &secured.url(host, &parameters), &password);
        assert_eq!(outcome.code, 0, "{parameters}: {}", outcome.stderr);
    }
    for (host, parameters, code, why) in [
        ("127.0.0.1", format!("sslrootcert={ca}"), 1, "not valid for name"),
        ("localhost", format!("sslrootcert={other}"), 1, "invalid peer certificate"),
        (
            "localhost",
            format!("sslmode=verify-ca&sslrootcert={other}"),
            1,
            "invalid peer certificate",
        ),
        // The authorities of the system do not know that of the cluster.
        ("localhost", "sslmode=verify-full".to_owned(), 1, "UnknownIssuer"),
        ("localhost", "sslrootcert=/nowhere.pem".to_owned(), 1, "cannot read /nowhere.pem: "),
        ("localhost", "sslmode=prefer".to_owned(), 2, "prefer"),
        ("localhost", "sslmode=allow".to_owned(), 2, "allow"),
        ("localhost", "sslmode=disable".to_owned(), 1, "no encryption"),
    ] {
        secured.refused(&secured.url(host, &parameters), &password, code, &[why]);
    }
}

/// F-12: the password comes from the environment or a file, and never from the URL.
#[test]
#[ignore = "needs PostgreSQL"]
fn password_of_the_database_is_in_no_argument() {
    let secured = Secured::start();
    let url = secured.verified_url();
    let outcome = secured.run("database init", &url, &[("PGPASSWORD", SECRET)]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let file = secured.home.folder().join("passwords");
    let passfile = file.display().to_string();
    let port = secured.cluster.address().unwrap().port();
    let write = |password: &str, mode| {
        let lines = format!("other:*:*:*:wrong\nlocalhost:{port}:postgres:postgres:{password}\n");
        fs::write(&file, lines).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    };
    write(SECRET, 0o600);
    let outcome = secured.run("userlist", &url, &[("PGPASSFILE", &passfile)]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let failed = "password authentication failed for user";
    secured.refused(&url, &[("PGPASSWORD", "wrong")], 1, &[failed]);
    secured.refused(&url, &[], 1, &["password"]);
    write(SECRET, 0o644);
    secured.refused(&url, &[("PGPASSFILE", &passfile)], 1, &[&passfile, "chmod"]);
    write("wrong", 0o600);
    secured.refused(&url, &[("PGPASSFILE", &passfile)], 1, &[failed]);
    // `refused` looks for the secret in the messages.
    let secret = SECRET.replace(' ', "%20");
    for url in [
        url.replace("postgres@", &format!("postgres:{secret}@")),
        format!("{url}&password={secret}"),
    ] {
        let outcome = secured.run("userlist", &url, &[]);
        assert_eq!(outcome.code, 2, "{}", outcome.stderr);
        assert!(!outcome.stderr.contains("secret"), "{}", outcome.stderr);
        for part in ["password", "PGPASSWORD"] {
            assert!(outcome.stderr.contains(part), "{part} in {}", outcome.stderr);
        }
    }
}
