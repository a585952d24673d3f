//! Passwords (RFC 8265 section 4.2), which no formatting shows.

use std::fmt;

use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::MAX_RAW_BYTES;
use super::invisible::find_invisible;

/// A password that bcrypt reads completely: 1 to [`Password::MAX_BYTES`] bytes of UTF-8, without
/// control characters.
///
/// It is mapped and normalized like the profile `OpaqueString` of RFC 8265 section 4.2: other
/// spaces become U+0020, then NFC. The profile's list of permitted characters is not applied,
/// because it ends at the Unicode version of its tables, and a newer character in a password is
/// harmless. Invisible characters are refused in new passwords only
/// ([`Password::find_invisible`]), since imported hashes may cover them.
///
/// A password has no `Display`, its `Debug` shows no content, and its memory is overwritten when it
/// is dropped.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// The longest password in bytes after normalization. bcrypt ignores further bytes, so longer
    /// passwords are refused.
    pub const MAX_BYTES: usize = 72;

    /// Parses and normalizes a password.
    ///
    /// # Errors
    /// Fails if `raw` is not a valid password. The error contains no part of it.
    pub fn parse(raw: &str) -> Result<Self, PasswordError> {
        let normalized = normalize(raw)?;
        if normalized.len() > Self::MAX_BYTES {
            return Err(PasswordError::TooLong);
        }
        Ok(Self(normalized))
    }

    /// Generates a random password: 24 characters of an alphabet of 32 (without `i`, `l`, `o` and
    /// `u`), 120 bits.
    ///
    /// # Errors
    /// Fails if the random source of the system cannot be read.
    pub fn generate() -> Result<Self, getrandom::Error> {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut random = Zeroizing::new([0u8; 24]);
        getrandom::fill(random.as_mut_slice())?;
        let mut text = Zeroizing::new(String::with_capacity(random.len()));
        text.extend(random.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])));
        Ok(Self(text))
    }

    /// Returns the first invisible character and its position, counted in characters from 1. RFC 8265
    /// section 4.2 disallows characters that are ignored in display, and joiners out of context.
    #[must_use]
    pub fn find_invisible(&self) -> Option<(usize, char)> {
        find_invisible(&self.0)
    }

    /// Returns the password in the clear, for hashing and for printing a generated password.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(not shown)")
    }
}

/// Maps spaces and composes characters, and refuses a text that no password can be.
fn normalize(raw: &str) -> Result<Zeroizing<String>, PasswordError> {
    if raw.is_empty() {
        return Err(PasswordError::Empty);
    }
    if raw.len() > MAX_RAW_BYTES {
        return Err(PasswordError::TooLong);
    }
    let is_ascii = raw.is_ascii();
    // Byte by byte for ASCII, because every request with new credentials comes here.
    let holds_control = if is_ascii {
        raw.bytes().any(|c| c.is_ascii_control())
    } else {
        raw.chars().any(char::is_control)
    };
    if holds_control {
        return Err(PasswordError::Control);
    }
    if is_ascii {
        return Ok(Zeroizing::new(raw.to_owned()));
    }
    // Reserve the maximum, so that a growing buffer leaves no copy behind.
    let mut normalized = Zeroizing::new(String::with_capacity(3 * MAX_RAW_BYTES));
    normalized.extend(raw.chars().map(ascii_space).nfc());
    Ok(normalized)
}

/// A password as a client presents it, not verified yet.
///
/// The hashes that this program makes cover the normalized form ([`Password`]). Imported hashes
/// cover the octets as they were typed once. So both are candidates. They may be longer than bcrypt
/// reads.
#[derive(Clone)]
pub struct PresentedPassword {
    normalized: Zeroizing<String>,
    /// `None` if they are the same as the normalized form.
    octets: Option<Zeroizing<Vec<u8>>>,
}

impl PresentedPassword {
    /// Takes the octets of a password, and their text.
    ///
    /// # Errors
    /// Fails if the text is empty, longer than 1,024 bytes, or contains a control character.
    pub fn parse(octets: &[u8], text: &str) -> Result<Self, PasswordError> {
        let normalized = normalize(text)?;
        let differ = normalized.as_bytes() != octets;
        Ok(Self { normalized, octets: differ.then(|| Zeroizing::new(octets.to_owned())) })
    }

    /// Returns the octets, and then their normalized form if the two differ.
    pub fn candidates(&self) -> impl Iterator<Item = &[u8]> {
        let octets = self.octets.as_ref().map(|octets| octets.as_slice());
        octets.into_iter().chain([self.normalized.as_bytes()])
    }

    /// Returns the normalized form as a password.
    ///
    /// # Errors
    /// [`PasswordError::TooLong`] above [`Password::MAX_BYTES`].
    pub(crate) fn password(&self) -> Result<Password, PasswordError> {
        Password::parse(&self.normalized)
    }
}

