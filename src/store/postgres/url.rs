//! URLs of PostgreSQL databases (PostgreSQL 17 documentation, section 34.1.1.2).
//!
//! Parses what libpq parses, and is stricter: a URL holds no password, an unknown or repeated
//! parameter is an error, and so is every TLS mode that an attacker on the network can downgrade.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::net::Ipv6Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::text::quoted;

/// The port of a server if the URL gives none.
pub const DEFAULT_PORT: u16 = 5432;

/// The folder of the Unix socket if the URL gives no host, as in the packages of the distributions.
pub const DEFAULT_SOCKET_FOLDER: &str = "/var/run/postgresql";

/// The maximum number of hosts in a URL.
pub const MAX_HOSTS: usize = 16;

/// The maximum of `connect_timeout`, in seconds.
const MAX_CONNECT_TIMEOUT: u64 = 60;

/// Everything but the unreserved characters of RFC 3986 section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The parameters of a query. The user, hosts, ports and database before it are stored under the
/// same names.
const PARAMETERS: [&str; 10] = [
    "connect_timeout",
    "dbname",
    "host",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "target_session_attrs",
    "user",
];

/// The location of a PostgreSQL database, and the verification of its server. Holds no password.
///
/// `Display` prints a URL that parses to the same value.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PostgresUrl {
    hosts: Vec<PostgresHost>,
    user: Option<String>,
    database: Option<String>,
    tls: TlsMode,
    root_certificates: Option<PathBuf>,
    client_certificate: Option<(PathBuf, PathBuf)>,
    connect_timeout: Option<Duration>,
}

/// A server of a PostgreSQL URL. `Display` prints it as a part of the URL.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PostgresHost {
    /// A server that is reached over TCP.
    Tcp {
        /// The host name or IP address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A server on this machine.
    Unix {
        /// The absolute path of the folder with the socket.
        folder: PathBuf,
        /// The port, which is the extension of the socket's name (`.s.PGSQL.5432`).
        port: u16,
    },
}

/// The protection of a TCP connection (`sslmode`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS with any certificate. An attacker who can redirect the connection can read it.
    Require,
    /// TLS with a certificate of the root certificates, for any host name.
    VerifyCa,
    /// TLS with a certificate of the root certificates for the host of the URL.
    VerifyFull,
}

impl TlsMode {
    /// Returns the value of `sslmode`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    fn parse(text: &str) -> Result<Self, UrlProblem> {
        match text {
            "disable" => Ok(Self::Disable),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            "allow" => Err(UrlProblem::Fallback("allow")),
            "prefer" => Err(UrlProblem::Fallback("prefer")),
            other => Err(UrlProblem::SslMode(other.to_owned())),
        }
    }
}

impl PostgresUrl {
    /// Returns true if the text begins with `postgres://` or `postgresql://` in any case.
    #[must_use]
    pub fn is_url(text: &str) -> bool {
        strip_scheme(text).is_some()
    }

    /// Parses a URL.
    ///
    /// # Errors
    /// Fails for one of the reasons of `UrlProblem`. The error contains no password.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        Ok(Self::parse_parts(text)?)
    }

    fn parse_parts(text: &str) -> Result<Self, UrlProblem> {
        let rest = strip_scheme(text).ok_or(UrlProblem::Scheme)?;
        let (user, rest) = split_user(rest)?;
        if text.contains(' ') {
            return Err(UrlProblem::Space);
        }
        let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (servers, database) = location.split_once('/').unwrap_or((location, ""));

        let mut given = Given::default();
        if let Some(user) = user {
            given.insert("user", decode(user)?)?;
        }
        given.insert_servers(servers)?;
        if !database.is_empty() {
            given.insert("dbname", decode(database)?)?;
        }
        given.insert_query(query)?;
        given.into_url()
    }

    /// Returns the servers in the order of the URL: 1 to `MAX_HOSTS`.
    #[must_use]
    pub fn hosts(&self) -> &[PostgresHost] {
        &self.hosts
    }

    /// Returns the user of the URL, or the name of the system user if it has none.
    #[must_use]
    pub fn user_or<'a>(&'a self, system: &'a str) -> &'a str {
        self.user.as_deref().unwrap_or(system)
    }

    /// Returns the database of the URL, or the one that is named like the user if it has none.
    #[must_use]
    pub fn database_or<'a>(&'a self, user: &'a str) -> &'a str {
        self.database.as_deref().unwrap_or(user)
    }

    /// Returns the protection of a connection to this server. Unix sockets have no TLS.
    #[must_use]
    pub fn tls_for(&self, host: &PostgresHost) -> TlsMode {
        match host {
            PostgresHost::Tcp { .. } => self.tls,
            PostgresHost::Unix { .. } => TlsMode::Disable,
        }
    }

    /// Returns the file of root certificates. `None` stands for those of the system. Always a file
    /// with `TlsMode::VerifyCa`.
    #[must_use]
    pub fn root_certificates(&self) -> Option<&Path> {
        self.root_certificates.as_deref()
    }

    /// Returns the file of the client certificate and the file of its key.
    #[must_use]
    pub fn client_certificate(&self) -> Option<(&Path, &Path)> {
        let (certificate, key) = self.client_certificate.as_ref()?;
        Some((certificate, key))
    }

    /// Returns the time for a connection to one server: 1 s to 60 s.
    #[must_use]
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = &self.user {
            write!(f, "{}@", encode(user))?;
        }
        for (n, host) in self.hosts.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{host}")?;
        }
        if let Some(database) = &self.database {
            write!(f, "/{}", encode(database))?;
        }
        let client = self.client_certificate.as_ref();
        let parameters = [
            ("sslmode", (self.tls != TlsMode::VerifyFull).then(|| self.tls.as_str().to_owned())),
            ("sslrootcert", self.root_certificates.as_ref().map(encode)),
            ("sslcert", client.map(|(certificate, _)| encode(certificate))),
            ("sslkey", client.map(|(_, key)| encode(key))),
            ("connect_timeout", self.connect_timeout.map(|time| time.as_secs().to_string())),
        ];
        let given = parameters.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        for (n, (name, value)) in given.enumerate() {
            let separator = if n == 0 { '?' } else { '&' };
            write!(f, "{separator}{name}={value}")?;
        }
        Ok(())
    }
}

