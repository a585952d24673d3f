//! `resttool serve` wires the server together. Every setting is checked before the first connection
//! is accepted.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use clap::Args;
use futures_util::future::select;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use crate::auth::Authenticator;
use crate::cli::activation::{self, PassedSockets};
use crate::cli::advice;
use crate::cli::control;
use crate::cli::exit::{Exit, Failure, say};
use crate::cli::listen::{ClientAddress, ListenAddress, Listening};
use crate::cli::log as server_log;
use crate::cli::reload::Reloader;
use crate::cli::startup::Startup;
use crate::config::{self, ProxySettingsError, ServeSettings};
use crate::domain::{Cost, GroupName, UserName};
use crate::fs::absolute;
use crate::http::{self, HttpConfig, Listener, OpsConfig, Service, Socket, Tls, TlsHint};
use crate::store::{self, Location, Problem, StoreError, UserReader, UserStore};
use crate::text::shell_word;

/// Check the user name and password of each request, and pass it to an API
#[derive(Args, Debug)]
#[command(after_help = "'resttool serve --help' lists all options, routes and examples")]
#[command(
    after_long_help = "With --upstream, all paths are those of the API. Otherwise, there are these routes:
  GET /rest-auth   200 with valid credentials, 401 without, 403 without the group, 429 after too
                   many failed logins, 503 if the server cannot check
  /auth            the same for reverse proxies: 200 with Remote-User and Remote-Groups, 401 or 403;
                   ?group=admin requires a group
  PATH/any/...     the same below --ext-authz-prefix PATH, for Envoy and gateways
  GET /healthz     200 while the server runs
  GET /readyz      200 if users can be looked up, 503 if not
  GET /openapi.json   an OpenAPI 3.1 description of these routes
  GET /metrics     metrics for Prometheus, on the address of --ops-listen alone
  GET /status      a page with the state of the server, there too; /status.json for programs

SIGTERM and SIGINT (Ctrl-C) let requests in flight finish. A second signal ends the server at once.
SIGHUP reloads the certificate, and from the file of --config the limits of failures and of the
queue, the groups, the trusted proxies and the log level. 'resttool print config' prints such a file.

Examples:
  resttool serve
  resttool serve --upstream http://127.0.0.1:8000
  resttool serve --upstream http://127.0.0.1:8000 --public /health --require '/admin/*=staff'
  resttool serve --port 0 --realm 'Wine cellar'
  resttool serve --trusted-proxy 127.0.0.1 --source-failures 5/10m
  resttool serve --host 0.0.0.0 --tls-cert /etc/resttool/cert.pem --tls-key /etc/resttool/key.pem
  resttool serve --unix-socket resttool.sock --unix-socket-mode 660
  resttool serve --ops-listen 127.0.0.1:9180
  RESTTOOL_PORT=8080 resttool serve"
)]
pub(in crate::cli) struct Serve {
    #[command(flatten)]
    settings: ServeSettings,

    /// Check the settings, the store and the certificate, and exit without serving
    #[arg(long, help_heading = "Settings", hide_short_help = true)]
    check: bool,
}

/// The fewest open files with which the server starts.
const MIN_DESCRIPTORS: u64 = 64;

impl Serve {
    pub(in crate::cli) fn into_settings(self) -> ServeSettings {
        self.settings
    }

