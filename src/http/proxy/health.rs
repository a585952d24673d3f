//! The readiness of the upstream, asked for when the readiness of the server is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::ProxyConfig;
use crate::http::probe::status_of;

/// The time in which the upstream has to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A path of the upstream that tells whether it is ready, e.g. `/healthz`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthPath(hyper::Uri);

/// An error: the text is no path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected a path, e.g. /healthz")]
pub struct HealthPathError;

impl FromStr for HealthPath {
    type Err = HealthPathError;

    fn from_str(text: &str) -> Result<Self, HealthPathError> {
        let path = text.parse().ok().filter(|_| text.starts_with('/'));
        path.map(Self).ok_or(HealthPathError)
    }
}

impl fmt::Display for HealthPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl HealthPath {
    pub(in crate::http) fn uri(&self) -> &hyper::Uri {
        &self.0
    }
}

/// Returns true if the upstream answers its health path with a status of success or redirection
/// within 2 s, or if there is no such path. Logs the failure otherwise.
pub(in crate::http) async fn is_healthy(config: &ProxyConfig) -> bool {
    let Some(path) = &config.health_path else { return true };
    let why = match status_of(&config.upstream, path, TIMEOUT).await {
        Ok(status) if status.is_success() || status.is_redirection() => return true,
        Ok(status) => status.to_string(),
        Err(e) => e.to_string(),
    };
    log::warn!("upstream {} is not ready, {path}: {why}", config.upstream.address());
    false
}