impl PostgresHost {
    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Tcp { port, .. } | Self::Unix { port, .. } => *port,
        }
    }

    fn parse(text: &str, port: u16) -> Result<Self, UrlProblem> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if text.is_empty() {
            Ok(Self::Unix { folder: DEFAULT_SOCKET_FOLDER.into(), port })
        } else if text.starts_with('/') {
            Ok(Self::Unix { folder: text.into(), port })
        } else if text.starts_with('@') {
            Err(UrlProblem::AbstractSocket)
        } else if text.chars().all(is_name) || text.parse::<Ipv6Addr>().is_ok() {
            Ok(Self::Tcp { host: text.to_owned(), port })
        } else {
            Err(UrlProblem::Host(text.to_owned()))
        }
    }
}

impl fmt::Display for PostgresHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, .. } if host.contains(':') => write!(f, "[{host}]")?,
            Self::Tcp { host, .. } => f.write_str(host)?,
            Self::Unix { folder, .. } => f.write_str(&encode(folder))?,
        }
        match self.port() {
            DEFAULT_PORT => Ok(()),
            port => write!(f, ":{port}"),
        }
    }
}

/// The parameters of a URL by their names, decoded and not empty. As in libpq, `host` and `port`
/// are lists that commas separate.
#[derive(Default)]
struct Given(BTreeMap<&'static str, String>);

impl Given {
    fn insert(&mut self, name: &str, value: String) -> Result<(), UrlProblem> {
        let Some(name) = PARAMETERS.into_iter().find(|known| *known == name) else {
            return Err(UrlProblem::UnknownParameter(name.to_owned()));
        };
        if value.is_empty() {
            return Err(UrlProblem::Empty(name));
        }
        match self.0.insert(name, value) {
            None => Ok(()),
            Some(_) => Err(UrlProblem::GivenTwice(name)),
        }
    }

    /// Inserts the hosts and ports between the user and the database.
    fn insert_servers(&mut self, servers: &str) -> Result<(), UrlProblem> {
        let mut hosts = Vec::new();
        let mut ports = Vec::new();
        for server in servers.split(',') {
            let (host, port) = match server.strip_prefix('[') {
                Some(bracketed) => split_bracketed(bracketed)
                    .ok_or_else(|| UrlProblem::BracketedHost(server.to_owned()))?,
                None => server.split_once(':').unwrap_or((server, "")),
            };
            hosts.push(decode(host)?);
            ports.push(decode(port)?);
        }
        if hosts.len() > 1 || hosts.iter().any(|host| !host.is_empty()) {
            self.insert("host", hosts.join(","))?;
        }
        if ports.iter().any(|port| !port.is_empty()) {
            self.insert("port", ports.join(","))?;
        }
        Ok(())
    }

    fn insert_query(&mut self, query: &str) -> Result<(), UrlProblem> {
        if query.is_empty() {
            return Ok(());
        }
        for parameter in query.split('&') {
            let (name, value) = parameter.split_once('=').ok_or(UrlProblem::NotAParameter)?;
            let name = decode(name)?;
            if name == "password" {
                return Err(UrlProblem::Password);
            }
            if value.contains('=') {
                return Err(UrlProblem::NotAParameter);
            }
            self.insert(&name, decode(value)?)?;
        }
        Ok(())
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    fn into_url(mut self) -> Result<PostgresUrl, UrlProblem> {
        let hosts = self.take_hosts()?;
        let (tls, root_certificates) = self.take_tls()?;
        let client_certificate = match (self.take("sslcert"), self.take("sslkey")) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            (Some(_), None) => return Err(UrlProblem::Incomplete("sslcert", "sslkey")),
            (None, Some(_)) => return Err(UrlProblem::Incomplete("sslkey", "sslcert")),
        };
        let connect_timeout = match self.take("connect_timeout") {
            None => None,
            Some(text) => match parse_number(&text) {
                Some(seconds @ 1..=MAX_CONNECT_TIMEOUT) => Some(Duration::from_secs(seconds)),
                _ => return Err(UrlProblem::ConnectTimeout(text)),
            },
        };
        // The store always looks for the primary.
        match self.take("target_session_attrs").as_deref() {
            None | Some("read-write" | "primary" | "any") => {}
            Some(other) => return Err(UrlProblem::SessionAttributes(other.to_owned())),
        }
        Ok(PostgresUrl {
            hosts,
            user: self.take("user"),
            database: self.take("dbname"),
            tls,
            root_certificates,
            client_certificate,
            connect_timeout,
        })
    }

    /// Combines hosts and ports. An empty host is the default socket, an empty port the default
    /// port, and one port is that of all hosts (documentation, section 34.1.2).
    fn take_hosts(&mut self) -> Result<Vec<PostgresHost>, UrlProblem> {
        let (hosts, ports) = (self.take("host"), self.take("port"));
        let hosts: Vec<_> = hosts.as_deref().unwrap_or("").split(',').collect();
        let ports = ports.as_deref().unwrap_or("").split(',').map(parse_port);
        let ports = ports.collect::<Result<Vec<_>, _>>()?;
        if hosts.len() > MAX_HOSTS {
            return Err(UrlProblem::TooManyHosts);
        }
        if ![1, hosts.len()].contains(&ports.len()) {
            return Err(UrlProblem::PortCount { hosts: hosts.len(), ports: ports.len() });
        }
        let ports = ports.iter().cycle();
        hosts.into_iter().zip(ports).map(|(host, port)| PostgresHost::parse(host, *port)).collect()
    }

    /// Combines `sslmode` and `sslrootcert`.
    fn take_tls(&mut self) -> Result<(TlsMode, Option<PathBuf>), UrlProblem> {
        let mode = self.take("sslmode").map(|text| TlsMode::parse(&text)).transpose()?;
        let mode = mode.unwrap_or(TlsMode::VerifyFull);
        match (mode, self.take("sslrootcert")) {
            (TlsMode::VerifyFull, Some(root)) if root == "system" => Ok((mode, None)),
            // As in libpq: a public authority certifies the names of attackers too.
            (_, Some(root)) if root == "system" => Err(UrlProblem::WeakSystemRoots),
            (TlsMode::VerifyCa, None) => Err(UrlProblem::WeakSystemRoots),
            // As in libpq (documentation, section 34.19.1).
            (TlsMode::Require, Some(root)) => Ok((TlsMode::VerifyCa, Some(root.into()))),
            (_, root) => Ok((mode, root.map(PathBuf::from))),
        }
    }
}

fn strip_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once("://")?;
    let is_known = ["postgres", "postgresql"].iter().any(|s| s.eq_ignore_ascii_case(scheme));
    is_known.then_some(rest)
}

