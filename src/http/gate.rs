//! The gate, which decides on requests and answers `/rest-auth`.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::{Arc, Once};
use std::time::SystemTime;

use actix_http::RequestHead;
use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, Resource, rt};

use super::authorization::{NoCredentials, credentials};
use super::peer::{self, Oddity, Origin};
use super::proxy::ChallengeFields;
use super::response::{
    JSON, NOT_IN_GROUP, OVERLOADED, PLAIN_TEXT, UNAVAILABLE, head_too_long, response, text,
    throttled, whole_seconds,
};
use super::routing::{self, with};
use super::{ExtAuthzPrefix, HttpConfig, ProxyConfig, forward_auth};
use crate::auth::{AccessRequest, Authenticator, Decision, Rejection};

/// The state that all services share.
pub(super) struct Gate {
    authenticator: Arc<Authenticator>,
    config: HttpConfig,
    started: SystemTime,
    /// The log has a warning about a proxy that may be missing in the configuration.
    untrusted_proxy: Once,
    /// The log has a warning about a proxy that does not name its clients.
    not_an_address: Once,
    /// The log has a warning about a location with an invalid query.
    pub(super) misconfigured: Once,
    /// The header fields of every 401. The framework's map orders its fields at random, and copies
    /// of a map share the order, so all refusals are byte-identical.
    denied: HeaderMap,
    /// The same for the proxy.
    challenge_fields: ChallengeFields,
}

/// The gate as the handlers of one thread share it.
pub(super) type SharedGate = Rc<Arc<Gate>>;

impl Gate {
    pub(super) fn new(authenticator: Arc<Authenticator>, config: &HttpConfig) -> Self {
        let denied = response(StatusCode::UNAUTHORIZED)
            .insert_header((header::WWW_AUTHENTICATE, config.realm.challenge()))
            .insert_header(PLAIN_TEXT)
            .finish()
            .headers()
            .clone();
        Self {
            authenticator,
            config: config.clone(),
            started: SystemTime::now(),
            untrusted_proxy: Once::new(),
            not_an_address: Once::new(),
            misconfigured: Once::new(),
            denied,
            challenge_fields: ChallengeFields::new(&config.realm.challenge()),
        }
    }

    /// Counts and logs a request that was rejected before its handler.
    pub(super) fn reject(&self, source: IpAddr, why: Rejection) {
        self.authenticator.reject(source, why, &AccessRequest::ANY);
    }

    pub(super) fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    /// Returns the time when the server was started.
    pub(super) fn started(&self) -> SystemTime {
        self.started
    }

    /// Returns the configuration of the proxy, if there is one.
    pub(super) fn proxy(&self) -> Option<&ProxyConfig> {
        self.config.proxy.as_ref()
    }

    /// Returns the prefix of the routes for Envoy, if there are any.
    pub(super) fn ext_authz(&self) -> Option<&ExtAuthzPrefix> {
        self.config.ext_authz.as_ref()
    }

    /// Returns true for a path of forward authentication, where proxies know few statuses.
    pub(super) fn is_forward_auth(&self, path: &str) -> bool {
        // The paths of an upstream are its own.
        if self.config.proxy.is_some() {
            return false;
        }
        path == forward_auth::PATH
            || self.ext_authz().is_some_and(|prefix| prefix.rest(path).is_some())
    }

    /// Returns true if X-Forwarded-For from this peer is trusted.
    pub(super) fn trusts(&self, peer: IpAddr) -> bool {
        self.config.trusted_proxies.contains(peer)
    }

    /// Returns the source address of a request.
    pub(super) fn source(&self, request: &RequestHead) -> IpAddr {
        self.origin(request).source
    }

    /// Returns the same, and whether the peer is trusted.
    pub(super) fn origin(&self, request: &RequestHead) -> Origin {
        // Only requests of unit tests have no peer, since they come over no connection.
        let peer = request.peer_addr.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let origin = peer::origin(&self.config.trusted_proxies.load(), peer, request.headers());
        match origin.oddity {
            None => {}
            Some(Oddity::UntrustedProxy) => self.untrusted_proxy.call_once(|| {
                log::warn!(
                    "{peer} sends X-Forwarded-For and is not a trusted proxy: all clients behind it count as one source; if it is a proxy of yours, start with --trusted-proxy {peer}"
                );
            }),
            Some(Oddity::NotAnAddress) => self.not_an_address.call_once(|| {
                log::warn!(
                    "the trusted proxy {peer} sends an entry in X-Forwarded-For that is not an address: all clients that it cannot name count as one source"
                );
            }),
        }
        origin
    }

    /// Decides on a request, after the delay of its decision.
    ///
    /// # Errors
    /// Fails if the request has several Authorization fields, or one over the limit. It is denied
    /// and logged.
    pub(super) async fn decide(
        &self,
        request: &RequestHead,
        access: &AccessRequest<'_>,
    ) -> Result<Decision, NoCredentials> {
        self.decide_from(self.source(request), request, access).await
    }

