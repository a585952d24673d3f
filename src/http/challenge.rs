//! The challenge of a 401 (RFC 7617 section 2, RFC 9110 section 11.6.1).

use actix_web::http::header::HeaderValue;

/// The realm. Browsers show it, and clients remember one password per realm.
#[derive(Clone, Debug)]
pub struct Realm {
    basic: HeaderValue,
    quiet: HeaderValue,
}

/// An error: the realm contains a control character.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a realm can't hold control characters")]
pub struct RealmError;

impl Realm {
    /// The default realm.
    pub const DEFAULT: &'static str = "Authentication Required";

    /// Makes a realm.
    ///
    /// # Errors
    /// Fails if `name` contains a control character, which no header field can contain.
    pub fn new(name: &str) -> Result<Self, RealmError> {
        if name.chars().any(char::is_control) {
            return Err(RealmError);
        }
        // A quoted string: RFC 9110 section 5.6.4.
        let quoted = name.replace('\\', r"\\").replace('"', "\\\"");
        let challenge = |scheme: &str| {
            let challenge = format!("{scheme} realm=\"{quoted}\", charset=\"UTF-8\"");
            HeaderValue::from_bytes(challenge.as_bytes()).map_err(|_| RealmError)
        };
        Ok(Self { basic: challenge("Basic")?, quiet: challenge("X-Basic")? })
    }

    /// Returns the value of the WWW-Authenticate field.
    pub(super) fn challenge(&self) -> HeaderValue {
        self.basic.clone()
    }

    /// Returns the value of a scheme that browsers do not know. So they show no prompt, and the
    /// script gets the 401.
    pub(super) fn quiet_challenge(&self) -> HeaderValue {
        self.quiet.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(name: &str) -> Result<String, RealmError> {
        Realm::new(name)
            .map(|realm| String::from_utf8(realm.challenge().as_bytes().into()).unwrap())
    }

    /// P-01
    #[test]
    fn realm_is_quoted_and_has_no_control_character() {
        let expected = |realm| Ok(format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
        assert_eq!(challenge(Realm::DEFAULT), expected("Authentication Required"));
        assert_eq!(challenge(r#"the "old" \ cellar"#), expected(r#"the \"old\" \\ cellar"#));
        assert_eq!(challenge("Käse"), expected("Käse"));
        for bad in ["a\nb", "a\r\nSet-Cookie: x", "\0", "\u{85}"] {
            assert_eq!(challenge(bad), Err(RealmError));
        }
    }
}
