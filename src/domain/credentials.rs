//! Credentials as the Basic scheme encodes them (RFC 7617 section 2).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use zeroize::{Zeroize, Zeroizing};

use super::{NameError, PasswordError, PresentedPassword, UserName};

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

    /// Decodes the credentials. Accepts canonical base64, with all of its padding or none (RFC 4648
    /// sections 3.2 and 3.5). Reads text that is not UTF-8 as ISO-8859-1, which some clients send.
    ///
    /// # Errors
    /// Fails with the reason why no user can have these credentials. The error contains no part of
    /// the password.
    pub fn decode(self) -> Result<Credentials, CredentialsError> {
        let engine = if self.0.ends_with(b"=") { &STANDARD } else { &STANDARD_NO_PAD };
        let decoded = engine.decode(self.0).map_err(|_| CredentialsError::NotBase64)?;
        let decoded = Zeroizing::new(decoded);
        let text = match std::str::from_utf8(&decoded) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(latin1(&decoded)),
        };
        let credentials = parse(&decoded, &text);
        if let Cow::Owned(mut text) = text {
            text.zeroize();
        }
        credentials
    }
}

/// Parses octets and their text.
fn parse(octets: &[u8], text: &str) -> Result<Credentials, CredentialsError> {
    let (user, password) = text.split_once(':').ok_or(CredentialsError::NoColon)?;
    let colon = octets.iter().position(|octet| *octet == b':');
    let octets = colon.and_then(|colon| octets.get(colon + 1..)).unwrap_or_default();
    let user = UserName::parse(user)?;
    Ok(Credentials { user, password: PresentedPassword::parse(octets, password)? })
}

/// Reads ISO-8859-1: each octet is the code point of the same number.
fn latin1(octets: &[u8]) -> String {
    // An octet becomes two bytes at most. A growing buffer would leave a copy behind.
    let mut text = String::with_capacity(2 * octets.len());
    text.extend(octets.iter().map(|octet| char::from(*octet)));
    text
}

/// The reason why no user can have these credentials.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CredentialsError {
    /// They are not canonical base64.
    #[error("the credentials are not canonical base64")]
    NotBase64,
    /// No colon separates a name from a password.
    #[error("there is no colon in the credentials")]
    NoColon,
    /// The name is invalid.
    #[error("invalid user name: {0}")]
    Name(#[from] NameError),
    /// The password is invalid.
    #[error("invalid password: {0}")]
    Password(#[from] PasswordError),
}

/// Encodes a name and a password for the Basic scheme. Equal credentials have equal encodings.
pub(crate) fn encode_credentials(user: &UserName, password: &[u8]) -> Zeroizing<String> {
    // `concat` allocates once. A growing buffer would leave a copy behind.
    let plain = Zeroizing::new([user.as_str().as_bytes(), b":", password].concat());
    Zeroizing::new(STANDARD.encode(plain.as_slice()))
}

/// A user name and a password of a request, not verified yet.
#[derive(Clone, Debug)]
pub struct Credentials {
    #[allow(missing_docs, reason = "the type says it")]
    pub user: UserName,
    #[allow(missing_docs, reason = "the type says it")]
    pub password: PresentedPassword,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Password;

    fn decode(base64: &str) -> Result<(String, String), CredentialsError> {
        let decoded = EncodedCredentials::new(base64.as_bytes()).decode()?;
        let password = decoded.password.password()?;
        Ok((decoded.user.to_string(), password.reveal().to_owned()))
    }

    fn of(user: &str, password: &str) -> Result<(String, String), CredentialsError> {
        Ok((user.to_owned(), password.to_owned()))
    }

    /// P-04, W-05
    #[test]
    fn padding_is_complete_or_absent() {
        // One, two and no characters of padding.
        assert_eq!(decode("cm95Om9wZW4="), of("roy", "open"));
        assert_eq!(decode("cm95Om9wZW4"), of("roy", "open"));
        assert_eq!(decode("cm95OnNlc2FtZQ=="), of("roy", "sesame"));
        assert_eq!(decode("cm95OnNlc2FtZQ"), of("roy", "sesame"));
        assert_eq!(decode("cm95OnJpZ2h0"), of("roy", "right"));
        for bad in [
            "cm95OnNlc2FtZQ=",  // one of two
            "cm95OnJpZ2h0=",    // one of none
            "cm95OnJpZ2h0====", // a group of padding
            "cm95Om9wZW5=",     // a bit behind the last byte
            "cm95Om9wZW5",      // the same without padding
            "cm95OnNlc2FtZR==", // another one
            "cm95OnNlc2FtZ",    // one character of a group
            "cm95 OnJpZ2h0",
            "",
        ] {
            let expected = match bad {
                "" => CredentialsError::NoColon,
                _ => CredentialsError::NotBase64,
            };
            assert_eq!(decode(bad), Err(expected), "{bad}");
        }
    }

    /// W-03
    #[test]
    fn octets_that_are_not_utf8_are_read_as_latin1() {
        let encode = |octets: &[u8]| STANDARD.encode(octets);
        let (utf8, latin1) = ("jos\u{E9}:caf\u{E9}".as_bytes(), b"jos\xE9:caf\xE9");
        assert_eq!(decode(&encode(utf8)), of("jos\u{E9}", "caf\u{E9}"));
        assert_eq!(decode(&encode(latin1)), of("jos\u{E9}", "caf\u{E9}"));
        // 80 to 9F are control characters there.
        for octet in 0x80..=0x9F {
            let password = decode(&encode(&[b"roy:a\xFF".as_slice(), &[octet]].concat()));
            assert_eq!(password, Err(PasswordError::Control.into()), "{octet:#x}");
        }
    }

    /// W-04
    #[test]
    fn every_reason_is_named() {
        let encode = |text: &str| STANDARD.encode(text);
        for (text, reason) in [
            ("roy", CredentialsError::NoColon),
            (":open", NameError::Empty.into()),
            ("r  y:open", NameError::Spaces.into()),
            ("roy:", PasswordError::Empty.into()),
            ("roy:a\0b", PasswordError::Control.into()),
            (&format!("roy:{}", "p".repeat(73)), PasswordError::TooLong.into()),
            (&format!("{}:open", "n".repeat(129)), NameError::TooLong.into()),
        ] {
            assert_eq!(decode(&encode(text)), Err(reason), "{text}");
        }
    }

    ///
    #[test]
    fn password_is_not_shown_by_debug() {
        let credentials = Credentials {
            user: UserName::parse("roy").unwrap(),
            password: (&Password::parse("open-sesame").unwrap()).into(),
        };
        assert!(!format!("{credentials:?}").contains("sesame"));
    }
}
