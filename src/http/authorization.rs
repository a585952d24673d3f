//! Reads the Authorization field (RFC 7617 section 2, RFC 9110 section 11.6.2).
//!
//! Refuses a field that two parsers could read differently. Does not decode, hash or look up
//! anything.

use std::str::FromStr;

use actix_web::http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, ORIGIN,
    TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use crate::domain::EncodedCredentials;

/// The limit of the field, in bytes, far above the longest valid one.
const MAX_FIELD: usize = 8 * 1024;

/// The reason why a request has no credentials to decide on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoCredentials {
    /// There is no Authorization field. The client waits for the challenge.
    Missing,
    /// The field is not of the Basic scheme.
    OtherScheme,
    /// There are several fields.
    Repeated,
    /// The field is over 8 KiB.
    TooLong,
}

/// The field that carries the credentials of the gate. By default it is Authorization.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CredentialsField(HeaderName);

/// An error: no client can send credentials in this field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("expected the name of a header field of its own, e.g. X-Gate-Authorization")]
pub struct CredentialsFieldError;

impl CredentialsField {
    /// Returns the name of the field.
    pub(super) fn name(&self) -> &HeaderName {
        &self.0
    }
}

impl Default for CredentialsField {
    fn default() -> Self {
        Self(AUTHORIZATION)
    }
}

impl FromStr for CredentialsField {
    type Err = CredentialsFieldError;

    /// Parses a name. Fields with a meaning for proxies can carry no credentials.
    fn from_str(text: &str) -> Result<Self, CredentialsFieldError> {
        const TAKEN: [HeaderName; 10] = [
            CONNECTION,
            CONTENT_LENGTH,
            COOKIE,
            EXPECT,
            HOST,
            ORIGIN,
            TE,
            TRAILER,
            TRANSFER_ENCODING,
            UPGRADE,
        ];
        let name = HeaderName::from_str(text).map_err(|_| CredentialsFieldError)?;
        let is_ours =
            name.as_str().starts_with("remote-") || name.as_str().starts_with("x-forwarded-");
        if TAKEN.contains(&name) || is_ours { Err(CredentialsFieldError) } else { Ok(Self(name)) }
    }
}

/// Returns the credentials of a request in this field, still encoded. Cached credentials are
/// recognized in this form.
///
/// # Errors
/// See [`NoCredentials`].
pub fn credentials<'a>(
    headers: &'a HeaderMap,
    field: &CredentialsField,
) -> Result<EncodedCredentials<'a>, NoCredentials> {
    let mut fields = headers.get_all(field.name());
    let field = fields.next().ok_or(NoCredentials::Missing)?;
    if fields.next().is_some() {
        return Err(NoCredentials::Repeated);
    }
    if field.len() > MAX_FIELD {
        return Err(NoCredentials::TooLong);
    }
    parse(field.as_bytes()).ok_or(NoCredentials::OtherScheme)
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
    use crate::domain::{Password, UserName};

    #[test]
    fn field_of_another_meaning_carries_no_credentials() {
        let field: CredentialsField = "X-Gate".parse().unwrap();
        assert_eq!(field.name().as_str(), "x-gate");
        assert_eq!("authorization".parse(), Ok(CredentialsField::default()));
        for bad in ["", "a b", "Host", "cookie", "Remote-User", "X-Forwarded-For", "Upgrade"] {
            assert_eq!(bad.parse::<CredentialsField>(), Err(CredentialsFieldError), "{bad}");
        }
    }

    proptest::proptest! {
        /// P-05
        #[test]
        fn encoded_credentials_are_decoded_unchanged(user in "\\PC{1,20}", password in "\\PC{1,20}") {
            let (Ok(user), Ok(password)) = (UserName::parse(&user), Password::parse(&password)) else {
                return Ok(());
            };
            let pair = format!("{user}:{}", password.reveal());
            let field = format!("Basic {}", STANDARD.encode(pair));
            let shown = parse(field.as_bytes()).unwrap().decode().unwrap();
            let shown_password = shown.password.password().unwrap();
            assert_eq!((shown.user, shown_password.reveal()), (user, password.reveal()));
        }

        /// P-03
        #[test]
        fn arbitrary_field_does_not_panic(field: Vec<u8>, encoded: Vec<u8>) {
            let _ = parse(&field).map(EncodedCredentials::decode);
            let field = format!("Basic {}", STANDARD.encode(encoded));
            let _ = parse(field.as_bytes()).map(EncodedCredentials::decode);
        }
    }
}
