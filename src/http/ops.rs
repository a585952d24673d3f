//! The routes for operators: health, readiness, metrics, and the description of all routes.

use std::net::{IpAddr, Ipv6Addr};

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::web::ServiceConfig;
use actix_web::{HttpRequest, HttpResponse, guard, web};

use super::OpsConfig;
use super::gate::SharedGate;
use super::metrics::{self, Figures};
use super::response::{JSON, not_found, response, text};
use super::routing::{resource, with};

/// The type of the text format of Prometheus.
const METRICS: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));

pub(super) fn configure(gate: &SharedGate, config: &mut ServiceConfig) {
    config
        .service(resource("/healthz", healthz))
        .service(resource("/readyz", with(gate, readyz)))
        .service(resource("/openapi.json", openapi));
}

/// Adds the routes of the listener for operators.
///
/// Over TCP, the Host field has to be an IP address or `localhost`. A page whose name an attacker
/// resolves to this machine (DNS rebinding) sends another one.
pub(super) fn configure_all(
    gate: &SharedGate,
    ops: OpsConfig,
    is_tcp: bool,
    config: &mut ServiceConfig,
) {
    if is_tcp {
        let foreign = guard::fn_guard(|context| !is_local(context.head().headers()));
        config.service(web::scope("").guard(foreign).default_service(web::to(|| async {
            text(
                StatusCode::MISDIRECTED_REQUEST,
                "Misdirected Request. Use an IP address or localhost in the URL.\n",
            )
        })));
    }
    config
        .service(resource("/healthz", healthz))
        .service(resource("/readyz", with(gate, readyz)))
        .service(resource("/metrics", with(gate, move |_, gate| metrics(gate, ops))))
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

async fn metrics(gate: SharedGate, ops: OpsConfig) -> HttpResponse {
    let figures = Figures {
        store_reachable: gate.is_ready(),
        counters: gate.counters(),
        dropped_log_lines: (ops.dropped_log_lines)(),
        started: gate.started(),
    };
    match metrics::encode(figures) {
        Ok(encoded) => response(StatusCode::OK).insert_header(METRICS).body(encoded),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "The metrics cannot be encoded.\n"),
    }
}

pub(super) async fn healthz() -> HttpResponse {
    text(StatusCode::OK, "ok\n")
}

async fn readyz(_: HttpRequest, gate: SharedGate) -> HttpResponse {
    if gate.is_ready() {
        text(StatusCode::OK, "ready\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// Returns the OpenAPI 3.1 description.
async fn openapi() -> HttpResponse {
    response(StatusCode::OK).insert_header(JSON).body(include_str!("../../docs/openapi.json"))
}
