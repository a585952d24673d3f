//! From the Authorization field to credentials: RFC 7617 section 2, RFC 9110 section 11.6.2.
//!
//! Strict: what two readers could read differently is refused. Nothing is hashed or looked up here.

use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::credential::{Credentials, Password, UserName};

/// The longest field that is looked at, in bytes: far above the longest that can be right.
const MAX_FIELD: usize = 8 * 1024;

/// Why there are no credentials to decide on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoCredentials {
    /// No Authorization field at all: the client waits for the challenge.
    Missing,
    /// There is one, and it can't be right, whoever is in the store.
    Malformed,
    /// There are several.
    Repeated,
    /// It is over 8 KiB.
    TooLong,
}

/// The credentials that a request shows.
///
/// # Errors
/// Says why there are none to decide on.
pub fn credentials(headers: &HeaderMap) -> Result<Credentials, NoCredentials> {
    let mut fields = headers.get_all(AUTHORIZATION);
    let field = fields.next().ok_or(NoCredentials::Missing)?;
    if fields.next().is_some() {
        return Err(NoCredentials::Repeated);
    }
    if field.len() > MAX_FIELD {
        return Err(NoCredentials::TooLong);
    }
    parse(field.as_bytes()).ok_or(NoCredentials::Malformed)
}

fn parse(field: &[u8]) -> Option<Credentials> {
    let space = field.iter().position(|&c| c == b' ')?;
    let (scheme, rest) = field.split_at(space);
    if !scheme.eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    let spaces = rest.iter().take_while(|&&c| c == b' ').count();
    let encoded = &rest[spaces..];
    // Canonical and padded base64 only (RFC 4648 sections 3.2, 3.5).
    let decoded = Zeroizing::new(STANDARD.decode(encoded).ok()?);
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(Credentials {
        user: UserName::parse(user).ok()?,
        password: Password::parse(password).ok()?,
    })
}
