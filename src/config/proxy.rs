//! Settings of the proxy in front of an upstream.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::rules::RuleSettings;
use super::values::{Limited, byte_count, timeout};
use crate::auth::AuthConfig;
use crate::http::{
    AllowedOrigin, HealthPath, ProxyConfig, RulesError, Upstream, UpstreamAddress, UpstreamTlsError,
};
use crate::time::format_duration;

/// The settings of `serve` for an upstream.
#[derive(Args, Debug)]
pub(crate) struct ProxySettings {
    /// Protect the API at this address, e.g. http://127.0.0.1:8000
    ///
    /// Every path is passed to it, after authentication. http://HOST:PORT, https://HOST:PORT or
    /// unix:/PATH.
    #[arg(
        long,
        value_name = "URL",
        env = "RESTTOOL_UPSTREAM",
        conflicts_with = "ext_authz_prefix",
        help_heading = "Upstream"
    )]
    pub(crate) upstream: Option<UpstreamAddress>,

    /// Trust the certificate authorities in this PEM file for an https upstream, instead of those
    /// of the system
    #[arg(
        long,
        value_name = "PATH",
        env = "RESTTOOL_UPSTREAM_CA",
        requires = "upstream",
        help_heading = "Upstream",
        hide_short_help = true
    )]
    upstream_ca: Option<PathBuf>,

    /// Give up connecting to the upstream after this time
    #[arg(
        long,
        value_name = "TIME",
        default_value = format_duration(ProxyConfig::CONNECT_TIMEOUT),
        env = "RESTTOOL_UPSTREAM_CONNECT_TIMEOUT",
        value_parser = timeout,
        help_heading = "Upstream",
        hide_short_help = true
    )]
    upstream_connect_timeout: Duration,

    /// Answer 504 if the upstream does not begin its response within this time after the request;
    /// 0 waits forever
    #[arg(
        long,
        value_name = "TIME",
        default_value_t = Limited(Some(ProxyConfig::RESPONSE_TIMEOUT)),
        env = "RESTTOOL_UPSTREAM_TIMEOUT",
        help_heading = "Upstream",
        hide_short_help = true
    )]
    upstream_timeout: Limited,

    /// End open streams if the users could not be read for this long
    #[arg(
        long,
        value_name = "TIME",
        default_value = format_duration(AuthConfig::STREAM_GRACE),
        env = "RESTTOOL_STREAM_GRACE",
        value_parser = timeout,
        help_heading = "Upstream",
        hide_short_help = true
    )]
    pub(super) stream_grace: Duration,

    /// Refuse requests with a longer body, e.g. 10M [default: no limit]
    #[arg(
        long,
        value_name = "SIZE",
        env = "RESTTOOL_MAX_BODY",
        value_parser = byte_count,
        requires = "upstream",
        help_heading = "Upstream",
        hide_short_help = true
    )]
    max_body: Option<u64>,

    /// Pass the Authorization field to the upstream, which learns the passwords of all users then
    #[arg(
        long,
        conflicts_with = "credentials_header",
        env = "RESTTOOL_PASS_AUTHORIZATION",
        value_parser = BoolishValueParser::new(),
        requires = "upstream",
        help_heading = "Upstream",
        hide_short_help = true
    )]
    pass_authorization: bool,

    /// Log a line for each request that is passed to the upstream
    #[arg(
        long,
        env = "RESTTOOL_ACCESS_LOG",
        value_parser = BoolishValueParser::new(),
        requires = "upstream",
        help_heading = "Upstream",
        hide_short_help = true
    )]
    access_log: bool,

    /// Count the upstream as not ready in /readyz of --ops-listen if this path of it fails
    #[arg(
        long,
        value_name = "PATH",
        env = "RESTTOOL_UPSTREAM_HEALTH",
        requires = "upstream",
        help_heading = "Upstream",
        hide_short_help = true
    )]
    upstream_health: Option<HealthPath>,

    /// Let only pages of this origin open WebSockets: same, or e.g. https://app:8443; may be
    /// repeated, or separated by commas
    #[arg(
        long,
        value_name = "ORIGIN",
        env = "RESTTOOL_WEBSOCKET_ORIGIN",
        value_delimiter = ',',
        requires = "upstream",
        help_heading = "Upstream",
        hide_short_help = true
    )]
    websocket_origin: Vec<AllowedOrigin>,

    #[command(flatten)]
    pub(crate) rules: RuleSettings,

    /// Require no password for CORS preflights, which browsers send without one
    #[arg(
        long,
        env = "RESTTOOL_CORS",
        value_parser = BoolishValueParser::new(),
        requires = "upstream",
        help_heading = "Rules",
        hide_short_help = true
    )]
    cors: bool,
}

/// The reason why an upstream cannot be configured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxySettingsError {
    #[error("cannot speak TLS with the upstream: {0}")]
    Tls(#[from] UpstreamTlsError),
    #[error(transparent)]
    Rules(#[from] RulesError),
}

impl ProxySettings {
    /// Returns the configuration of the proxy, if there is an upstream.
    pub(crate) fn config(&self) -> Result<Option<ProxyConfig>, ProxySettingsError> {
        let Some(address) = &self.upstream else { return Ok(None) };
        let upstream = Upstream::new(address.clone(), self.upstream_ca.as_deref())?;
        Ok(Some(ProxyConfig {
            rules: self.rules.rules()?,
            cors: self.cors,
            websocket_origins: self.websocket_origin.clone(),
            health_path: self.upstream_health.clone(),
            pass_authorization: self.pass_authorization,
            max_body: self.max_body,
            connect_timeout: self.upstream_connect_timeout,
            response_timeout: self.upstream_timeout.0,
            access_log: self.access_log,
            ..ProxyConfig::new(upstream)
        }))
    }
}
