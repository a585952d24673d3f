//! The origins from whose pages browsers may open WebSockets (RFC 6454, RFC 6455 section 10.2).
//!
//! A browser adds the password to a WebSocket handshake of any page, and CORS does not apply. So a foreign page could act for its visitor.

use std::str::FromStr;

use actix_web::http::header::{self, HeaderMap};

/// An origin whose pages may open WebSockets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AllowedOrigin {
    /// The host of the request itself.
    Same,
    /// This origin, e.g. `https://app.example.com`.
    Exact(String),
}

/// An error: the text is no origin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected same, or an origin without a path, e.g. https://app.example.com")]
pub struct OriginError;

impl FromStr for AllowedOrigin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        if text == "same" {
            return Ok(Self::Same);
        }
        let (scheme, authority) = text.split_once("://").ok_or(OriginError)?;
        let is_authority = !authority.is_empty() && !authority.contains(['/', '?', '#', '@', ' ']);
        if matches!(scheme, "http" | "https") && is_authority {
            Ok(Self::Exact(text.to_ascii_lowercase()))
        } else {
            Err(OriginError)
        }
    }
}

/// Returns true if a handshake comes from a page of an allowed origin, or from no page.
pub(super) fn is_allowed(allowed: &[AllowedOrigin], headers: &HeaderMap) -> bool {
    let mut origins = headers.get_all(header::ORIGIN);
    let Some(origin) = origins.next() else { return true };
    if allowed.is_empty() {
        return true;
    }
    let Ok(origin) = origin.to_str() else { return false };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    origins.next().is_none()
        && allowed.iter().any(|allowed| match allowed {
            AllowedOrigin::Same => match (authority, host) {
                (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
                _ => false,
            },
            AllowedOrigin::Exact(exact) => origin.eq_ignore_ascii_case(exact),
        })
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn origin_is_a_scheme_and_an_authority() {
        assert_eq!("same".parse(), Ok(AllowedOrigin::Same));
        let exact = AllowedOrigin::Exact("https://app.example.com:8443".to_owned());
        assert_eq!("https://App.example.com:8443".parse(), Ok(exact));
        for bad in ["", "*", "app.example.com", "https://", "https://a/", "ftp://a", "null"] {
            assert_eq!(bad.parse::<AllowedOrigin>(), Err(OriginError), "{bad}");
        }
    }

    #[test]
    fn page_of_another_origin_opens_no_websocket() {
        let allowed = ["same", "https://app.example.com"].map(|text| text.parse().unwrap());
        let check = |allowed: &[AllowedOrigin], origins: &[&str]| {
            let request = TestRequest::get().insert_header(("Host", "api:8443"));
            let request =
                origins.iter().fold(request, |request, o| request.append_header(("Origin", *o)));
            is_allowed(allowed, request.to_request().head().headers())
        };
        for good in
            [&[][..], &["https://app.example.com"], &["https://api:8443"], &["http://API:8443"]]
        {
            assert!(check(&allowed, good), "{good:?}");
        }
        for bad in [
            &["https://evil.example"][..],
            &["null"],
            &["https://api"],
            &["https://app.example.com.evil.example"],
            &["https://app.example.com", "https://app.example.com"],
        ] {
            assert!(!check(&allowed, bad), "{bad:?}");
            assert!(check(&[], bad), "without the setting: {bad:?}");
        }
    }
}