    pub(super) fn describe(&self) -> String {
        "serve".to_owned()
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let settings = &self.settings;
        // The variables are removed, which must happen before there is a second thread.
        let passed = PassedSockets::take()?;
        // Before anything else, so that failures are logged.
        server_log::start(settings.log.log_level, settings.log.log_format)
            .map_err(|e| Failure::new(Exit::Failed, format_args!("cannot start the log: {e}")))?;
        activation::warn_of_ignored_sockets();
        let http = settings
            .http_config()
            .map_err(|e| Failure::new(Exit::Usage, format_args!("--realm: {e}")))?;
        let tls = tls(settings)?;
        let limit = raise_descriptor_limit();
        if let Some(limit) = limit.filter(|limit| *limit < MIN_DESCRIPTORS) {
            let why = format!(
                "the limit of open files is {limit}, and the server needs {MIN_DESCRIPTORS}"
            );
            return Err(Failure::new(Exit::Failed, why)
                .hint("raise it, e.g. ulimit -n 1024, or LimitNOFILE= of systemd"));
        }
        let ops = OpsConfig {
            store: location.to_string(),
            dropped_log_lines: server_log::dropped_lines_so_far,
            last_errors: server_log::last_errors,
            ..OpsConfig::default()
        };
        // Each passed request takes a connection to the upstream too.
        let per_client = if settings.proxy.upstream.is_some() { 2 } else { 1 };
        let max_connections = max_connections(http.max_connections, limit, per_client);
        let proxy = settings.proxy.config().map_err(|e| {
            let exit = match e {
                ProxySettingsError::Tls(_) => Exit::Failed,
                ProxySettingsError::Rules(_) => Exit::Usage,
            };
            Failure::new(exit, e)
        })?;
        let service = if proxy.is_some() { Service::Proxy } else { Service::Gate };
        let http = HttpConfig { max_connections, ops, proxy, ..http };
        let address = ClientAddress::of(settings, passed)?;
        if let Some(upstream) = &settings.proxy.upstream {
            address.check_upstream(upstream)?;
        }
        let operators = settings
            .ops_listen
            .as_ref()
            .map(|address| ListenAddress::of_operators(address, settings.allow_remote_ops));
        let operators = operators.transpose()?;
        let auth = settings.auth_config()?;
        if self.check {
            check_store(location)?;
            say("resttool: the settings, the store and the certificate are valid");
            return Ok(());
        }
        let required = auth.require_groups.iter().chain(settings.proxy.rules.groups());
        let (store, users) = open(location, required.collect())?;
        let (sockets, listening) = address.listen(settings)?;
        let operators = operators.map(|address| address.listen_for_operators()).transpose()?;
        let control = control::listen(location, settings.control.path())?;
        let authenticator = Authenticator::new(store, &auth).map_err(|e| {
            Failure::new(Exit::Failed, format_args!("cannot start hash workers: {e}"))
        })?;
        let authenticator = Arc::new(authenticator);
        let trusted_proxies = http.trusted_proxies.clone();
        let reloader =
            Reloader::new(settings, tls.clone(), Arc::clone(&authenticator), trusted_proxies);
        let of_clients = |socket| Listener { socket, tls: tls.clone(), service };
        let mut listeners: Vec<_> = sockets.into_iter().map(of_clients).collect();
        let mut listen_as_ops = |(socket, listening): (Socket, Listening)| {
            listeners.push(Listener { socket, tls: None, service: Service::Ops });
            listening
        };
        let operators = operators.map(&mut listen_as_ops);
        let control = control.map(&mut listen_as_ops);
        http::run(listeners, authenticator, &http, || {
            let stop = signals(reloader)?;
            let startup = Startup {
                listening: &listening,
                location,
                users: users.as_ref().map(|users| users.count),
                example: users
                    .as_ref()
                    .and_then(|users| users.first.as_ref())
                    .map(UserName::as_str),
                certificate: settings.tls_cert.as_deref(),
                upstream: settings.proxy.upstream.as_ref().map(ToString::to_string),
            };
            startup.say(settings.log.log_format);
            if let Some(operators) = &operators {
                log::info!("health, metrics and status for operators on {operators}");
            }
            if let Some(control) = &control {
                log::debug!("control socket {control}");
            }
            tell_systemd(NotifyState::Ready);
            Ok(stop)
        })
        .map_err(|e| Failure::new(Exit::Failed, e))?;
        [Some(listening), operators, control].into_iter().flatten().for_each(Listening::leave);
        log::info!("stopped");
        Ok(())
    }
}

/// The users at the start of the server.
struct UsersAtStart {
    count: u64,
    /// An example of a user.
    first: Option<UserName>,
}

impl UsersAtStart {
    /// Looks at the users once, and warns of groups without members.
    fn look_at(store: &dyn UserStore, required: BTreeSet<&GroupName>) -> Result<Self, StoreError> {
        let (count, first) = (store.count()?, store.first()?);
        warn_about_empty_groups(store, required);
        Ok(Self { count, first })
    }
}

/// Opens the store. Only the default one is created, since another path may be mistyped. The users of
/// a database that cannot be reached are not known yet.
fn open(
    location: &Location,
    required: BTreeSet<&GroupName>,
) -> Result<(Box<dyn UserReader>, Option<UsersAtStart>), StoreError> {
    let opened = if config::default_location().as_ref() == Some(location) {
        store::open_or_create(location)
    } else {
        store::open(location)
    };
    let opened = match (location, opened) {
        (Location::Postgres(_), Err(StoreError::Unreachable(_))) => None,
        (Location::Postgres(_), Err(StoreError::NotConnected(e))) => {
            // The reason is logged when the server has tried too.
            if let Some(hint) = e.hint() {
                log::warn!("starting without the database (hint: {hint})");
            }
            None
        }
        (_, opened) => Some(opened?),
    };
    let users =
        opened.as_deref().map(|store| UsersAtStart::look_at(store, required)).transpose()?;
    match (location, opened) {
        (Location::File(_), Some(store)) => Ok((store, users)),
        _ => Ok((store::open_reader(location)?, users)),
    }
}

/// Checks the store without changing it. The problem of one user stops no server, and the default
/// store is created when the server starts.
fn check_store(location: &Location) -> Result<(), Failure> {
    let may_be_missing = config::default_location().as_ref() == Some(location);
    let problems = store::check(location, Cost::DEFAULT)?.problems;
    let is_fatal = |problem: &&Problem| match problem {
        Problem::Database(problem) => problem.stops_servers(),
        Problem::Missing => !may_be_missing,
        problem => problem.user().is_none(),
    };
    match problems.iter().find(is_fatal) {
        None => Ok(()),
        Some(problem) => {
            let description = match problem {
                Problem::File(problem) => problem.with_path(),
                other => format!("{location}: {other}"),
            };
            let failure = Failure::new(Exit::Failed, description);
            Err(match advice::fix(problem, location) {
                Some(fix) => failure.hint(fix),
                None => failure,
            })
        }
    }
}