impl fmt::Debug for PresentedPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresentedPassword(not shown)")
    }
}

impl From<&Password> for PresentedPassword {
    fn from(password: &Password) -> Self {
        Self { normalized: password.0.clone(), octets: None }
    }
}

/// RFC 8265 section 4.2.2, rule 2: maps every space (general category Zs) to U+0020.
fn ascii_space(c: char) -> char {
    match c {
        '\u{A0}' | '\u{1680}' | '\u{2000}'..='\u{200A}' | '\u{202F}' | '\u{205F}' | '\u{3000}' => {
            ' '
        }
        other => other,
    }
}

/// The reason why a text is not a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PasswordError {
    /// No text.
    #[error("it is empty")]
    Empty,
    /// Longer than [`Password::MAX_BYTES`] after normalization.
    #[error("it is longer than {} bytes, and bcrypt would ignore the rest", Password::MAX_BYTES)]
    TooLong,
    /// A control character, including NUL.
    #[error("it holds a control character")]
    Control,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(raw: &str) -> Result<String, PasswordError> {
        Password::parse(raw).map(|password| password.reveal().to_owned())
    }

    /// C-02, C-03, B-15
    #[test]
    fn password_has_at_most_72_bytes_after_normalization() {
        let longest = "p".repeat(72);
        assert_eq!(password(&longest).as_deref(), Ok(longest.as_str()));
        assert_eq!(password(&"p".repeat(73)), Err(PasswordError::TooLong));
        assert_eq!(password(&"e\u{301}".repeat(36)), Ok("é".repeat(36)), "108 bytes become 72");
        assert_eq!(password(&"e\u{301}".repeat(37)), Err(PasswordError::TooLong));
        assert_eq!(password(&"\0".repeat(5000)), Err(PasswordError::TooLong), "not parsed");
    }

    /// P-08
    #[test]
    fn password_is_the_same_in_nfc_and_nfd_and_with_any_space() {
        assert_eq!(password("cafe\u{301}"), password("caf\u{E9}"));
        assert_eq!(password("a\u{3000}b\u{A0}c"), password("a b c"));
        assert_ne!(password("a b"), password("a  b"));
    }

    /// H-08
    #[test]
    fn presented_password_is_tried_as_received_and_normalized() {
        let candidates = |octets: &[u8], text| {
            let presented = PresentedPassword::parse(octets, text).unwrap();
            presented.candidates().map(<[u8]>::to_vec).collect::<Vec<_>>()
        };
        let (decomposed, composed) = ("e\u{301}", "\u{e9}");
        assert_eq!(candidates(b"open", "open"), [b"open"]);
        assert_eq!(candidates(composed.as_bytes(), composed), [composed.as_bytes()]);
        let both = [decomposed.as_bytes(), composed.as_bytes()];
        assert_eq!(candidates(decomposed.as_bytes(), decomposed), both);
        assert_eq!(candidates(b"\xE9", composed), [b"\xE9", composed.as_bytes()], "ISO-8859-1");
        let long = "p".repeat(1024);
        assert_eq!(candidates(long.as_bytes(), &long), [long.as_bytes()]);
        for (text, why) in [
            ("", PasswordError::Empty),
            ("a\0", PasswordError::Control),
            (&format!("{long}p"), PasswordError::TooLong),
        ] {
            assert_eq!(PresentedPassword::parse(text.as_bytes(), text).err(), Some(why));
        }
        let presented = PresentedPassword::parse(long.as_bytes(), &long).unwrap();
        assert_eq!(presented.password().err(), Some(PasswordError::TooLong));
        assert!(!format!("{presented:?}").contains("pp"));
    }

    /// P-06, C-04, C-12
    #[test]
    fn password_is_not_empty_and_has_no_control_character() {
        assert_eq!(password(""), Err(PasswordError::Empty));
        for control in ('\0'..='\x1F').chain('\x7F'..='\u{9F}') {
            assert_eq!(password(&format!("a{control}b")), Err(PasswordError::Control));
        }
        assert!(password("🥲 newer than many tables").is_ok());
    }

    #[test]
    fn generated_passwords_differ_and_are_valid() {
        let one = Password::generate().unwrap();
        let other = Password::generate().unwrap();
        assert_eq!(one.reveal().len(), 24);
        assert_ne!(one.reveal(), other.reveal());
        assert_eq!(password(one.reveal()).as_deref(), Ok(one.reveal()));
    }

    proptest::proptest! {
        /// P-08: a normalized password parses to itself.
        #[test]
        fn normalized_password_is_unchanged(raw in "\\PC{0,40}") {
            if let Ok(made) = Password::parse(&raw) {
                let again = Password::parse(made.reveal()).unwrap();
                assert_eq!(again.reveal(), made.reveal());
                assert!((1..=Password::MAX_BYTES).contains(&made.reveal().len()));
            }
        }
    }
}
