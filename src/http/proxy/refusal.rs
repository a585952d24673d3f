//! Refusals of the proxy, in the form that the client prefers: a page for a person in a browser, an
//! object for a program that asks for JSON, and a line of text for all others.

use std::borrow::Cow;

use actix_http::RequestHead;
use actix_web::HttpResponse;
use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use maud::{DOCTYPE, html};
use serde_json::json;

use crate::http::response::{JSON, NO_STORE, PLAIN_TEXT};

const HTML: (HeaderName, HeaderValue) =
    (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));

/// The page needs nothing but its own style.
const POLICY: (HeaderName, HeaderValue) = (
    header::CONTENT_SECURITY_POLICY,
    HeaderValue::from_static(
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
);

const STYLE: &str = ":root{color-scheme:light dark;font:1rem/1.5 system-ui,sans-serif}\
    body{max-width:32rem;margin:20vh auto 0;padding:0 1rem}h1{font-size:1.25rem}";

/// A form of a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Html,
    Json,
    Text,
}

impl Form {
    const ALL: [Self; 3] = [Self::Html, Self::Json, Self::Text];

    /// Returns the fields of a refusal.
    fn fields(self) -> HeaderMap {
        let mut fields = HeaderMap::new();
        let (name, value) = match self {
            Self::Html => HTML,
            Self::Json => JSON,
            Self::Text => PLAIN_TEXT,
        };
        fields.insert(name, value);
        if self == Self::Html {
            fields.insert(POLICY.0, POLICY.1);
        }
        fields.insert(NO_STORE.0, NO_STORE.1);
        fields.insert(header::VARY, HeaderValue::from_static("Accept"));
        fields
    }

    fn body(self, status: StatusCode, text: &str) -> String {
        match self {
            Self::Text => text.to_owned(),
            Self::Json => format!("{}\n", json!({ "error": text.trim_end() })),
            Self::Html => page(status, text.trim_end()),
        }
    }
}

/// Makes a refusal with this text, which ends with a line end.
pub(super) fn refusal(
    request: &RequestHead,
    status: StatusCode,
    text: impl Into<Cow<'static, str>>,
) -> HttpResponse {
    let form = preferred(request.headers());
    respond(form, form.fields(), status, &text.into())
}

fn respond(form: Form, fields: HeaderMap, status: StatusCode, text: &str) -> HttpResponse {
    let mut response = HttpResponse::new(status);
    *response.headers_mut() = fields;
    response.set_body(BoxBody::new(form.body(status, text)))
}

/// The fields of every 401, by form. The framework's map orders its fields at random, and copies of
/// a map share the order, so all refusals are byte-identical.
pub(in crate::http) struct ChallengeFields([HeaderMap; 3]);

impl ChallengeFields {
    pub(in crate::http) fn new(challenge: &HeaderValue) -> Self {
        Self(Form::ALL.map(|form| {
            let mut fields = form.fields();
            fields.insert(header::WWW_AUTHENTICATE, challenge.clone());
            fields
        }))
    }

    /// Makes a 401 with this challenge.
    pub(super) fn respond(
        &self,
        request: &RequestHead,
        challenge: HeaderValue,
        text: &str,
    ) -> HttpResponse {
        let form = preferred(request.headers());
        let [html, json, plain] = &self.0;
        let fields = match form {
            Form::Html => html,
            Form::Json => json,
            Form::Text => plain,
        };
        let mut response = respond(form, fields.clone(), StatusCode::UNAUTHORIZED, text);
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        response
    }
}

fn page(status: StatusCode, text: &str) -> String {
    let title = status.canonical_reason().unwrap_or("Error");
    // The heading says it already.
    let text = text.strip_prefix(title).map_or(text, |rest| rest.trim_start_matches(['.', ' ']));
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                title { (title) }
                style { (maud::PreEscaped(STYLE)) }
            }
            body {
                h1 { (status.as_u16()) " " (title) }
                p { (text) }
            }
        }
    };
    page.into_string()
}

/// Returns the preferred form (RFC 9110 section 12.5.1). Ranges such as `*/*` ask for none.
fn preferred(headers: &HeaderMap) -> Form {
    let mut best = (0, Form::Text);
    for field in headers.get_all(header::ACCEPT).filter_map(|field| field.to_str().ok()) {
        for range in field.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let form = match parts.next() {
                Some("text/html" | "application/xhtml+xml") => Form::Html,
                Some("application/json" | "application/problem+json") => Form::Json,
                Some("text/plain") => Form::Text,
                _ => continue,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(1000, thousandths);
            if weight > best.0 {
                best = (weight, form);
            }
        }
    }
    best.1
}

/// Returns a weight in thousandths, or 0 if it is malformed.
fn thousandths(weight: &str) -> u16 {
    let digits = match weight.split_once('.') {
        None => return if weight == "1" { 1000 } else { 0 },
        Some(("1", _)) => return 1000,
        Some(("0", digits)) if digits.len() <= 3 => digits,
        Some(_) => return 0,
    };
    format!("{digits:0<3}").parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn form(accept: &[&str]) -> Form {
        let request = accept
            .iter()
            .fold(TestRequest::get(), |request, accept| request.append_header(("Accept", *accept)));
        preferred(request.to_request().head().headers())
    }

    #[test]
    fn client_gets_the_form_that_it_prefers() {
        let chromium = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, expected) in [
            (&[][..], Form::Text),
            (&["*/*"], Form::Text),
            (&[chromium], Form::Html),
            (&["application/json"], Form::Json),
            (&["application/json, text/plain, */*"], Form::Json),
            (&["text/html;q=0.5, application/json"], Form::Json),
            (&["text/html;q=0.5", "application/json;q=0.25"], Form::Html),
            (&["text/html;q=0"], Form::Text),
            (&["text/html; q=0.0000"], Form::Text),
            (&["text/html;q=2"], Form::Text),
            (&["image/png, text/*"], Form::Text),
        ] {
            assert_eq!(form(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn page_is_escaped_and_has_its_title_once() {
        for text in ["<script>", "Bad Gateway. <script>"] {
            let page = page(StatusCode::BAD_GATEWAY, text);
            assert!(page.contains("<h1>502 Bad Gateway</h1><p>&lt;script&gt;</p>"), "{page}");
        }
    }
}
