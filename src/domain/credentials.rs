//! Credentials as the Basic scheme encodes them (RFC 7617 section 2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::{Password, UserName};

/// Credentials as received: the base64 of a name, a colon and a password (RFC 7617 section 2). They
/// are not decoded yet, and may be malformed.
#[derive(Clone, Copy)]
pub struct EncodedCredentials<'a>(&'a [u8]);

impl<'a> EncodedCredentials<'a> {
    /// Wraps the part of an Authorization field after the scheme.
    #[must_use]
    pub fn new(base64: &'a [u8]) -> Self {
        Self(base64)
    }

    /// Returns the octets as received.
    pub(crate) fn octets(self) -> &'a [u8] {
        self.0
    }

    /// Decodes the credentials. Accepts canonical, padded base64 only (RFC 4648 sections 3.2 and
    /// 3.5). Returns `None` if no user can have these credentials.
    #[must_use]
    pub fn decode(self) -> Option<Credentials> {
        let decoded = Zeroizing::new(STANDARD.decode(self.0).ok()?);
        let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some(Credentials {
            user: UserName::parse(user).ok()?,
            password: Password::parse(password).ok()?,
        })
    }
}

impl Credentials {
    /// Encodes the credentials for the Basic scheme. Equal credentials have equal encodings.
    pub(crate) fn encode(&self) -> Zeroizing<String> {
        let parts = [self.user.as_str(), ":", self.password.reveal()];
        // `concat` allocates once. A growing buffer would leave a copy behind.
        let plain = Zeroizing::new(parts.concat());
        Zeroizing::new(STANDARD.encode(plain.as_bytes()))
    }
}

/// A user name and a password of a request, not verified yet.
#[derive(Clone, Debug)]
pub struct Credentials {
    #[allow(missing_docs, reason = "the type says it")]
    pub user: UserName,
    #[allow(missing_docs, reason = "the type says it")]
    pub password: Password,
}

#[cfg(test)]
mod tests {
    use super::*;

    ///
    #[test]
    fn password_is_not_shown_by_debug() {
        let credentials = Credentials {
            user: UserName::parse("roy").unwrap(),
            password: Password::parse("open-sesame").unwrap(),
        };
        assert!(!format!("{credentials:?}").contains("sesame"));
    }
}
