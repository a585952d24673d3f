//! The routes that steer a server, on private Unix sockets only.

use actix_web::http::StatusCode;
use actix_web::http::header;
use actix_web::web::{Bytes, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::{SharedMonitor, json};
use crate::auth::{ClearedBy, Source, Subject};
use crate::domain::UserName;
use crate::http::response::{PLAIN_TEXT, response};
use crate::http::routing::{exactly, resource, with};

/// The limit of the body of a request, in bytes. A user name has at most 128 of them.
const MAX_BODY: usize = 4096;

/// The failures to forgive.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum ClearRequest {
    /// Those of a source: an address, or an IPv6 network.
    Source(String),
    /// Those on a user name.
    User(String),
    /// All of them.
    All,
}

/// The result of a [`ClearRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Cleared {
    /// The number of sources and user names that had failures.
    pub cleared: usize,
}

/// The user at the other end of a Unix socket.
#[derive(Clone, Copy, Debug)]
pub(in crate::http) struct PeerUser(pub(in crate::http) u32);

pub(super) fn configure(monitor: &SharedMonitor, config: &mut ServiceConfig) {
    let listed =
        with(
            monitor,
            |_, monitor: SharedMonitor| async move { json(&monitor.throttled(usize::MAX)) },
        );
    let monitor = monitor.clone();
    let clear = move |request: HttpRequest, body: Bytes| {
        let monitor = monitor.clone();
        async move { clear(&request, &body, &monitor) }
    };
    config.service(resource("/throttle", listed)).service(
        exactly("/throttle/clear")
            .app_data(web::PayloadConfig::new(MAX_BODY))
            .route(web::post().to(clear))
            .default_service(web::to(|| async {
                response(StatusCode::METHOD_NOT_ALLOWED)
                    .insert_header((header::ALLOW, "POST"))
                    .insert_header(PLAIN_TEXT)
                    .body("Method Not Allowed. Use POST.\n")
            })),
    );
}

fn clear(request: &HttpRequest, body: &[u8], monitor: &SharedMonitor) -> HttpResponse {
    let refused = |why: String| {
        response(StatusCode::BAD_REQUEST).insert_header(PLAIN_TEXT).body(format!("{why}\n"))
    };
    let asked = match serde_json::from_slice(body) {
        Ok(asked) => asked,
        Err(e) => return refused(format!("The request is not understood: {e}")),
    };
    let by = ClearedBy(request.conn_data::<PeerUser>().map(|user| user.0));
    let authenticator = monitor.authenticator();
    let cleared = match asked {
        ClearRequest::All => authenticator.clear_all_failures(by),
        ClearRequest::Source(text) => match text.parse::<Source>() {
            Ok(source) => authenticator.clear_failures(&Subject::Source(source), by).into(),
            Err(_) => return refused("The source is no address.".to_owned()),
        },
        ClearRequest::User(name) => match UserName::parse(&name) {
            Ok(name) => authenticator.clear_failures(&Subject::User(Some(name)), by).into(),
            Err(e) => return refused(format!("The name is no user's: {e}")),
        },
    };
    json(&Cleared { cleared })
}