    /// The same for a request whose source is known.
    pub(super) async fn decide_from(
        &self,
        source: IpAddr,
        request: &RequestHead,
        access: &AccessRequest<'_>,
    ) -> Result<Decision, NoCredentials> {
        let why = match credentials(request.headers(), &self.config.credentials_field) {
            Ok(encoded) => {
                let decision = self.authenticator.decide(source, encoded, access).await;
                if let Some(delay) = self.config.delays.before(&decision) {
                    // Boxed, since its size would count for every request.
                    Box::pin(rt::time::sleep(delay)).await;
                }
                return Ok(decision);
            }
            Err(why) => why,
        };
        let rejection = match why {
            NoCredentials::Missing => Rejection::NoCredentials,
            NoCredentials::OtherScheme => Rejection::OtherScheme,
            NoCredentials::Repeated => Rejection::MalformedRequest,
            NoCredentials::TooLong => Rejection::HeadTooLong,
        };
        let denied = self.authenticator.reject(source, rejection, access);
        match why {
            NoCredentials::Missing | NoCredentials::OtherScheme => Ok(denied),
            NoCredentials::Repeated | NoCredentials::TooLong => Err(why),
        }
    }

    /// Returns the value of the WWW-Authenticate field for this request.
    pub(super) fn challenge(&self, request: &RequestHead) -> HeaderValue {
        let is_script = || {
            let by = request.headers().get("x-requested-with");
            by.is_some_and(|by| by.as_bytes().eq_ignore_ascii_case(b"XMLHttpRequest"))
        };
        if self.config.quiet_challenge && is_script() {
            self.config.realm.quiet_challenge()
        } else {
            self.config.realm.challenge()
        }
    }

    /// Returns the fields of every 401 of the proxy.
    pub(super) fn challenge_fields(&self) -> &ChallengeFields {
        &self.challenge_fields
    }

    /// Returns the field with the credentials.
    pub(super) fn credentials_field(&self) -> &HeaderName {
        self.config.credentials_field.name()
    }

    /// Returns a challenge.
    pub(super) fn denied(&self, request: &RequestHead, body: &'static str) -> HttpResponse {
        let mut response = HttpResponse::new(StatusCode::UNAUTHORIZED);
        response.headers_mut().clone_from(&self.denied);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, self.challenge(request));
        response.set_body(BoxBody::new(body))
    }

    // Exhaustive, so that a new decision cannot get the response of another one.
    #[deny(clippy::wildcard_enum_match_arm)]
    fn answer(&self, request: &RequestHead, decision: Decision) -> HttpResponse {
        match decision {
            Decision::Granted(_) => response(StatusCode::OK)
                .insert_header(JSON)
                .body(concat!(r#""You are authorized to see this message""#, "\n")),
            // The tutorial's body, which programs may compare.
            Decision::Denied => self.denied(request, "Unauthorized Access"),
            Decision::Forbidden => text(StatusCode::FORBIDDEN, NOT_IN_GROUP),
            Decision::Throttled { retry_after } => response(StatusCode::TOO_MANY_REQUESTS)
                .insert_header((header::RETRY_AFTER, whole_seconds(retry_after)))
                .insert_header(PLAIN_TEXT)
                .body(throttled(retry_after)),
            Decision::Overloaded => later(OVERLOADED),
            Decision::Unavailable => later(UNAVAILABLE),
        }
    }
}

/// Asks the client to try again soon.
fn later(body: &'static str) -> HttpResponse {
    response(StatusCode::SERVICE_UNAVAILABLE)
        .insert_header((header::RETRY_AFTER, "1"))
        .insert_header(PLAIN_TEXT)
        .body(body)
}

/// The route `/rest-auth`.
pub(super) fn resource(gate: &SharedGate) -> Resource {
    routing::resource("/rest-auth", with(gate, rest_auth))
}

async fn rest_auth(request: HttpRequest, gate: SharedGate) -> HttpResponse {
    match gate.decide(request.head(), &AccessRequest::ANY).await {
        Ok(decision) => gate.answer(request.head(), decision),
        Err(NoCredentials::TooLong) => head_too_long(),
        Err(_) => text(StatusCode::BAD_REQUEST, "Bad Request. Send one Authorization field.\n"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use actix_web::test::TestRequest;

    use super::super::{Delays, Realm};
    use super::*;
    use crate::auth::{AuthConfig, Grant};
    use crate::domain::{CredentialVersion, UserName};
    use crate::store::mock::MockStore;

    /// Makes a gate on a store without users.
    pub(in crate::http) fn gate() -> Gate {
        let store = Box::new(MockStore::default());
        let authenticator = Authenticator::new(store, &AuthConfig::default()).unwrap();
        let config = HttpConfig {
            delays: Delays::NONE,
            ..HttpConfig::new(Realm::new(Realm::DEFAULT).unwrap())
        };
        Gate::new(Arc::new(authenticator), &config)
    }

    #[test]
    fn every_decision_has_its_status_and_retry_after() {
        let gate = gate();
        let user = UserName::parse("roy").unwrap();
        let grant = Grant {
            user,
            groups: Arc::default(),
            credential_version: CredentialVersion::default(),
        };
        let throttled = |millis| Decision::Throttled { retry_after: Duration::from_millis(millis) };
        for (decision, status, retry_after) in [
            (Decision::Granted(Arc::new(grant)), 200, None),
            (Decision::Forbidden, 403, None),
            (Decision::Denied, 401, None),
            (throttled(6000), 429, Some("6")),
            (throttled(6001), 429, Some("7")),
            (throttled(1), 429, Some("1")),
            (Decision::Overloaded, 503, Some("1")),
            (Decision::Unavailable, 503, Some("1")),
        ] {
            let what = format!("{decision:?}");
            let request = TestRequest::get().to_http_request();
            let answer = gate.answer(request.head(), decision);
            let seen =
                answer.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!((answer.status().as_u16(), seen), (status, retry_after), "{what}");
            assert_eq!(answer.headers().get(header::CACHE_CONTROL).unwrap(), "no-store");
        }
    }
}
