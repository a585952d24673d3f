//! Connections to the primary of a database: one limit for each host on connect, TLS, login and the
//! check of its role.
//!
//! All hosts are tried at once, since a frozen server accepts connections and answers nothing.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::Severity;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::hint;
use super::passfile::{PassfileError, PasswordSource};
use super::tls::client_config;
use super::url::{PostgresHost, PostgresUrl};
use crate::store::StoreError;

/// The default limit of the time to connect to one host, with TLS, login and the check of its role.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The time for which sent data may stay unacknowledged before the connection ends (TCP).
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// A database, with everything that a connection to it needs.
pub(super) struct ConnectionParams {
    pub(super) url: PostgresUrl,
    user: String,
    tls: Option<MakeRustlsConnect>,
    passwords: PasswordSource,
}

impl ConnectionParams {
    /// Reads the certificates that the URL names.
    pub(super) fn new(url: &PostgresUrl) -> Result<Self, StoreError> {
        let failed = |e: &dyn fmt::Display| format!("cannot connect to {url}: {e}");
        let tls = client_config(url).map_err(|e| {
            let hint = e.hint();
            StoreError::failed_by(failed(&e), e).with_hint(hint)
        })?;
        let tls = tls.map(MakeRustlsConnect::new);
        let passwords =
            PasswordSource::of_process().map_err(|e| StoreError::failed_by(failed(&e), e))?;
        let user = url.user_or(&system_user()).to_owned();
        Ok(Self { url: url.clone(), user, tls, passwords })
    }

    /// Returns the role that logs in.
    pub(super) fn role(&self) -> &str {
        &self.user
    }

    fn database(&self) -> &str {
        self.url.database_or(&self.user)
    }

    /// Connects to the host that is the primary.
    pub(super) async fn connect(&self) -> Result<Link, ConnectError> {
        let attempts = self.url.hosts().iter().map(|host| async move {
            let limit = self.url.connect_timeout().unwrap_or(CONNECT_TIMEOUT);
            let connecting = self.connect_to(host);
            let connected = tokio::time::timeout(limit, connecting).await;
            connected.unwrap_or(Err(HostError::TimedOut(limit))).map_err(|why| (host, why))
        });
        let mut attempts: FuturesUnordered<_> = attempts.collect();
        let mut failures = Vec::new();
        while let Some(attempt) = attempts.next().await {
            match attempt {
                Ok(link) => return Ok(link),
                Err((host, why)) => failures.push((host.to_string(), why)),
            }
        }
        Err(ConnectError(failures))
    }

    async fn connect_to(&self, host: &PostgresHost) -> Result<Link, HostError> {
        let mut config = Config::new();
        config.user(&self.user).dbname(self.database()).application_name("resttool");
        let password = self.passwords.password_for(host, self.database(), &self.user);
        if let Some(password) = password.map_err(HostError::Password)? {
            config.password(password.reveal());
        }
        let link = match host {
            PostgresHost::Unix { folder, port } => {
                let path = folder.join(format!(".s.PGSQL.{port}"));
                let stream = UnixStream::connect(path).await.map_err(HostError::Connect)?;
                config.ssl_mode(SslMode::Disable);
                Link::open(&config, stream, NoTls).await
            }
            PostgresHost::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await;
                let stream = stream.and_then(|stream| prepare(&stream).map(|()| stream));
                let stream = stream.map_err(HostError::Connect)?;
                match self.tls.clone() {
                    None => {
                        config.ssl_mode(SslMode::Disable);
                        Link::open(&config, stream, NoTls).await
                    }
                    Some(mut tls) => {
                        config.ssl_mode(SslMode::Require);
                        // It never fails: a name that is not valid fails the handshake.
                        match MakeTlsConnect::<Socket>::make_tls_connect(&mut tls, host) {
                            Ok(tls) => Link::open(&config, stream, tls).await,
                            Err(never) => match never {},
                        }
                    }
                }
            }
        };
        let link = link.map_err(HostError::of_login)?;
        let role = link.client.query_typed_one(ROLE, &[]).await.map_err(HostError::Login)?;
        match role.try_get(0).map_err(HostError::Login)? {
            true => Err(HostError::ReadOnly),
            false => Ok(link),
        }
    }
}

