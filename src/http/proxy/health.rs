//! The readiness of the upstream, asked for when the readiness of the server is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use actix_web::rt;
use actix_web::rt::time::timeout;
use actix_web::web::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;

use super::ProxyConfig;

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

/// Returns true if the upstream answers its health path with a status of success or redirection
/// within 2 s, or if there is no such path. Logs the failure otherwise.
pub(in crate::http) async fn is_healthy(config: &ProxyConfig) -> bool {
    let Some(path) = &config.health_path else { return true };
    let asked = timeout(TIMEOUT, ask(config, path)).await;
    let why = match asked {
        Ok(Ok(status)) if status.is_success() || status.is_redirection() => return true,
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(e)) => e.to_string(),
        Err(_) => format!("no answer within {} s", TIMEOUT.as_secs()),
    };
    log::warn!("upstream {} is not ready, {path}: {why}", config.upstream.address());
    false
}

async fn ask(
    config: &ProxyConfig,
    path: &HealthPath,
) -> Result<hyper::StatusCode, Box<dyn std::error::Error>> {
    let stream = config.upstream.connect().await?;
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    // Its failure is that of the request too.
    rt::spawn(driver);
    let request = Request::get(path.0.clone())
        .header(HOST, config.upstream.address().authority())
        .body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?.status())
}
