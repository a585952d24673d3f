//! Wires the server together: settings, log, store, listener, signals. Whatever can be wrong is found
//! before the first connection is taken.

use std::fs::{self, Permissions};
use std::future::Future;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::select;
use log::LevelFilter;
use log::kv::{Key, Value, VisitSource};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::args::{self, LogFormat};
use super::exit::{Exit, Failure};
use crate::aside::folder;
use crate::auth::{self, Authenticator};
use crate::credential::printable;
use crate::moment::Moment;
use crate::server::{self, Listener, Realm, Tls};
use crate::store;

pub(super) fn serve(args: &args::Serve, database: &Path) -> Result<(), Failure> {
    let realm = Realm::new(&args.realm)
        .map_err(|e| Failure::new(Exit::Usage, format_args!("--realm: {e}")))?;
    let tls = tls(args)?;
    let settings = server::Settings {
        realm,
        trusted_proxies: args.trusted_proxy.clone(),
        delays: server::Delays::default(),
        patience: server::Settings::PATIENCE,
        tls: tls.clone(),
        max_connections: args.max_connections,
    };
    let place = Place::of(args)?;
    start_log(args.log_level, args.log_format);
    raise_descriptor_limit();
    let store = store::open(database)?;
    let (listener, listening) = place.listen(args)?;
    if store.is_empty()? {
        let path = printable(&database.to_string_lossy());
        log::warn!("there is no user yet: add one with 'resttool useradd NAME --database {path}'");
    }
    let authenticator = Authenticator::new(store, &decisions(args)?)
        .map_err(|e| Failure::new(Exit::Failed, format_args!("cannot start hash workers: {e}")))?;
    let authenticator = Arc::new(authenticator);
    server::run(listener, Arc::clone(&authenticator), &settings, || {
        let stop = signals(tls)?;
        log::info!("listening on {listening}");
        Ok(stop)
    })
    .map_err(|e| Failure::new(Exit::Failed, e))?;
    authenticator.finish();
    place.leave();
    log::info!("stopped");
    Ok(())
}

/// With what TLS is spoken, if it is to be.
fn tls(args: &args::Serve) -> Result<Option<Tls>, Failure> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else { return Ok(None) };
    Tls::open(certificate, key).map(Some).map_err(|e| {
        let failure = Failure::new(Exit::Failed, format_args!("cannot speak TLS: {e}"));
        if e.is_about_rights() {
            let key = printable(&key.to_string_lossy());
            return failure.hint(format!("chmod 600 {key}"));
        }
        failure
    })
}

/// How decisions are to be made.
fn decisions(args: &args::Serve) -> Result<auth::Settings, Failure> {
    let usual = auth::Settings::default();
    Ok(auth::Settings {
        cost: args.cost.parse()?,
        workers: args.hash_workers.and_then(NonZeroUsize::new).unwrap_or(usual.workers),
        queue: args.queue,
        cache_entries: args.cache_entries,
        cache_lifetime: args.cache_lifetime,
        require_groups: args.require_group.clone(),
        source_limit: args.source_failures.0,
        user_limit: args.user_failures.0,
        audit_hits: args.audit_hits,
        rehash: args.rehash,
    })
}

/// What the libraries below have to say is for whoever looks for a fault.
fn start_log(level: LevelFilter, format: LogFormat) {
    let below = if level == LevelFilter::Info { LevelFilter::Warn } else { level };
    let mut log = env_logger::Builder::new();
    log.filter_level(below).filter_module("resttool", level).filter_module("audit", level);
    if format == LogFormat::Json {
        log.format(|out, record| {
            let mut fields = Fields::new();
            fields.insert("time".to_owned(), Moment::now().to_string().into());
            fields.insert("level".to_owned(), record.level().as_str().into());
            fields.insert("target".to_owned(), record.target().into());
            fields.insert("message".to_owned(), record.args().to_string().into());
            record.key_values().visit(&mut OwnFields(&mut fields)).map_err(io::Error::other)?;
            writeln!(out, "{}", serde_json::Value::Object(fields))
        });
    }
    log.init();
}

type Fields = serde_json::Map<String, serde_json::Value>;

/// The fields that a line brings with it.
struct OwnFields<'a>(&'a mut Fields);

impl<'kvs> VisitSource<'kvs> for OwnFields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.insert(key.to_string(), value.to_string().into());
        Ok(())
    }
}

/// Each connection takes a descriptor. The system's usual limit is one that every program may raise.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        log::warn!("the limit of open files stays as it is: {e}");
    }
}

