//! Which requests may reach the upstream, and the responses to all others.

use std::net::IpAddr;
use std::sync::Arc;

use actix_http::{HttpMessage, Request, RequestHead};
use actix_web::HttpResponse;
use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, StatusCode, Version};

use super::ProxyConfig;
use super::origin::is_allowed;
use super::refusal::refusal;
use crate::auth::{AccessRequest, Decision, Grant, Rejection};
use crate::domain::GroupName;
use crate::http::gate::Gate;
use crate::http::peer::Origin;
use crate::http::response::{
    NOT_IN_GROUP, OVERLOADED, UNAVAILABLE, head_too_long, throttled, whole_seconds,
};
use crate::http::{NoCredentials, Requirement};
use crate::text::printable;

/// The body of a 401.
const UNAUTHORIZED: &str = "Unauthorized. Log in with a valid user name and password.\n";

/// Fields by which an upstream may take a request for one of another method.
const METHOD_OVERRIDES: [&str; 3] =
    ["x-http-method-override", "x-http-method", "x-method-override"];

/// A request that may reach the upstream.
#[derive(Clone)]
pub(in crate::http) struct Admitted {
    /// The user, if the request needed one.
    pub(super) grant: Option<Arc<Grant>>,
    /// The user has to stay in one of these groups, if there are any.
    pub(super) groups: Option<Arc<[GroupName]>>,
    pub(super) source: IpAddr,
    /// The peer is a trusted proxy. Decided once, since the list can be replaced meanwhile.
    pub(super) is_trusted: bool,
    pub(super) is_websocket: bool,
}

/// Decides which requests may reach the upstream.
pub(in crate::http) struct Admitter {
    pub(super) gate: Arc<Gate>,
    pub(super) config: ProxyConfig,
}

impl Admitter {
    pub(in crate::http) fn new(gate: Arc<Gate>, config: ProxyConfig) -> Self {
        Self { gate, config }
    }

    /// Decides on a request that waits for `100 Continue` before it sends its body (RFC 9110
    /// section 10.1.1). The decision is kept for [`super::Proxy::serve`].
    pub(in crate::http) async fn admit_waiting(
        &self,
        request: Request,
    ) -> Result<Request, HttpResponse> {
        let admitted = self.admit(request.head()).await?;
        request.extensions_mut().insert(admitted);
        Ok(request)
    }

    /// Decides whether a request may reach the upstream.
    pub(super) async fn admit(&self, head: &RequestHead) -> Result<Admitted, HttpResponse> {
        let Origin { source, is_trusted, .. } = self.gate.origin(head);
        let is_websocket = is_websocket(head);
        let requirement = match self.requirement(head, source, is_websocket) {
            Ok(requirement) => requirement,
            Err((status, text)) => {
                self.gate.reject(source, Rejection::MalformedRequest);
                return Err(refusal(head, status, text));
            }
        };
        let target = || Some(printable(&format!("{} {}", head.method, head.uri.path())));
        let groups = match requirement {
            Requirement::Group(groups) => Some(Arc::clone(groups)),
            Requirement::User | Requirement::Nothing => None,
        };
        let access =
            AccessRequest { groups: groups.as_deref().unwrap_or_default(), target: &target };
        let grant = if requirement == Requirement::Nothing {
            self.gate.authenticator().exempt(source, &access);
            None
        } else {
            match self.gate.decide_from(source, head, &access).await {
                Ok(Decision::Granted(grant)) => Some(grant),
                Ok(refused) => return Err(self.refuse(head, refused)),
                Err(NoCredentials::TooLong) => return Err(head_too_long()),
                Err(_) => {
                    let text = "Bad Request. Send one Authorization field.\n";
                    return Err(refusal(head, StatusCode::BAD_REQUEST, text));
                }
            }
        };
        if is_websocket && !is_allowed(&self.config.websocket_origins, head.headers()) {
            let text = "Forbidden. Pages of this origin may open no WebSockets.\n";
            return Err(refusal(head, StatusCode::FORBIDDEN, text));
        }
        let limit = self.config.max_body;
        if limit.is_some_and(|limit| content_length(head).is_some_and(|length| length > limit)) {
            return Err(self.too_long(head));
        }
        Ok(Admitted { grant, groups, source, is_trusted, is_websocket })
    }

