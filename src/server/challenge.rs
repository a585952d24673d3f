//! The challenge of a 401: RFC 7617 section 2, RFC 9110 section 11.6.1.

use std::fmt;

use actix_web::http::header::HeaderValue;

/// Names what is protected: browsers show it, and clients keep one password per realm.
#[derive(Clone, Debug)]
pub struct Realm(HeaderValue);

/// A realm that holds a control character.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RealmError;

impl Realm {
    /// The realm that is used unless told otherwise.
    pub const DEFAULT: &'static str = "Authentication Required";

    /// A realm of this name.
    ///
    /// # Errors
    /// When `name` holds a control character, which no header field can carry.
    pub fn new(name: &str) -> Result<Self, RealmError> {
        if name.chars().any(char::is_control) {
            return Err(RealmError);
        }
        // A quoted string: RFC 9110 section 5.6.4.
        let quoted = name.replace('\\', r"\\").replace('"', "\\\"");
        let challenge = format!("Basic realm=\"{quoted}\", charset=\"UTF-8\"");
        HeaderValue::from_bytes(challenge.as_bytes()).map(Self).map_err(|_| RealmError)
    }

    /// The value of the WWW-Authenticate field.
    pub(super) fn challenge(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Display for RealmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a realm can't hold control characters")
    }
}

impl std::error::Error for RealmError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(name: &str) -> Result<String, RealmError> {
        Realm::new(name)
            .map(|realm| String::from_utf8(realm.challenge().as_bytes().into()).unwrap())
    }

    /// P-01
    #[test]
    fn a_realm_is_quoted_and_holds_no_control_character() {
        let expected = |realm| Ok(format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
        assert_eq!(challenge(Realm::DEFAULT), expected("Authentication Required"));
        assert_eq!(challenge(r#"the "old" \ cellar"#), expected(r#"the \"old\" \\ cellar"#));
        assert_eq!(challenge("Käse"), expected("Käse"));
        for bad in ["a\nb", "a\r\nSet-Cookie: x", "\0", "\u{85}"] {
            assert_eq!(challenge(bad), Err(RealmError));
        }
    }
}
