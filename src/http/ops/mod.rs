//! The service for operators: health, readiness, metrics and the state of the server.
//!
//! Decides what operators see, and who may change anything: over TCP, figures only; on a private
//! Unix socket, addresses, names and errors too, and the throttle can be cleared there. Decides
//! nothing about requests of clients.

mod client;
mod control;
mod history;
mod metrics;
mod monitor;
mod page;
mod process;
mod status;

use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::web::ServiceConfig;
use actix_web::{HttpRequest, HttpResponse, guard, web};

use super::gate::SharedGate;
use super::response::{JSON, not_found, response, text};
use super::routing::{resource, with};
pub use client::{ControlClient, ControlError};
pub(super) use control::PeerUser;
pub use control::{ClearRequest, Cleared};
pub(super) use monitor::Monitor;
pub use status::{LoggedError, ServerStatus, ThrottledEntry};

/// The type of the text format of Prometheus.
const METRICS: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));

const HTML: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));

/// The configuration of the service for operators.
#[derive(Clone, Debug)]
pub struct OpsConfig {
    /// The location of the store, for people.
    pub store: String,
    /// Returns the number of dropped log lines.
    pub dropped_log_lines: fn() -> u64,
    /// Returns the last errors of the log, the newest first.
    pub last_errors: fn() -> Vec<LoggedError>,
    /// The time between two samples of the rates.
    pub interval: Duration,
}

impl OpsConfig {
    /// The default of [`OpsConfig::interval`].
    pub const INTERVAL: Duration = Duration::from_secs(10);
}

impl Default for OpsConfig {
    fn default() -> Self {
        Self {
            store: String::new(),
            dropped_log_lines: || 0,
            last_errors: Vec::new,
            interval: Self::INTERVAL,
        }
    }
}

/// The monitor as the handlers of one thread share it.
type SharedMonitor = Rc<Arc<Monitor>>;

/// Adds the routes for operators that a listener for clients has too.
pub(super) fn configure_public(gate: &SharedGate, config: &mut ServiceConfig) {
    let readyz = with(gate, |_, gate| async move { readiness(gate.authenticator().is_ready()) });
    config
        .service(resource("/healthz", healthz))
        .service(resource("/readyz", readyz))
        .service(resource("/openapi.json", openapi));
}

/// Adds the routes of a listener for operators. Unix sockets are private.
///
/// Over TCP, the Host field has to be an IP address or `localhost`. A page whose name an attacker
/// resolves to this machine (DNS rebinding) sends another one.
pub(super) fn configure(monitor: &SharedMonitor, is_tcp: bool, config: &mut ServiceConfig) {
    if is_tcp {
        let foreign = guard::fn_guard(|context| !is_local(context.head().headers()));
        config.service(web::scope("").guard(foreign).default_service(web::to(|| async {
            text(
                StatusCode::MISDIRECTED_REQUEST,
                "Misdirected Request. Use an IP address or localhost in the URL.\n",
            )
        })));
    } else {
        control::configure(monitor, config);
    }
    let readyz = with(monitor, |_, monitor| async move {
        readiness(monitor.is_ready() && monitor.is_upstream_ready().await)
    });
    config
        .service(resource("/healthz", healthz))
        .service(resource("/readyz", readyz))
        .service(resource("/metrics", with(monitor, metrics)))
        .service(resource("/status", with(monitor, move |_, it| page(it, !is_tcp))))
        .service(resource("/status.json", with(monitor, move |_, it| status(it, !is_tcp))))
        .default_service(web::to(not_found));
}

/// Returns true if the Host field is missing, an IP address or `localhost`, with or without a port
/// (RFC 9110 section 7.2).
fn is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let bare = match host.strip_prefix('[') {
        Some(rest) => {
            return rest.split_once(']').is_some_and(|(address, port)| {
                address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.starts_with(':'))
            });
        }
        None => host.rsplit_once(':').map_or(host, |(host, _)| host),
    };
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4())
}

async fn metrics(_: HttpRequest, monitor: SharedMonitor) -> HttpResponse {
    match metrics::encode(monitor.figures()) {
        Ok(encoded) => response(StatusCode::OK).insert_header(METRICS).body(encoded),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "The metrics cannot be encoded.\n"),
    }
}

async fn page(monitor: SharedMonitor, is_private: bool) -> HttpResponse {
    let mut nonce = [0; 16];
    if getrandom::fill(&mut nonce).is_err() {
        let why = "The system gives no random numbers.\n";
        return text(StatusCode::INTERNAL_SERVER_ERROR, why);
    }
    let nonce = format!("{:032x}", u128::from_ne_bytes(nonce));
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    response(StatusCode::OK)
        .insert_header(HTML)
        .insert_header((header::CONTENT_SECURITY_POLICY, policy))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .body(page::render(&monitor.status(is_private), &nonce))
}

async fn status(monitor: SharedMonitor, is_private: bool) -> HttpResponse {
    json(&monitor.status(is_private))
}

/// Responds with an object.
fn json(object: &impl serde::Serialize) -> HttpResponse {
    match serde_json::to_string(object) {
        Ok(object) => response(StatusCode::OK).insert_header(JSON).body(object + "\n"),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "The answer cannot be encoded.\n"),
    }
}

pub(super) async fn healthz() -> HttpResponse {
    text(StatusCode::OK, "ok\n")
}

fn readiness(is_ready: bool) -> HttpResponse {
    if is_ready {
        text(StatusCode::OK, "ready\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// Returns the OpenAPI 3.1 description.
async fn openapi() -> HttpResponse {
    response(StatusCode::OK).insert_header(JSON).body(include_str!("../../../docs/openapi.json"))
}
