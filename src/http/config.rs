//! The configuration of HTTP, with its defaults.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::{CredentialsField, ExtAuthzPrefix, OpsConfig, ProxyConfig, Realm, TrustedProxies};
use crate::auth::Decision;

/// The configuration of all listeners.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// The realm of the challenge.
    pub realm: Realm,
    /// The field with the credentials.
    pub credentials_field: CredentialsField,
    /// Answer scripts of a page with a challenge for which browsers show no prompt.
    pub quiet_challenge: bool,
    /// The proxies whose X-Forwarded-For is trusted.
    pub trusted_proxies: TrustedProxies,
    /// The delays of some responses.
    pub delays: Delays,
    /// The time after which a connection without progress ends, e.g. with a head or a body that
    /// does not end, or a response that is not read. It ends after half of this time at the
    /// earliest.
    pub io_timeout: Duration,
    /// The maximum number of connections. At the limit, the source with the most connections makes
    /// room for others.
    pub max_connections: NonZeroUsize,
    /// The path below which requests of Envoy's ext_authz are answered.
    pub ext_authz: Option<ExtAuthzPrefix>,
    /// The configuration of the service for operators.
    pub ops: OpsConfig,
    /// The configuration of the proxy, if there is an upstream.
    pub proxy: Option<ProxyConfig>,
}

impl HttpConfig {
    /// The value of [`HttpConfig::io_timeout`].
    pub const IO_TIMEOUT: Duration = Duration::from_secs(10);

    /// The default of [`HttpConfig::max_connections`].
    pub const MAX_CONNECTIONS: NonZeroUsize = match NonZeroUsize::new(10_000) {
        Some(n) => n,
        None => NonZeroUsize::MIN,
    };

    /// Makes the default configuration with this realm.
    #[must_use]
    pub fn new(realm: Realm) -> Self {
        Self {
            realm,
            credentials_field: CredentialsField::default(),
            quiet_challenge: false,
            trusted_proxies: TrustedProxies::default(),
            delays: Delays::default(),
            io_timeout: Self::IO_TIMEOUT,
            max_connections: Self::MAX_CONNECTIONS,
            ext_authz: None,
            ops: OpsConfig::default(),
            proxy: None,
        }
    }
}

/// The delays of responses that cost nothing. Without a delay, a client that repeats a request at
/// once would take the cores from other clients.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// For throttled requests.
    pub throttled: Duration,
    /// For requests that find the queue full.
    pub overloaded: Duration,
}

impl Delays {
    /// No delays.
    pub const NONE: Self = Self { throttled: Duration::ZERO, overloaded: Duration::ZERO };

    pub(super) fn before(self, decision: &Decision) -> Option<Duration> {
        match decision {
            Decision::Throttled { .. } => Some(self.throttled),
            Decision::Overloaded => Some(self.overloaded),
            Decision::Granted(_)
            | Decision::Forbidden
            | Decision::Denied
            | Decision::Unavailable => None,
        }
    }
}

impl Default for Delays {
    fn default() -> Self {
        Self { throttled: Duration::from_secs(1), overloaded: Duration::from_millis(20) }
    }
}