/// A required group without a member may be a typing error. It refuses all users, or those of a path.
fn warn_about_empty_groups(store: &dyn UserStore, required: BTreeSet<&GroupName>) {
    for group in required {
        match store.has_member(group) {
            Ok(true) => {}
            Ok(false) => log::warn!("no user is in the required group {group}"),
            // Requests of other users can be answered all the same.
            Err(e) => return log::warn!("cannot check the required groups: {e}"),
        }
    }
}

/// Opens the certificate, if there is one.
fn tls(settings: &ServeSettings) -> Result<Option<Tls>, Failure> {
    let (Some(certificate), Some(key)) = (&settings.tls_cert, &settings.tls_key) else {
        return Ok(None);
    };
    Tls::open(certificate, key).map(Some).map_err(|e| {
        let failure = Failure::new(Exit::Failed, format_args!("cannot speak TLS: {e}"));
        match e.hint() {
            Some(hint) => failure.hint(tls_advice(hint, key)),
            None => failure,
        }
    })
}

fn tls_advice(hint: TlsHint, key: &Path) -> String {
    let key = shell_word(absolute(key));
    match hint {
        TlsHint::MakeKeyPrivate => format!("chmod 600 {key}"),
        TlsHint::LimitKeyOfRoot => format!(
            "as root: chmod 640 {key}; or use LoadCredential= of systemd, or in Kubernetes a secret with defaultMode 0440 and fsGroup"
        ),
        TlsHint::DecryptKey => {
            format!("write it without its passphrase: openssl pkey -in {key} -out NEW")
        }
        TlsHint::SwapFiles => "--tls-cert and --tls-key look swapped".to_owned(),
        TlsHint::SaveAsUtf8 => "save it as PEM in UTF-8".to_owned(),
    }
}

/// Notifies systemd in a unit of `Type=notify`. Does nothing elsewhere.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        log::warn!("systemd could not be told how the server is: {e}");
    }
}

/// Raises the soft limit of open files to the hard limit, and returns it. `None` is no limit.
fn raise_descriptor_limit() -> Option<u64> {
    let Rlimit { maximum, current } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(e) => {
            log::warn!("cannot raise the limit of open files: {e}");
            current
        }
    }
}

/// Returns the number of connections that can be allowed. Each takes a descriptor, as do those that
/// wait for a seat. Without this limit, one source could take all descriptors below the limit of
/// connections, and keep other clients out.
fn max_connections(
    wanted: NonZeroUsize,
    descriptors: Option<u64>,
    per_client: u64,
) -> NonZeroUsize {
    const RESERVED: u64 = 64;
    let Some(limit) = descriptors else { return wanted };
    let free = limit.saturating_sub(RESERVED).max(limit / 4);
    let most = usize::try_from(free / 5 * 4 / per_client).unwrap_or(usize::MAX);
    let most = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
    if most < wanted {
        log::warn!(
            "{wanted} connections do not fit into the limit of {limit} open files: allowing {most}"
        );
    }
    wanted.min(most)
}

/// Returns at the first SIGTERM or SIGINT. A second one ends the program at once, without waiting
/// for requests in flight.
///
/// SIGHUP reloads the certificate and the settings. Without a handler it would end the program.
fn signals(reloader: Reloader) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Other servers rotate their logs on these. They would end this one.
    for ignored in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
        drop(signal(ignored)?);
    }
    Ok(async move {
        let reloader = Arc::new(reloader);
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                let reloader = Arc::clone(&reloader);
                // On a thread of its own, since a file may be slow. The panic hook reports a panic.
                let _ = tokio::task::spawn_blocking(move || reloader.reload()).await;
            }
        });
        select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
        log::info!("stopping: requests in flight may finish");
        tell_systemd(NotifyState::Stopping);
        tokio::spawn(async move {
            select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
            log::warn!("stopped at once: requests in flight are cut off");
            server_log::flush();
            std::process::exit(i32::from(Exit::Failed as u8));
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    ///
    #[test]
    fn connections_fit_into_the_limit_of_open_files() {
        let most =
            |wanted, limit| max_connections(NonZeroUsize::new(wanted).unwrap(), limit, 1).get();
        assert_eq!(most(10_000, None), 10_000);
        assert_eq!(most(10_000, Some(1_048_576)), 10_000);
        assert_eq!(most(10_000, Some(4096)), 3224);
        assert_eq!(most(200, Some(4096)), 200);
        assert_eq!(most(10_000, Some(64)), 12);
        assert_eq!(most(1, Some(1)), 1);
    }
}
