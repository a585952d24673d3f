//! User names (RFC 8265 sections 3.1 and 3.4).

use std::borrow::Cow;
use std::fmt;

use precis_profiles::UsernameCasePreserved;
use precis_profiles::precis_core::Error as PrecisError;
use precis_profiles::precis_core::profile::PrecisFastInvocation;

use super::MAX_RAW_BYTES;

/// A user name: parts of the profile `UsernameCasePreserved` of RFC 8265 section 3.4, separated by
/// single spaces (a subset of section 3.1), without a colon (RFC 7617 section 2), at most
/// [`UserName::MAX_BYTES`] long.
///
/// Case matters. A name contains no other white space and no control or formatting character that
/// could break a line. In a list of fields it has to be quoted.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UserName(String);

impl UserName {
    /// The longest name in bytes of UTF-8, after mapping and normalization.
    pub const MAX_BYTES: usize = 128;

    /// Parses a name. Maps full-width characters, then applies NFC.
    ///
    /// # Errors
    /// Fails if `raw` is not a valid user name.
    pub fn parse(raw: &str) -> Result<Self, NameError> {
        if raw.is_empty() {
            return Err(NameError::Empty);
        }
        if raw.len() > MAX_RAW_BYTES {
            return Err(NameError::TooLong);
        }
        // The profile leaves printable ASCII unchanged (RFC 8264 section 9.11).
        if raw.len() <= Self::MAX_BYTES && raw.bytes().all(|c| c.is_ascii_graphic() && c != b':') {
            return Ok(Self(raw.to_owned()));
        }
        // The full-width space is mapped like full-width letters.
        let parts: Vec<_> = raw.split([' ', '\u{3000}']).collect();
        if parts.contains(&"") {
            return Err(NameError::Spaces);
        }
        // The parts are on one line, so their writing directions must fit together.
        enforce(&parts.concat())?;
        let parts: Vec<_> = parts.into_iter().map(enforce).collect::<Result<_, _>>()?;
        let name = parts.join(" ");
        if name.contains(':') {
            return Err(NameError::Character(u32::from(':')));
        }
        if name.len() > Self::MAX_BYTES {
            return Err(NameError::TooLong);
        }
        Ok(Self(name))
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Maps and checks a part of a name.
fn enforce(raw: &str) -> Result<String, NameError> {
    let once = |raw: &str| {
        UsernameCasePreserved::enforce(raw).map(Cow::into_owned).map_err(|e| match e {
            PrecisError::BadCodepoint(info) => NameError::Character(info.cp),
            PrecisError::Invalid | PrecisError::Unexpected(_) => NameError::Direction,
        })
    };
    // Twice, because the profile checks characters before it composes them. `=` and U+0338 are
    // valid, but their composition U+2260 is not (RFC 8264 section 7: until stable).
    once(&once(raw)?)
}

/// The reason why a text is not a user name or a group name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// No text.
    #[error("it is empty")]
    Empty,
    /// Longer than [`UserName::MAX_BYTES`].
    #[error("it is longer than {} bytes", UserName::MAX_BYTES)]
    TooLong,
    /// A space that separates no parts.
    #[error("it begins or ends with a space, or has two in a row")]
    Spaces,
    /// A code point that is not allowed, or not at this position.
    #[error("{}", describe(*.0))]
    Character(u32),
    /// A mix of writing directions that RFC 5893 forbids.
    #[error("it mixes left-to-right and right-to-left characters ambiguously")]
    Direction,
}

/// Describes a forbidden code point.
fn describe(code_point: u32) -> String {
    match code_point {
        0x20 => "it holds a space".to_owned(),
        0x2C => "it holds a comma, which stands between groups".to_owned(),
        0x3A => "it holds a colon, which HTTP Basic can't carry".to_owned(),
        other => format!("it holds U+{other:04X}, which is not allowed there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(raw: &str) -> Result<String, NameError> {
        UserName::parse(raw).map(|name| name.as_str().to_owned())
    }

    /// C-10
    #[test]
    fn user_name_is_a_precis_name_without_a_colon() {
        assert_eq!(name("roy").as_deref(), Ok("roy"));
        assert_eq!(name("Roy").as_deref(), Ok("Roy"), "case is kept");
        assert_eq!(name("juliet@example.com").as_deref(), Ok("juliet@example.com"));
        assert_eq!(name("ｒｏｙ").as_deref(), Ok("roy"), "full-width letters are mapped");
        assert_eq!(name("Jose\u{301}").as_deref(), Ok("José"), "NFD becomes NFC");
        assert_eq!(name(""), Err(NameError::Empty));
        assert_eq!(name("a:b"), Err(NameError::Character(0x3A)));
        assert_eq!(name("ａ：ｂ"), Err(NameError::Character(0x3A)), "a colon after mapping counts");
        assert_eq!(name("admin\u{200B}"), Err(NameError::Character(0x200B)));
        assert_eq!(name("a\u{202E}b"), Err(NameError::Character(0x202E)));
        assert_eq!(name("a\nb"), Err(NameError::Character(0x0A)));
        assert_eq!(name("a\0b"), Err(NameError::Character(0)));
        assert_eq!(name("x\u{5D0}"), Err(NameError::Direction));
        assert_eq!(name("a\u{2260}"), Err(NameError::Character(0x2260)));
        assert_eq!(name("a=\u{338}"), Err(NameError::Character(0x2260)), "the same in NFD");
    }

    /// W-06
    #[test]
    fn user_name_has_parts_separated_by_single_spaces() {
        assert_eq!(name("Jane Doe").as_deref(), Ok("Jane Doe"));
        assert_eq!(name("Jane van der Doe").as_deref(), Ok("Jane van der Doe"));
        assert_eq!(name("Ｊane\u{3000}Doe").as_deref(), Ok("Jane Doe"), "full-width space");
        assert_eq!(name("x request=\"y").as_deref(), Ok("x request=\"y"));
        for wrong in [" ", " roy", "roy ", "Jane  Doe", "Jane \u{3000}Doe", "roy\u{3000}"] {
            assert_eq!(name(wrong), Err(NameError::Spaces), "{wrong:?}");
        }
        assert_eq!(name("Jane\u{A0}Doe"), Err(NameError::Character(0xA0)));
        assert_eq!(name("Jane\tDoe"), Err(NameError::Character(0x09)));
        assert_eq!(name("Jane D:oe"), Err(NameError::Character(0x3A)));
        assert_eq!(name("\u{5D0}\u{5D1} \u{5D2}").as_deref(), Ok("\u{5D0}\u{5D1} \u{5D2}"));
        assert_eq!(name("Jane \u{5D0}"), Err(NameError::Direction), "directions across parts");
    }

    /// C-10: the shortcut for ASCII gives the result of the profile.
    #[test]
    fn ascii_shortcut_agrees_with_the_profile() {
        for one in (0..=0x7Fu8).filter(|one| *one != b' ') {
            let raw = format!("a{}b", char::from(one));
            let expected =
                UsernameCasePreserved::enforce(raw.as_str()).ok().filter(|_| one != b':');
            assert_eq!(name(&raw).ok().as_deref(), expected.as_deref(), "{one:#x}");
        }
    }

    /// C-10, B-15
    #[test]
    fn user_name_has_at_most_128_bytes() {
        let longest = "n".repeat(128);
        assert_eq!(name(&longest).as_deref(), Ok(longest.as_str()));
        assert_eq!(name(&"n".repeat(129)), Err(NameError::TooLong));
        assert_eq!(name(&"é".repeat(65)), Err(NameError::TooLong), "bytes count, not characters");
        assert_eq!(name(&"ｎ".repeat(128)).as_deref(), Ok(longest.as_str()), "after mapping");
        assert_eq!(name(&" ".repeat(5000)), Err(NameError::TooLong), "not parsed");
    }

    proptest::proptest! {
        /// C-10: parsing any text gives an error or a name that parses to itself.
        #[test]
        fn parsed_name_parses_to_itself(raw in "\\PC{0,40}|[a-e\\u{300} \\u{3000}\\u{5D0}]{0,6}") {
            if let Ok(made) = UserName::parse(&raw) {
                let text = made.as_str();
                assert_eq!(UserName::parse(text), Ok(made.clone()));
                assert!((1..=UserName::MAX_BYTES).contains(&text.len()) && !text.contains(':'));
                assert!(!text.chars().any(|c| c.is_control() || (c.is_whitespace() && c != ' ')));
                assert!(text.split(' ').all(|part| !part.is_empty()));
            }
        }
    }
}
