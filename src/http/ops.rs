//! The routes for operators: health, readiness, and the description of all routes.

use actix_web::http::StatusCode;
use actix_web::web::ServiceConfig;
use actix_web::{HttpRequest, HttpResponse};

use super::gate::SharedGate;
use super::response::{JSON, response, text};
use super::routing::{resource, with};

pub(super) fn configure(gate: &SharedGate, config: &mut ServiceConfig) {
    config
        .service(resource("/healthz", healthz))
        .service(resource("/readyz", with(gate, readyz)))
        .service(resource("/openapi.json", openapi));
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
