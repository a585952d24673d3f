//! The access log of passed requests, under the log target `access`: one line for each response,
//! when it is over.

use std::net::IpAddr;
use std::time::Instant;

use actix_http::RequestHead;

use super::admit::Admitted;
use crate::text::{log_fields, printable};

/// The log target.
const TARGET: &str = "access";

/// A request whose response is not over yet. Dropping it writes the line.
pub(super) struct AccessRecord {
    /// The method and the path, without the query, which may contain secrets.
    request: String,
    source: IpAddr,
    user: Option<String>,
    status: u16,
    bytes: u64,
    start: Instant,
}

impl AccessRecord {
    pub(super) fn begin(head: &RequestHead, admitted: &Admitted) -> Self {
        Self {
            request: printable(&format!("{} {}", head.method, head.uri.path())),
            source: admitted.source,
            user: admitted.grant.as_ref().map(|grant| grant.user.to_string()),
            status: 0,
            bytes: 0,
            start: Instant::now(),
        }
    }

    /// Records the status of the response.
    pub(super) fn answered(&mut self, status: u16) {
        self.status = status;
    }

    /// Adds bytes of the body.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

impl Drop for AccessRecord {
    fn drop(&mut self) {
        // A client that left before the response has none.
        let status = if self.status == 0 { "-".to_owned() } else { self.status.to_string() };
        let milliseconds = self.start.elapsed().as_millis().to_string();
        let mut fields = vec![("status", status), ("source", self.source.to_string())];
        fields.extend(self.user.take().map(|user| ("user", user)));
        fields.push(("request", std::mem::take(&mut self.request)));
        fields.extend([("bytes", self.bytes.to_string()), ("ms", milliseconds)]);
        log_fields(TARGET, &fields);
    }
}