    /// Returns the credentials that a request needs.
    ///
    /// # Errors
    /// Fails if the upstream may read the request differently.
    fn requirement(
        &self,
        head: &RequestHead,
        source: IpAddr,
        is_websocket: bool,
    ) -> Result<Requirement<'_>, (StatusCode, String)> {
        let bad = |text: &str| Err((StatusCode::BAD_REQUEST, format!("Bad Request. {text}\n")));
        if head.method == Method::CONNECT {
            return Err((StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed.\n".to_owned()));
        }
        if is_websocket && !is_handshake(head) {
            return bad("This is no WebSocket handshake.");
        }
        let rules = &self.config.rules;
        let required = rules.requirement(head.method.as_str(), head.uri.path(), source);
        let required = match required {
            Ok(required) => required,
            Err(why) => return bad(&format!("The path is ambiguous: {}.", why.0)),
        };
        if rules.names_methods()
            && METHOD_OVERRIDES.iter().any(|name| head.headers().contains_key(*name))
        {
            return bad("A header field gives another method.");
        }
        Ok(if self.config.cors && is_preflight(head) { Requirement::Nothing } else { required })
    }

    /// Returns the response to a request that is not granted.
    // Exhaustive, so that a new decision cannot get the response of another one.
    #[deny(clippy::wildcard_enum_match_arm)]
    fn refuse(&self, head: &RequestHead, decision: Decision) -> HttpResponse {
        let (mut response, (name, value)) = match decision {
            Decision::Denied => {
                let challenge = self.gate.challenge(head);
                return self.gate.challenge_fields().respond(head, challenge, UNAUTHORIZED);
            }
            Decision::Throttled { retry_after } => (
                refusal(head, StatusCode::TOO_MANY_REQUESTS, throttled(retry_after)),
                (header::RETRY_AFTER, HeaderValue::from(whole_seconds(retry_after))),
            ),
            Decision::Overloaded => (
                refusal(head, StatusCode::SERVICE_UNAVAILABLE, OVERLOADED),
                (header::RETRY_AFTER, HeaderValue::from(1)),
            ),
            Decision::Forbidden => return refusal(head, StatusCode::FORBIDDEN, NOT_IN_GROUP),
            Decision::Unavailable | Decision::Granted(_) => (
                refusal(head, StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
                (header::RETRY_AFTER, HeaderValue::from(1)),
            ),
        };
        response.headers_mut().insert(name, value);
        response
    }

    /// Returns the response to a request whose body is over the limit.
    pub(super) fn too_long(&self, head: &RequestHead) -> HttpResponse {
        let limit = self.config.max_body.unwrap_or_default();
        let text = format!("Content Too Large. Send at most {limit} bytes.\n");
        refusal(head, StatusCode::PAYLOAD_TOO_LARGE, text)
    }
}

/// Returns true for a CORS preflight, which browsers send without credentials (Fetch Standard
/// section 3.3).
fn is_preflight(head: &RequestHead) -> bool {
    head.method == Method::OPTIONS
        && head.headers().contains_key(header::ORIGIN)
        && head.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Returns true for a WebSocket handshake, whose content is not HTTP.
fn is_websocket(head: &RequestHead) -> bool {
    let upgrade = head.headers().get(header::UPGRADE);
    upgrade.is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Returns true if a WebSocket handshake has the form that it must have (RFC 6455 section 4.1).
fn is_handshake(head: &RequestHead) -> bool {
    let has_body = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING]
        .iter()
        .any(|name| head.headers().contains_key(name));
    head.method == Method::GET && head.version == Version::HTTP_11 && head.upgrade() && !has_body
}

/// Returns the length of the body, if the client has given it.
pub(super) fn content_length(head: &RequestHead) -> Option<u64> {
    head.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
