//! Asks an HTTP server for the status of a path, e.g. for its health. Decides nothing about it.

use std::io;
use std::time::Duration;

use actix_web::rt;
use actix_web::rt::time::timeout;
use actix_web::web::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;

use super::{HealthPath, Upstream};

/// The reason why a server gave no status.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] io::Error),
    /// The server does not answer as an HTTP server does.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// The server did not answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
}

/// Asks a server for the status of a path. Blocks for at most `limit`.
///
/// # Errors
/// Fails if the server gives none.
pub fn probe(
    server: &Upstream,
    path: &HealthPath,
    limit: Duration,
) -> Result<StatusCode, ProbeError> {
    rt::Runtime::new()?.block_on(status_of(server, path, limit))
}

/// Does the same without blocking.
pub(super) async fn status_of(
    server: &Upstream,
    path: &HealthPath,
    limit: Duration,
) -> Result<StatusCode, ProbeError> {
    timeout(limit, ask(server, path)).await.unwrap_or(Err(ProbeError::TimedOut(limit)))
}

async fn ask(server: &Upstream, path: &HealthPath) -> Result<StatusCode, ProbeError> {
    let stream = server.connect().await?;
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
    // Its failure is that of the request too.
    rt::spawn(driver);
    let request = Request::get(path.uri().clone())
        .header(HOST, server.address().authority())
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    Ok(sender.send_request(request).await?.status())
}