/// True if the server takes no changes: a standby, or a primary that is set so.
const ROLE: &str = "SELECT pg_catalog.pg_is_in_recovery() OR pg_catalog.current_setting('transaction_read_only')::bool";

/// Has the system end a connection whose other end is gone.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let limit = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, limit)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, UNACKNOWLEDGED)?;
    Ok(())
}

/// Returns the name of the user that runs the program, as libpq takes it.
fn system_user() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective());
    user.ok().flatten().map_or_else(|| "postgres".to_owned(), |user| user.name)
}

/// A connection to the primary. It ends with this value.
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) driver: Driver,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Link {
    async fn open<S, T>(config: &Config, stream: S, tls: T) -> Result<Self, tokio_postgres::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: TlsConnect<S>,
        T::Stream: Send + 'static,
    {
        let (client, connection) = config.connect_raw(stream, tls).await?;
        let warnings = Arc::<Mutex<Vec<String>>>::default();
        let driver = Driver(tokio::spawn(drive(connection, Arc::clone(&warnings))));
        Ok(Self { client, driver, warnings })
    }

    /// Returns the warnings of the server since the last call.
    pub(super) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The task that moves messages between the socket and the client. It ends with this value.
pub(super) struct Driver(JoinHandle<Result<(), tokio_postgres::Error>>);

impl Driver {
    /// Returns the reason when the connection has ended.
    pub(super) async fn ended(&mut self) -> String {
        match (&mut self.0).await {
            Ok(Ok(())) => "the connection was closed".to_owned(),
            Ok(Err(e)) => describe(&e),
            Err(e) => e.to_string(),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Moves messages between the socket and the client, until the connection ends.
async fn drive<S, T>(
    mut connection: Connection<S, T>,
    warnings: Arc<Mutex<Vec<String>>>,
) -> Result<(), tokio_postgres::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notice(notice) = message?
            // The other field is in the language of the server.
            && notice.parsed_severity() == Some(Severity::Warning)
        {
            let mut warnings = warnings.lock().unwrap_or_else(PoisonError::into_inner);
            warnings.push(notice.message().to_owned());
        }
    }
    Ok(())
}

/// Describes an error with its cause, which the library leaves out.
pub(super) fn describe(e: &tokio_postgres::Error) -> String {
    if let Some(e) = e.as_db_error() {
        return e.message().to_owned();
    }
    match e.source() {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    }
}

/// The reason why no host can be used, for each host.
#[derive(Debug)]
pub(super) struct ConnectError(Vec<(String, HostError)>);

impl ConnectError {
    /// Returns the hint for one of the hosts. Standbys beside another host are as they should be.
    pub(super) fn hint(&self) -> Option<String> {
        let hints = self.0.iter().filter_map(|(_, why)| Some((why, hint::of_host(why)?)));
        let first = hints.min_by_key(|(why, _)| matches!(why, HostError::ReadOnly));
        first.map(|(_, hint)| hint)
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (host, why)) in self.0.iter().enumerate() {
            let separator = if index > 0 { "; " } else { "" };
            write!(f, "{separator}{host}: {why}")?;
        }
        Ok(())
    }
}

impl Error for ConnectError {}

/// The reason why a host cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostError {
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("{0}")]
    Connect(io::Error),
    #[error("{}", describe(.0))]
    Login(tokio_postgres::Error),
    #[error("it takes no changes, so it is a standby")]
    ReadOnly,
    #[error("{0}")]
    Password(PassfileError),
    #[error("it asks for a password, and none is given")]
    NoPassword,
}

/// The text of the library for a server that asks for a password, if there is none.
const PASSWORD_MISSING: &str = "password missing";

impl HostError {
    fn of_login(e: tokio_postgres::Error) -> Self {
        match e.source() {
            Some(cause) if cause.to_string() == PASSWORD_MISSING => Self::NoPassword,
            _ => Self::Login(e),
        }
    }
}