/// Where it is to listen.
enum Place {
    Addresses(Vec<SocketAddr>),
    Socket(PathBuf),
}

impl Place {
    fn of(args: &args::Serve) -> Result<Self, Failure> {
        match &args.unix_socket {
            Some(path) => Ok(Self::Socket(path.clone())),
            None => addresses(args).map(Self::Addresses),
        }
    }

    /// Listens, and says where.
    fn listen(&self, args: &args::Serve) -> Result<(Listener, String), Failure> {
        match self {
            Self::Addresses(addresses) => {
                let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
                let bound = TcpListener::bind(&addresses[..]);
                let listener = bound.map_err(|e| cannot_listen(args, &e))?;
                let address = listener.local_addr().map_err(|e| Failure::new(Exit::Failed, e))?;
                Ok((listener.into(), format!("{scheme}://{address}")))
            }
            Self::Socket(path) => {
                let shown = printable(&path.to_string_lossy());
                let listener = socket(path, args.unix_socket_mode).map_err(|e| {
                    let why = format_args!("cannot listen on {shown}: {e}");
                    match e.kind() {
                        io::ErrorKind::AddrInUse => Failure::new(Exit::Failed, why)
                            .hint("another server listens there: choose another --unix-socket"),
                        _ => Failure::new(Exit::Failed, why),
                    }
                })?;
                Ok((listener.into(), format!("unix:{shown}")))
            }
        }
    }

    /// Takes away what would be left: a socket that nobody listens to.
    fn leave(&self) {
        if let Self::Socket(path) = self
            && let Err(e) = fs::remove_file(path)
        {
            log::warn!("cannot remove {}: {e}", printable(&path.to_string_lossy()));
        }
    }
}

/// A socket with this mode. It is made aside and then put in place, so that nobody meets it with another mode; in place of one that nobody
/// listens to any more, but of nothing else.
fn socket(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match UnixStream::connect(path) {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) if e.kind() != io::ErrorKind::ConnectionRefused => return Err(e),
        Err(e) if !fs::symlink_metadata(path)?.file_type().is_socket() => return Err(e),
        Err(_) => {}
    }
    let aside = tempfile::Builder::new().prefix(".resttool-").tempdir_in(folder(path))?;
    let made = aside.path().join("socket");
    let listener = UnixListener::bind(&made)?;
    fs::set_permissions(&made, Permissions::from_mode(mode))?;
    fs::rename(made, path)?;
    Ok(listener)
}

/// The addresses that the host stands for. Passwords must not leave the machine in the clear unasked.
fn addresses(args: &args::Serve) -> Result<Vec<SocketAddr>, Failure> {
    let host = printable(&args.address.host);
    let bare = args
        .address
        .host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(&args.address.host);
    let addresses: Vec<_> = (bare, args.address.port)
        .to_socket_addrs()
        .map_err(|e| Failure::new(Exit::Usage, format_args!("--host {host} is no address: {e}")))?
        .collect();
    let clear = args.tls_cert.is_none() && !args.allow_plaintext;
    if clear && !addresses.iter().all(|address| address.ip().is_loopback()) {
        return Err(Failure::new(
            Exit::Usage,
            format_args!("--host {host} can be reached from other machines, and passwords would travel in the clear"),
        )
        .hint("give --tls-cert and --tls-key, listen on 127.0.0.1 behind a proxy that speaks TLS, or give --allow-plaintext"));
    }
    Ok(addresses)
}

fn cannot_listen(args: &args::Serve, e: &io::Error) -> Failure {
    let failure = Failure::new(
        Exit::Failed,
        format_args!(
            "cannot listen on {} port {}: {e}",
            printable(&args.address.host),
            args.address.port
        ),
    );
    match e.kind() {
        io::ErrorKind::AddrInUse => {
            failure.hint("another program listens there: choose another --port")
        }
        io::ErrorKind::PermissionDenied => failure.hint("choose a --port of 1024 or more"),
        _ => failure,
    }
}

/// Ends at the first SIGTERM or SIGINT from now on. After that, a second one ends the program at once, whatever is in flight.
///
/// SIGHUP has the certificate read again. It would end a program that does not listen to it.
fn signals(tls: Option<Tls>) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                tls.iter().for_each(Tls::reload);
            }
        });
        select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
        log::info!("stopping: requests in flight may finish");
        tokio::spawn(async move {
            select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
            log::warn!("stopped at once: requests in flight are cut off");
            std::process::exit(i32::from(Exit::Failed as u8));
        });
    })
}
