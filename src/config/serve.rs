//! Settings of `serve`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, RangedU64ValueParser};
use clap::{Args, ValueEnum};

use super::proxy::ProxySettings;
use super::values::{Failures, OpsAddress, cache_lifetime, group_name, octal_mode};
use super::{ControlSetting, CostSetting, GivenSettings};
use crate::auth::AuthConfig;
use crate::domain::{GroupName, HashError};
use crate::http::{
    CredentialsField, ExtAuthzPrefix, HttpConfig, Network, Realm, RealmError, TrustedProxies,
};
use crate::time::format_duration;

/// The settings of `serve`. The less common ones are left out of the summary of `-h`.
#[derive(Args, Debug)]
pub(crate) struct ServeSettings {
    /// Read settings from this TOML file; its keys are the long options, which arguments and
    /// variables override
    #[arg(
        long,
        value_name = "FILE",
        env = "RESTTOOL_CONFIG",
        help_heading = "Settings",
        hide_short_help = true
    )]
    pub(crate) config: Option<PathBuf>,

    /// To tell which settings have changed.
    #[command(flatten)]
    pub(crate) given: GivenSettings,

    #[command(flatten)]
    pub(crate) listen: ListenSettings,

    #[command(flatten)]
    pub(crate) proxy: ProxySettings,

    /// Listen on a Unix socket at this path instead of a port
    #[arg(
        long,
        value_name = "PATH",
        env = "RESTTOOL_UNIX_SOCKET",
        conflicts_with_all = ["tls_cert", "tls_key"],
        help_heading = "Listening",
        hide_short_help = true
    )]
    pub(crate) unix_socket: Option<PathBuf>,

    /// Create the Unix socket with this mode, in octal
    #[arg(
        long,
        value_name = "MODE",
        default_value = "600",
        env = "RESTTOOL_UNIX_SOCKET_MODE",
        value_parser = octal_mode,
        help_heading = "Listening",
        hide_short_help = true
    )]
    pub(crate) unix_socket_mode: u32,

    /// Serve health, metrics and a status page for operators on this address (HOST:PORT or
    /// unix:PATH), also while the other listener is busy
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "RESTTOOL_OPS_LISTEN",
        help_heading = "Operators",
        hide_short_help = true
    )]
    pub(crate) ops_listen: Option<OpsAddress>,

    /// Allow a non-loopback address for operators (figures are sent in the clear)
    #[arg(
        long,
        env = "RESTTOOL_ALLOW_REMOTE_OPS",
        value_parser = BoolishValueParser::new(),
        help_heading = "Operators",
        hide_short_help = true
    )]
    pub(crate) allow_remote_ops: bool,

    #[command(flatten)]
    pub(crate) control: ControlSetting,

    /// Serve TLS with the certificate chain in this PEM file; reloaded when it changes, or on
    /// SIGHUP
    #[arg(
        long,
        value_name = "PATH",
        env = "RESTTOOL_TLS_CERT",
        requires = "tls_key",
        help_heading = "TLS"
    )]
    pub(crate) tls_cert: Option<PathBuf>,

    /// Read the private key from this PEM file, which only its owner may read
    #[arg(
        long,
        value_name = "PATH",
        env = "RESTTOOL_TLS_KEY",
        requires = "tls_cert",
        help_heading = "TLS"
    )]
    pub(crate) tls_key: Option<PathBuf>,

    /// Allow a non-loopback address without TLS (passwords are sent in the clear)
    #[arg(
        long,
        env = "RESTTOOL_ALLOW_PLAINTEXT",
        value_parser = BoolishValueParser::new(),
        help_heading = "TLS",
        hide_short_help = true
    )]
    pub(crate) allow_plaintext: bool,

    /// Name the protected area in the challenge; browsers show this realm when they ask for a
    /// password
    #[arg(
        long,
        value_name = "TEXT",
        default_value = Realm::DEFAULT,
        env = "RESTTOOL_REALM",
        help_heading = "Access",
        hide_short_help = true
    )]
    realm: String,

    /// Read the credentials from this header field alone, e.g. X-Gate-Authorization; Authorization is
    /// left to the API
    #[arg(
        long,
        value_name = "NAME",
        env = "RESTTOOL_CREDENTIALS_HEADER",
        help_heading = "Access",
        hide_short_help = true
    )]
    credentials_header: Option<CredentialsField>,

    /// Answer scripts (X-Requested-With: XMLHttpRequest) with a challenge for which browsers show no
    /// prompt
    #[arg(
        long,
        env = "RESTTOOL_QUIET_CHALLENGE",
        value_parser = BoolishValueParser::new(),
        help_heading = "Access",
        hide_short_help = true
    )]
    quiet_challenge: bool,

    /// Trust X-Forwarded-For from this proxy address or network, e.g. 10.0.0.0/8; may be repeated
    #[arg(
        long,
        value_name = "CIDR",
        env = "RESTTOOL_TRUSTED_PROXY",
        value_delimiter = ',',
        help_heading = "Access"
    )]
    trusted_proxy: Vec<Network>,

    /// Admit only users in one of these groups; may be repeated, or separated by commas
    #[arg(
        long,
        value_name = "GROUP",
        env = "RESTTOOL_REQUIRE_GROUP",
        value_delimiter = ',',
        value_parser = group_name,
        help_heading = "Access"
    )]
    require_group: Vec<GroupName>,

    /// Answer Envoy's ext_authz below this path, e.g. /ext-authz/any/... for any user, or
    /// /ext-authz/group=admin/... for members of a group
    #[arg(
        long,
        value_name = "PATH",
        env = "RESTTOOL_EXT_AUTHZ_PREFIX",
        help_heading = "Access",
        hide_short_help = true
    )]
    ext_authz_prefix: Option<ExtAuthzPrefix>,

    #[command(flatten)]
    cost: CostSetting,

    /// Compute hashes on this many threads [default: one per core]
    #[arg(
        long,
        value_name = "N",
        env = "RESTTOOL_HASH_WORKERS",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=256),
        help_heading = "Hashing",
        hide_short_help = true
    )]
    hash_workers: Option<usize>,

    /// Let at most this many login attempts wait for a hash worker [default: about 2 s of work,
    /// measured]
    #[arg(
        long,
        value_name = "N",
        env = "RESTTOOL_QUEUE",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=65_536),
        help_heading = "Hashing",
        hide_short_help = true
    )]
    queue: Option<usize>,

    /// Replace a hash that costs less than --cost when its user logs in
    #[arg(
        long,
        env = "RESTTOOL_REHASH",
        value_parser = BoolishValueParser::new(),
        help_heading = "Hashing",
        hide_short_help = true
    )]
    rehash: bool,

    /// Keep the imported hash of a user who logs in, instead of replacing it by bcrypt of the password
    #[arg(
        long,
        env = "RESTTOOL_NO_UPGRADE",
        value_parser = BoolishValueParser::new(),
        help_heading = "Hashing",
        hide_short_help = true
    )]
    no_upgrade: bool,

    /// Cache at most this many verified passwords; 0 disables the cache
    #[arg(
        long,
        value_name = "N",
        default_value_t = AuthConfig::CACHE_ENTRIES,
        env = "RESTTOOL_CACHE_ENTRIES",
        value_parser = RangedU64ValueParser::<usize>::new().range(0..=1_048_576),
        help_heading = "Cache",
        hide_short_help = true
    )]
    cache_entries: usize,

    /// Forget a verified password after it has been unused for this long (e.g. 90s, 30m, 1h)
    #[arg(
        long,
        value_name = "TIME",
        default_value = format_duration(AuthConfig::CACHE_LIFETIME),
        env = "RESTTOOL_CACHE_LIFETIME",
        value_parser = cache_lifetime,
        help_heading = "Cache",
        hide_short_help = true
    )]
    cache_lifetime: Duration,

    /// Allow this many failed logins per source address (COUNT/PERIOD); 0 disables the limit
    #[arg(
        long,
        value_name = "COUNT/PERIOD",
        default_value_t = Failures(AuthConfig::SOURCE_LIMIT),
        env = "RESTTOOL_SOURCE_FAILURES",
        help_heading = "Limits",
        hide_short_help = true
    )]
    source_failures: Failures,

    /// Allow this many failed logins per user name (COUNT/PERIOD) from addresses that have never
    /// logged in as that user; 0 disables the limit
    #[arg(
        long,
        value_name = "COUNT/PERIOD",
        default_value_t = Failures(AuthConfig::USER_LIMIT),
        env = "RESTTOOL_USER_FAILURES",
        help_heading = "Limits",
        hide_short_help = true
    )]
    user_failures: Failures,

    /// Allow this many connections at once; at the limit, the source with the most connections
    /// loses its longest idle one
    #[arg(
        long,
        value_name = "N",
        default_value_t = HttpConfig::MAX_CONNECTIONS,
        env = "RESTTOOL_MAX_CONNECTIONS",
        help_heading = "Limits",
        hide_short_help = true
    )]
    max_connections: NonZeroUsize,

    #[command(flatten)]
    pub(crate) log: LogSettings,

    /// Log every granted request, including those with a cached password
    #[arg(
        long,
        env = "RESTTOOL_AUDIT_HITS",
        value_parser = BoolishValueParser::new(),
        help_heading = "Logging",
        hide_short_help = true
    )]
    audit_hits: bool,
}

