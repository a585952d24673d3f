//! Asks a running server over its control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix_web::rt::net::UnixStream;
use actix_web::rt::time::timeout;
use actix_web::web::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use super::{ClearRequest, Cleared, ServerStatus, ThrottledEntry};

/// The time in which a server has to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The limit of an answer, in bytes. The longest is the list of all throttled sources.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// A client of a server's control socket.
#[derive(Clone, Debug)]
pub struct ControlClient {
    socket: PathBuf,
}

/// The reason why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no server, or it cannot be reached.
    #[error(transparent)]
    Connect(io::Error),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server did not answer in time.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
    /// The server refused, for this reason.
    #[error("{0}")]
    Refused(String),
    /// The answer is not that of a server of this version.
    #[error("the answer is not understood: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl ControlClient {
    /// Makes a client of the socket at this path.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Returns the path of the socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the state of the server.
    ///
    /// # Errors
    /// Fails if the server does not answer.
    pub fn status(&self) -> Result<ServerStatus, ControlError> {
        self.ask(Method::GET, "/status.json", Bytes::new())
    }

    /// Returns the status of its readiness: 200 if users can be looked up.
    ///
    /// # Errors
    /// Fails if the server does not answer.
    pub fn readiness(&self) -> Result<StatusCode, ControlError> {
        self.send(Method::GET, "/readyz", Bytes::new()).map(|(status, _)| status)
    }

    /// Returns all throttled sources and user names, those with the longest time left first.
    ///
    /// # Errors
    /// Fails if the server does not answer.
    pub fn throttled(&self) -> Result<Vec<ThrottledEntry>, ControlError> {
        self.ask(Method::GET, "/throttle", Bytes::new())
    }

    /// Forgives failures.
    ///
    /// # Errors
    /// Fails if the server does not answer, or refuses the request.
    pub fn clear(&self, request: &ClearRequest) -> Result<Cleared, ControlError> {
        self.ask(Method::POST, "/throttle/clear", serde_json::to_vec(request)?.into())
    }

    fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ControlError> {
        let (status, body) = self.send(method, path, body)?;
        match status {
            StatusCode::OK => Ok(serde_json::from_slice(&body)?),
            _ => Err(ControlError::Refused(String::from_utf8_lossy(&body).trim().to_owned())),
        }
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ControlError> {
        let asked = async {
            let asked = timeout(TIMEOUT, self.exchange(method, path, body)).await;
            asked.unwrap_or(Err(ControlError::TimedOut))
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(ControlError::Connect)?.block_on(asked)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ControlError> {
        let failed = |e: hyper::Error| ControlError::Connection(e.into());
        let stream = UnixStream::connect(&self.socket).await.map_err(ControlError::Connect)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // Its failure is that of the request too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| ControlError::Connection(e.into()))?;
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok((status, body.map_err(ControlError::Connection)?.to_bytes()))
    }
}
