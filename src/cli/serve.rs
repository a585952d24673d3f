//! Wires the server together: settings, store, signals. Every setting is checked before the first
//! connection is accepted.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::select;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use super::absolute;
use super::args;
use super::exit::{Exit, Failure};
use super::listen::Place;
use crate::auth::{self, Authenticator};
use crate::server::{self, Realm, Tls};
use crate::store;
use crate::text::shell_word;

pub(super) fn serve(args: &args::Serve, database: &Path) -> Result<(), Failure> {
    // Before anything else: a failure is a line of it.
    super::log::start(args.log_level, args.log_format)
        .map_err(|e| Failure::new(Exit::Failed, format_args!("cannot start the log: {e}")))?;
    let realm = Realm::new(&args.realm)
        .map_err(|e| Failure::new(Exit::Usage, format_args!("--realm: {e}")))?;
    let tls = tls(args)?;
    let settings = server::Settings {
        realm,
        trusted_proxies: args.trusted_proxy.clone(),
        delays: server::Delays::default(),
        patience: server::Settings::PATIENCE,
        tls: tls.clone(),
        max_connections: max_connections(args.max_connections, raise_descriptor_limit()),
    };
    let place = Place::of(args)?;
    let store = store::open(database)?;
    let (listener, listening) = place.listen(args)?;
    if store.is_empty()? {
        let path = shell_word(absolute(database));
        log::warn!("there is no user yet, add one: resttool useradd NAME --database {path}");
    }
    let authenticator = Authenticator::new(store, &decisions(args)?)
        .map_err(|e| Failure::new(Exit::Failed, format_args!("cannot start hash workers: {e}")))?;
    server::run(listener, Arc::new(authenticator), &settings, || {
        let stop = signals(tls)?;
        log::info!("listening on {listening}");
        tell_systemd(NotifyState::Ready);
        Ok(stop)
    })
    .map_err(|e| Failure::new(Exit::Failed, e))?;
    listening.leave();
    log::info!("stopped");
    Ok(())
}

/// With what TLS is spoken, if it is to be.
fn tls(args: &args::Serve) -> Result<Option<Tls>, Failure> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else { return Ok(None) };
    Tls::open(certificate, key).map(Some).map_err(|e| {
        let failure = Failure::new(Exit::Failed, format_args!("cannot speak TLS: {e}"));
        if e.is_about_rights() {
            return failure.hint(format!("chmod 600 {}", shell_word(absolute(key))));
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

/// Notifies systemd in a unit of `Type=notify`. Does nothing elsewhere.
fn tell_systemd(state: NotifyState<'_>) {
    if let Err(e) = sd_notify::notify(&[state]) {
        log::warn!("systemd could not be told how the server is: {e}");
    }
}

/// Raises the limit of open files as far as every program may, and returns it. `None` is no limit.
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

/// Returns how many connections can be allowed. Each takes a descriptor, as do those that wait for
/// a seat. Without this, one source could take all descriptors below the limit of connections, and
/// keep others out.
fn max_connections(wanted: NonZeroUsize, descriptors: Option<u64>) -> NonZeroUsize {
    const RESERVED: u64 = 64;
    let Some(limit) = descriptors else { return wanted };
    let free = limit.saturating_sub(RESERVED).max(limit / 4);
    let most = usize::try_from(free / 5 * 4).unwrap_or(usize::MAX);
    let most = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
    if most < wanted {
        log::warn!(
            "{wanted} connections do not fit into the limit of {limit} open files: allowing {most}"
        );
    }
    wanted.min(most)
}

/// Returns at the first SIGTERM or SIGINT. A second one ends the program at once, without waiting for
/// requests in flight.
///
/// SIGHUP reloads the certificate. Without a handler it would end the program.
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
        tell_systemd(NotifyState::Stopping);
        tokio::spawn(async move {
            select(pin!(terminate.recv()), pin!(interrupt.recv())).await;
            log::warn!("stopped at once: requests in flight are cut off");
            super::log::flush();
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
        let most = |wanted, limit| max_connections(NonZeroUsize::new(wanted).unwrap(), limit).get();
        assert_eq!(most(10_000, None), 10_000);
        assert_eq!(most(10_000, Some(1_048_576)), 10_000);
        assert_eq!(most(10_000, Some(4096)), 3224);
        assert_eq!(most(200, Some(4096)), 200);
        assert_eq!(most(10_000, Some(64)), 12);
        assert_eq!(most(1, Some(1)), 1);
    }
}