/// Splits the user, if there is one, from the rest of the URL. Refuses all URLs that may hold a
/// password, before any error shows a part of them.
fn split_user(rest: &str) -> Result<(Option<&str>, &str), UrlProblem> {
    let (user, rest) = match rest.split_once('@') {
        Some((user, _)) if user.contains('/') => (None, rest),
        Some((user, _)) if user.contains(':') => return Err(UrlProblem::Password),
        // libpq would read "host?sslkey=a@b" as a user and a host.
        Some((user, _)) if user.contains('?') => return Err(UrlProblem::AmbiguousAt),
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    // The password of "user:pass/word@host" is not recognized above.
    match rest.rsplit_once('@') {
        Some((before, _)) if before.contains(':') => Err(UrlProblem::AmbiguousAt),
        _ => Ok((user, rest)),
    }
}

/// Splits `::1]:5432` into address and port.
fn split_bracketed(text: &str) -> Option<(&str, &str)> {
    let (host, rest) = text.split_once(']')?;
    host.parse::<Ipv6Addr>().ok()?;
    let port = if rest.is_empty() { "" } else { rest.strip_prefix(':')? };
    Some((host, port))
}

/// Parses a port, of which errors show nothing: "user:secret" without a host is a mistake that
/// users make.
fn parse_port(text: &str) -> Result<u16, UrlProblem> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    if text.contains(':') {
        return Err(UrlProblem::NoBrackets);
    }
    let port = parse_number(text).and_then(|port| u16::try_from(port).ok());
    port.filter(|port| *port != 0).ok_or(UrlProblem::Port)
}

