//! Reads the Authorization field (RFC 7617 section 2, RFC 9110 section 11.6.2).
//!
//! It is strict: a field that two parsers could read differently is refused. It does not decode,
//! hash or look up anything.

use actix_web::http::header::{AUTHORIZATION, HeaderMap};

use crate::credential::EncodedCredentials;

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

/// Returns the credentials of a request. Whether they can be decoded is decided later, since
/// cached credentials are recognized as they are.
///
/// # Errors
/// Says why there are none to decide on.
pub fn credentials(headers: &HeaderMap) -> Result<EncodedCredentials<'_>, NoCredentials> {
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

fn parse(field: &[u8]) -> Option<EncodedCredentials<'_>> {
    let space = field.iter().position(|&c| c == b' ')?;
    let (scheme, rest) = field.split_at(space);
    if !scheme.eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    let spaces = rest.iter().take_while(|&&c| c == b' ').count();
    Some(EncodedCredentials::new(&rest[spaces..]))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::credential::{Password, UserName};

    proptest::proptest! {
        /// P-05: whatever a user is called and their password is, the field says it.
        #[test]
        fn what_is_shown_is_what_was_meant(user in "\\PC{1,20}", password in "\\PC{1,20}") {
            let (Ok(user), Ok(password)) = (UserName::parse(&user), Password::parse(&password)) else {
                return Ok(());
            };
            let pair = format!("{user}:{}", password.reveal());
            let field = format!("Basic {}", STANDARD.encode(pair));
            let shown = parse(field.as_bytes()).and_then(EncodedCredentials::decode).unwrap();
            assert_eq!((shown.user, shown.password.reveal()), (user, password.reveal()));
        }

        /// P-03
        #[test]
        fn no_field_does_more_than_be_refused(field: Vec<u8>, encoded: Vec<u8>) {
            let _ = parse(&field).and_then(EncodedCredentials::decode);
            let field = format!("Basic {}", STANDARD.encode(encoded));
            let _ = parse(field.as_bytes()).and_then(EncodedCredentials::decode);
        }
    }
}