/// The address of the server.
#[derive(Args, Debug)]
pub(crate) struct ListenSettings {
    /// Listen on this address
    #[arg(
        long,
        value_name = "HOST",
        default_value = "127.0.0.1",
        env = "RESTTOOL_HOST",
        help_heading = "Listening"
    )]
    pub(crate) host: String,

    /// Listen on this port; 0 picks a free one and logs it
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 5000,
        env = "RESTTOOL_PORT",
        help_heading = "Listening"
    )]
    pub(crate) port: u16,
}

/// The log of the server.
#[derive(Args, Debug)]
pub(crate) struct LogSettings {
    /// Log to standard error at this level: off, error, warn, info, debug or trace
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        env = "RESTTOOL_LOG_LEVEL",
        help_heading = "Logging"
    )]
    pub(crate) log_level: log::LevelFilter,

    /// Write the log in this format
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        env = "RESTTOOL_LOG_FORMAT",
        help_heading = "Logging",
        hide_short_help = true
    )]
    pub(crate) log_format: LogFormat,
}

/// A format of the log.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

impl ServeSettings {
    /// Returns the configuration of authentication.
    pub(crate) fn auth_config(&self) -> Result<AuthConfig, HashError> {
        let default = AuthConfig::default();
        Ok(AuthConfig {
            cost: self.cost.cost()?,
            workers: self.hash_workers.and_then(NonZeroUsize::new).unwrap_or(default.workers),
            queue: self.queue,
            cache_entries: self.cache_entries,
            cache_lifetime: self.cache_lifetime,
            stream_grace: self.proxy.stream_grace,
            require_groups: self.require_group.clone(),
            source_limit: self.source_failures.0,
            user_limit: self.user_failures.0,
            audit_hits: self.audit_hits,
            rehash: self.rehash,
            upgrade: !self.no_upgrade,
        })
    }

    /// Returns the networks of the trusted proxies.
    pub(crate) fn trusted_proxies(&self) -> Vec<Network> {
        self.trusted_proxy.clone()
    }

    /// Returns the configuration of HTTP.
    pub(crate) fn http_config(&self) -> Result<HttpConfig, RealmError> {
        Ok(HttpConfig {
            credentials_field: self.credentials_header.clone().unwrap_or_default(),
            quiet_challenge: self.quiet_challenge,
            trusted_proxies: TrustedProxies::new(self.trusted_proxies()),
            max_connections: self.max_connections,
            ext_authz: self.ext_authz_prefix.clone(),
            ..HttpConfig::new(Realm::new(&self.realm)?)
        })
    }
}