/// Parses decimal digits, without the sign that the standard library accepts.
fn parse_number(text: &str) -> Option<u64> {
    text.bytes().all(|c| c.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn decode(text: &str) -> Result<String, UrlProblem> {
    // The crate leaves an invalid "%" as it is.
    for escape in text.split('%').skip(1) {
        let digits = escape.bytes().take(2).filter(u8::is_ascii_hexdigit);
        if digits.count() != 2 {
            return Err(UrlProblem::PercentEncoding);
        }
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| UrlProblem::NotUtf8)?;
    if decoded.chars().any(char::is_control) {
        return Err(UrlProblem::Control);
    }
    Ok(decoded.into_owned())
}

fn encode(text: impl AsRef<OsStr>) -> String {
    percent_encode(text.as_ref().as_bytes(), RESERVED).to_string()
}

/// A text is not a usable URL of a database.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cannot parse PostgreSQL URL: {0}")]
pub struct UrlError(#[from] UrlProblem);

impl UrlError {
    /// Returns the reason.
    #[must_use]
    pub fn problem(&self) -> &UrlProblem {
        &self.0
    }

    /// Returns advice, if there is any.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match &self.0 {
            UrlProblem::Scheme => Some("write postgres://USER@HOST/DATABASE"),
            UrlProblem::Password => Some("give it in PGPASSWORD or in the file ~/.pgpass"),
            UrlProblem::AmbiguousAt => {
                Some("write %40 for it, and give a password in PGPASSWORD or in the file ~/.pgpass")
            }
            UrlProblem::PercentEncoding => Some("write a % in a value as %25"),
            UrlProblem::Space => Some("write a space as %20"),
            UrlProblem::NoBrackets => Some("write the address as [::1]:5432"),
            UrlProblem::AbstractSocket => {
                Some("use the folder of a socket, e.g. /var/run/postgresql")
            }
            UrlProblem::Fallback(_) => Some("use sslmode=verify-full"),
            UrlProblem::WeakSystemRoots => {
                Some("use sslmode=verify-full, or give sslrootcert with the file of your authority")
            }
            _ => None,
        }
    }
}

/// The reason why a text is not a usable URL. Contains no part that may hold a password.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UrlProblem {
    /// The scheme is another one.
    #[error("it begins with neither postgres:// nor postgresql://")]
    Scheme,
    /// The URL holds a password.
    #[error("it holds a password, and other users can see the arguments of a process")]
    Password,
    /// An `@` may end a password.
    #[error("an @ in it is not encoded and may end a password")]
    AmbiguousAt,
    /// An invalid escape.
    #[error("a % is not followed by two hexadecimal digits")]
    PercentEncoding,
    /// Escapes that are not UTF-8.
    #[error("a decoded value is not UTF-8")]
    NotUtf8,
    /// A control character, including NUL.
    #[error("it holds a control character")]
    Control,
    /// A space that is not encoded.
    #[error("it holds a space that is not encoded")]
    Space,
    /// This parameter has no value.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// This parameter is given twice.
    #[error("{0} is given twice")]
    GivenTwice(&'static str),
    /// This parameter is not known.
    #[error("unknown parameter {}", quoted(.0))]
    UnknownParameter(String),
    /// A part of the query is not a name, `=` and a value.
    #[error("a parameter is not of the form NAME=VALUE")]
    NotAParameter,
    /// An invalid host.
    #[error("{} is not a host name, an IP address or the absolute path of a folder", quoted(.0))]
    Host(String),
    /// Brackets that hold no IPv6 address.
    #[error("{} is not an IPv6 address in brackets", quoted(.0))]
    BracketedHost(String),
    /// An IPv6 address without brackets.
    #[error("an IPv6 address is not in brackets")]
    NoBrackets,
    /// An abstract Unix socket.
    #[error("abstract Unix sockets are not supported")]
    AbstractSocket,
    /// More than `MAX_HOSTS` hosts.
    #[error("it has more than {MAX_HOSTS} hosts")]
    TooManyHosts,
    /// An invalid port.
    #[error("a port is not a number from 1 to 65535")]
    Port,
    /// Several ports, but not one for each host.
    #[error("the number of ports ({ports}) is not the number of hosts ({hosts})")]
    PortCount {
        /// The number of hosts.
        hosts: usize,
        /// The number of ports.
        ports: usize,
    },
    /// An invalid `sslmode`.
    #[error("sslmode {} is not disable, require, verify-ca or verify-full", quoted(.0))]
    SslMode(String),
    /// This `sslmode` falls back to an unencrypted connection.
    #[error("sslmode {0} falls back to an unencrypted connection")]
    Fallback(&'static str),
    /// The system's root certificates without a verified host name.
    #[error("without sslmode verify-full, the system's root certificates accept any server")]
    WeakSystemRoots,
    /// The first parameter is given without the second.
    #[error("{0} is given without {1}")]
    Incomplete(&'static str, &'static str),
    /// An invalid `connect_timeout`.
    #[error(
        "connect_timeout {} is not a number from 1 to {MAX_CONNECT_TIMEOUT} (seconds)",
        quoted(.0)
    )]
    ConnectTimeout(String),
    /// An unsupported `target_session_attrs`.
    #[error("target_session_attrs {} is not read-write, primary or any", quoted(.0))]
    SessionAttributes(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> PostgresUrl {
        PostgresUrl::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn error(text: &str) -> UrlError {
        match PostgresUrl::parse(text) {
            Err(e) => e,
            Ok(url) => panic!("{text} parses to {url:?}"),
        }
    }

    fn tcp(host: &str, port: u16) -> PostgresHost {
        PostgresHost::Tcp { host: host.to_owned(), port }
    }

    fn unix(folder: &str, port: u16) -> PostgresHost {
        PostgresHost::Unix { folder: folder.into(), port }
    }

    /// A value of all defaults with these hosts.
    fn at(hosts: impl Into<Vec<PostgresHost>>) -> PostgresUrl {
        PostgresUrl {
            hosts: hosts.into(),
            user: None,
            database: None,
            tls: TlsMode::VerifyFull,
            root_certificates: None,
            client_certificate: None,
            connect_timeout: None,
        }
    }

    #[test]
    fn url_is_recognized_by_its_scheme() {
        for url in ["postgres://", "postgresql://h", "POSTGRES://h", "Postgresql://h/db"] {
            assert!(PostgresUrl::is_url(url), "{url}");
            assert!(PostgresUrl::parse(url).is_ok(), "{url}");
        }
        for path in ["", "postgres", "postgres:", "postgres:/h", "/postgres://h", "postgresq://h"] {
            assert!(!PostgresUrl::is_url(path), "{path}");
            assert_eq!(error(path).problem(), &UrlProblem::Scheme, "{path}");
        }
    }

    #[test]
    fn hosts_and_ports_are_those_of_libpq() {
        let default = |port| unix("/var/run/postgresql", port);
        let socket = |port| unix("/run/postgresql", port);
        let cases: &[(&str, &[PostgresHost])] = &[
            ("", &[default(5432)]),
            ("/", &[default(5432)]),
            ("?", &[default(5432)]),
            (":5433", &[default(5433)]),
            ("h", &[tcp("h", 5432)]),
            ("h:", &[tcp("h", 5432)]),
            ("h:1", &[tcp("h", 1)]),
            ("h:65535/", &[tcp("h", 65535)]),
            ("h:%35433", &[tcp("h", 5433)]),
            ("db-1.my_zone.example", &[tcp("db-1.my_zone.example", 5432)]),
            ("192.0.2.1:5433", &[tcp("192.0.2.1", 5433)]),
            ("[::1]", &[tcp("::1", 5432)]),
            ("[2001:db8::1]:5433,h", &[tcp("2001:db8::1", 5433), tcp("h", 5432)]),
            ("h1:5433,h2,h3:5434", &[tcp("h1", 5433), tcp("h2", 5432), tcp("h3", 5434)]),
            ("h1,,h2", &[tcp("h1", 5432), default(5432), tcp("h2", 5432)]),
            ("h1,h2?port=5433", &[tcp("h1", 5433), tcp("h2", 5433)]),
            ("h1,h2?port=5433,5434", &[tcp("h1", 5433), tcp("h2", 5434)]),
            ("h1,h2?port=,5434", &[tcp("h1", 5432), tcp("h2", 5434)]),
            ("?host=h1,::1&port=5433", &[tcp("h1", 5433), tcp("::1", 5433)]),
            ("%2Frun%2Fpostgresql", &[socket(5432)]),
            ("%2frun%2fpostgresql:5433", &[socket(5433)]),
            ("?host=/run/postgresql", &[socket(5432)]),
            ("/?host=%2Frun%2Fpostgresql,h", &[socket(5432), tcp("h", 5432)]),
            (":5433/?host=/run/postgresql", &[socket(5433)]),
            ("%2Fa%2Ch", &[unix("/a", 5432), tcp("h", 5432)]),
        ];
        for (text, hosts) in cases {
            let url = parse(&format!("postgresql://{text}"));
            assert_eq!(url, at(*hosts), "{text}");
            assert_eq!(url.hosts(), *hosts);
        }
    }

    #[test]
    fn url_has_at_most_16_hosts() {
        let hosts = |count| format!("postgres://{}", vec!["h"; count].join(","));
        assert_eq!(parse(&hosts(16)).hosts().len(), 16);
        assert_eq!(error(&hosts(17)).problem(), &UrlProblem::TooManyHosts);
    }

    #[test]
    fn user_and_database_are_decoded_or_default() {
        let cases = [
            ("h", None, None),
            ("h/", None, None),
            ("roy@h", Some("roy"), None),
            ("roy@", Some("roy"), None),
            ("h/users", None, Some("users")),
            ("roy@h/users", Some("roy"), Some("users")),
            ("h?user=roy&dbname=users", Some("roy"), Some("users")),
            ("a%40b%3Ac%2f@h/x%20y%3f", Some("a@b:c/"), Some("x y?")),
            ("r%C3%B6y@h/üsers", Some("röy"), Some("üsers")),
            ("a+b@h/a/b#c", Some("a+b"), Some("a/b#c")),
            ("h/a@b", None, Some("a@b")),
        ];
        for (text, user, database) in cases {
            let url = parse(&format!("postgres://{text}"));
            assert_eq!(url.user.as_deref(), user, "{text}");
            assert_eq!(url.database.as_deref(), database, "{text}");
            assert_eq!(url.user_or("me"), user.unwrap_or("me"));
            assert_eq!(url.database_or("me"), database.unwrap_or("me"));
        }
    }

    #[test]
    fn tls_is_verified_unless_the_url_says_otherwise() {
        let cases = [
            ("", TlsMode::VerifyFull, None),
            ("sslmode=verify-full", TlsMode::VerifyFull, None),
            ("sslmode=verify-full&sslrootcert=system", TlsMode::VerifyFull, None),
            ("sslrootcert=system", TlsMode::VerifyFull, None),
            ("sslrootcert=/ca.pem", TlsMode::VerifyFull, Some("/ca.pem")),
            ("sslmode=verify-ca&sslrootcert=ca.pem", TlsMode::VerifyCa, Some("ca.pem")),
            ("sslmode=require", TlsMode::Require, None),
            ("sslmode=require&sslrootcert=ca.pem", TlsMode::VerifyCa, Some("ca.pem")),
            ("sslmode=disable", TlsMode::Disable, None),
        ];
        for (query, mode, roots) in cases {
            let url = parse(&format!("postgres://h,%2Frun?{query}"));
            assert_eq!(url.tls_for(&tcp("h", 5432)), mode, "{query}");
            assert_eq!(url.tls_for(&unix("/run", 5432)), TlsMode::Disable, "{query}");
            assert_eq!(url.root_certificates(), roots.map(Path::new), "{query}");
        }
    }

    #[test]
    fn other_parameters_are_parsed() {
        let url = parse("postgres://h?sslcert=/c%20c.pem&sslkey=k.pem&connect_timeout=60");
        let (certificate, key) = (Path::new("/c c.pem"), Path::new("k.pem"));
        assert_eq!(url.client_certificate(), Some((certificate, key)));
        assert_eq!(url.connect_timeout(), Some(Duration::from_secs(60)));
        let url = parse("postgres://h?connect_timeout=1");
        assert_eq!(url.connect_timeout(), Some(Duration::from_secs(1)));
        assert_eq!(url.client_certificate(), None);
        assert_eq!(parse("postgres://h").connect_timeout(), None);
        for attributes in ["read-write", "primary", "any"] {
            let url = parse(&format!("postgres://h?target_session_attrs={attributes}"));
            assert_eq!(url, at([tcp("h", 5432)]));
        }
    }

    #[test]
    fn invalid_url_is_refused_with_the_reason() {
        let cases = [
            ("h/%", "a % is not followed by two hexadecimal digits"),
            ("h/%4", "a % is not followed by two hexadecimal digits"),
            ("h/%4g", "a % is not followed by two hexadecimal digits"),
            ("h/%g4", "a % is not followed by two hexadecimal digits"),
            ("h/%%41", "a % is not followed by two hexadecimal digits"),
            ("h%@h", "a % is not followed by two hexadecimal digits"),
            ("h/%FF", "a decoded value is not UTF-8"),
            ("h/a%00b", "it holds a control character"),
            ("h/a\nb", "it holds a control character"),
            ("h/a%C2%9Bb", "it holds a control character"),
            ("a%1Bb@h", "it holds a control character"),
            ("h?sslrootcert=%7F", "it holds a control character"),
            ("h/a b", "it holds a space that is not encoded"),
            ("a b@h", "it holds a space that is not encoded"),
            ("@h", "user is empty"),
            ("h?user=", "user is empty"),
            ("h?dbname=", "dbname is empty"),
            ("?host=", "host is empty"),
            ("h?sslrootcert=", "sslrootcert is empty"),
            ("a@h?user=a", "user is given twice"),
            ("h/a?dbname=a", "dbname is given twice"),
            ("h?host=h", "host is given twice"),
            (",?host=h", "host is given twice"),
            ("h:1?port=1", "port is given twice"),
            ("h?sslmode=require&sslmode=require", "sslmode is given twice"),
            ("h?options=-csearch_path", "unknown parameter \"options\""),
            ("h?SSLMODE=disable", "unknown parameter \"SSLMODE\""),
            ("h?a%22b=1", "unknown parameter \"a\\\"b\""),
            ("h?=1", "unknown parameter \"\""),
            ("h?sslmode", "a parameter is not of the form NAME=VALUE"),
            ("h?sslmode=disable&", "a parameter is not of the form NAME=VALUE"),
            ("h?user=a=b", "a parameter is not of the form NAME=VALUE"),
            ("a$b", "\"a$b\" is not a host name, an IP address or the absolute path of a folder"),
            ("r%2Fp", "\"r/p\" is not a host name, an IP address or the absolute path of a folder"),
            ("h@x@h", "\"x@h\" is not a host name, an IP address or the absolute path of a folder"),
            (
                "?host=[::1]",
                "\"[::1]\" is not a host name, an IP address or the absolute path of a folder",
            ),
            ("[::1", "\"[::1\" is not an IPv6 address in brackets"),
            ("[]", "\"[]\" is not an IPv6 address in brackets"),
            ("[h]", "\"[h]\" is not an IPv6 address in brackets"),
            ("[127.0.0.1]", "\"[127.0.0.1]\" is not an IPv6 address in brackets"),
            ("[::1]5432", "\"[::1]5432\" is not an IPv6 address in brackets"),
            ("[fe80::1%25eth0]", "\"[fe80::1%25eth0]\" is not an IPv6 address in brackets"),
            ("::1", "an IPv6 address is not in brackets"),
            ("%40socket", "abstract Unix sockets are not supported"),
            ("/?host=@socket", "abstract Unix sockets are not supported"),
            ("h:0", "a port is not a number from 1 to 65535"),
            ("h:65536", "a port is not a number from 1 to 65535"),
            ("h:+1", "a port is not a number from 1 to 65535"),
            ("h:99999999999999999999", "a port is not a number from 1 to 65535"),
            ("user:secret/db", "a port is not a number from 1 to 65535"),
            ("h?port=1,x", "a port is not a number from 1 to 65535"),
            ("h?port=1,2", "the number of ports (2) is not the number of hosts (1)"),
            ("a,b,c?port=1,2", "the number of ports (2) is not the number of hosts (3)"),
            ("h?sslmode=on", "sslmode \"on\" is not disable, require, verify-ca or verify-full"),
            ("h?sslmode=prefer", "sslmode prefer falls back to an unencrypted connection"),
            ("h?sslmode=allow", "sslmode allow falls back to an unencrypted connection"),
            (
                "h?sslmode=verify-ca",
                "without sslmode verify-full, the system's root certificates accept any server",
            ),
            (
                "h?sslmode=verify-ca&sslrootcert=system",
                "without sslmode verify-full, the system's root certificates accept any server",
            ),
            (
                "h?sslmode=require&sslrootcert=system",
                "without sslmode verify-full, the system's root certificates accept any server",
            ),
            ("h?sslcert=a", "sslcert is given without sslkey"),
            ("h?sslkey=a", "sslkey is given without sslcert"),
            ("h?connect_timeout=0", "connect_timeout \"0\" is not a number from 1 to 60 (seconds)"),
            (
                "h?connect_timeout=61",
                "connect_timeout \"61\" is not a number from 1 to 60 (seconds)",
            ),
            (
                "h?connect_timeout=5s",
                "connect_timeout \"5s\" is not a number from 1 to 60 (seconds)",
            ),
            (
                "h?target_session_attrs=standby",
                "target_session_attrs \"standby\" is not read-write, primary or any",
            ),
        ];
        for (text, cause) in cases {
            let e = error(&format!("postgres://{text}"));
            assert_eq!(e.to_string(), format!("cannot parse PostgreSQL URL: {cause}"), "{text}");
        }
        let many = format!("postgres://{}", ",".repeat(16));
        let text = "cannot parse PostgreSQL URL: it has more than 16 hosts";
        assert_eq!(error(&many).to_string(), text);
        let text =
            "cannot parse PostgreSQL URL: it begins with neither postgres:// nor postgresql://";
        assert_eq!(error("mysql://h").to_string(), text);
    }

    #[test]
    fn password_is_refused_and_not_shown() {
        let password = "it holds a password, and other users can see the arguments of a process";
        let at = "an @ in it is not encoded and may end a password";
        let cases = [
            ("roy:s3cret@h/db", password),
            ("roy:@h", password),
            (":s3cret@h", password),
            ("roy:s3c ret@h", password),
            ("roy:s3c%ret@h:x", password),
            ("roy:s3c?ret@h", password),
            ("roy:s3c@ret@h", password),
            ("h/db?password=s3cret", password),
            ("h/db?passwor%64=s3=cret", password),
            ("h?user=a&password=", password),
            ("roy:s3c/ret@h", at),
            ("roy:s3c/r?et@h", at),
            ("roy:s3c/r@et@h", at),
            ("a@b@c:s3c/ret@h", at),
            ("roy@h:1/db?dbname=a@b", at),
            ("h?sslkey=a@b", at),
        ];
        for (text, cause) in cases {
            let e = error(&format!("postgres://{text}"));
            assert_eq!(e.to_string(), format!("cannot parse PostgreSQL URL: {cause}"), "{text}");
            assert!(!format!("{e:?}").contains("s3c"), "{text}");
            assert!(e.hint().unwrap().contains("PGPASSWORD or in the file ~/.pgpass"));
        }
    }

    #[test]
    fn hint_names_the_spelling_that_works() {
        for (text, hint) in [
            ("mysql://h", "write postgres://USER@HOST/DATABASE"),
            ("postgres://h/%", "write a % in a value as %25"),
            ("postgres://h/a b", "write a space as %20"),
            ("postgres://::1", "write the address as [::1]:5432"),
            ("postgres://%40s", "use the folder of a socket, e.g. /var/run/postgresql"),
            ("postgres://h?sslmode=prefer", "use sslmode=verify-full"),
            (
                "postgres://h?sslmode=verify-ca",
                "use sslmode=verify-full, or give sslrootcert with the file of your authority",
            ),
        ] {
            assert_eq!(error(text).hint(), Some(hint), "{text}");
        }
        assert_eq!(error("postgres://h:0").hint(), None);
    }

    #[test]
    fn url_is_displayed_in_canonical_form() {
        for (text, canonical) in [
            ("postgresql://", "postgres://%2Fvar%2Frun%2Fpostgresql"),
            ("POSTGRES://h:5432/", "postgres://h"),
            ("postgres://?user=a%2Bb~&host=h1,::1&port=1", "postgres://a%2Bb~@h1:1,[::1]:1"),
            (
                "postgres://%2frun:1,h/ü?sslmode=disable",
                "postgres://%2Frun:1,h/%C3%BC?sslmode=disable",
            ),
            (
                "postgres://h?connect_timeout=05&sslkey=k&sslcert=c&sslrootcert=/r&sslmode=require",
                "postgres://h?sslmode=verify-ca&sslrootcert=%2Fr&sslcert=c&sslkey=k\
                 &connect_timeout=5",
            ),
            ("postgres://h?sslrootcert=system&target_session_attrs=any", "postgres://h"),
        ] {
            assert_eq!(parse(text).to_string(), canonical);
        }
    }

    #[test]
    fn displayed_url_parses_to_the_same_value() {
        let users = ["", "roy@", "a%40b%3Ac%2F%3F%25%23%26%3D@", "%C3%BC%20+@"];
        let hosts = [
            "",
            "h",
            "h:5433",
            "[::1]",
            "[::1]:1,h,%2Ftmp%20x%3F:65535",
            "h1,,%2Frun%2Fa%3A%40%5B%5D%25:7",
        ];
        let databases = ["", "/", "/users", "/a/b%3F%23%40&=", "/%E2%82%AC%22'"];
        let queries = [
            "",
            "?sslmode=disable",
            "?sslmode=require&connect_timeout=60",
            "?sslmode=require&sslrootcert=/ca%26.pem",
            "?sslmode=verify-ca&sslrootcert=ca.pem",
            "?sslrootcert=/a/b%3D%3F%20.pem&sslcert=c%2C&sslkey=%C3%BC",
            "?target_session_attrs=primary&connect_timeout=007",
        ];
        for user in users {
            for host in hosts {
                for database in databases {
                    for query in queries {
                        let url = parse(&format!("postgresql://{user}{host}{database}{query}"));
                        let shown = url.to_string();
                        assert_eq!(parse(&shown), url, "{shown}");
                        assert_eq!(parse(&shown).to_string(), shown);
                    }
                }
            }
        }
    }
}
