//! bcrypt hashes and their cost. Nothing is computed here.

use std::fmt;

use base64::Engine;
use base64::alphabet::BCRYPT;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::NO_PAD;

/// The base64 of bcrypt, with its own alphabet.
const BASE64: GeneralPurpose = GeneralPurpose::new(&BCRYPT, NO_PAD);

/// The cost of a bcrypt hash, which takes 2 to the power of this number of rounds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cost(u8);

impl Cost {
    /// The lowest cost of bcrypt.
    pub const MIN: u8 = 4;
    /// The highest accepted cost, about 2 s a hash. With a higher one, a stored hash could block a
    /// worker for minutes.
    pub const MAX: u8 = 15;
    /// The default cost of new hashes.
    pub const DEFAULT: Self = Self(12);

    /// The minimum that OWASP recommends (Password Storage Cheat Sheet).
    pub const ADVISED: Self = Self(10);

    /// Checks a cost.
    ///
    /// # Errors
    /// Fails if `n` is not from [`Cost::MIN`] to [`Cost::MAX`].
    pub fn new(n: u8) -> Result<Self, HashError> {
        if (Self::MIN..=Self::MAX).contains(&n) { Ok(Self(n)) } else { Err(HashError::Cost(n)) }
    }

    /// Returns the cost as a number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }

    /// Returns true below 10, the minimum that OWASP recommends (Password Storage Cheat Sheet).
    #[must_use]
    pub fn is_weak(self) -> bool {
        self < Self::ADVISED
    }
}

/// A bcrypt hash, 60 characters: `$2b$12$`, 22 of salt, 31 of digest. `$2a$`, `$2b$` and `$2y$`
/// mean the same.
///
/// It is well-formed, so bcrypt can compute it, at a cost of at most [`Cost::MAX`]. Its `Debug`
/// shows no content.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    text: String,
    cost: Cost,
}

impl PasswordHash {
    /// Length in bytes.
    pub const LEN: usize = 60;

    /// Parses a hash.
    ///
    /// # Errors
    /// Fails if `text` is not a hash that bcrypt can compute. The error contains no part of it.
    pub fn parse(text: &str) -> Result<Self, HashError> {
        Self::parse_exactly(text).map_err(|e| mangling(text).map_or(e, HashError::Mangled))
    }

    fn parse_exactly(text: &str) -> Result<Self, HashError> {
        match text.as_bytes() {
            [b'$', b'2', b'a' | b'b' | b'y', b'$', ..] => {}
            [b'$', b'2', b'x', b'$', ..] => return Err(HashError::Flawed),
            _ => return Err(HashError::NotBcrypt),
        }
        if text.len() != Self::LEN {
            return Err(HashError::Length(text.len()));
        }
        let (head, rest) = text.as_bytes().split_at(7);
        let (salt, digest) = rest.split_at(22);
        let [tens @ b'0'..=b'9', ones @ b'0'..=b'9', b'$'] = head[4..] else {
            return Err(HashError::Malformed);
        };
        let cost = Cost::new((tens - b'0') * 10 + (ones - b'0'))?;
        // 16 bytes of salt leave 4 unused bits in the last character, 23 bytes of digest leave 2.
        // Programs disagree about their meaning, so a hash that sets them is refused, instead of
        // accepted and never matched.
        if !ends_clean(salt, 16)? || !ends_clean(digest, 4)? {
            return Err(HashError::Padding);
        }
        Ok(Self { text: text.to_owned(), cost })
    }

    /// Returns a dummy hash of this cost, so that an unknown user name takes as long as a known
    /// one.
    #[must_use]
    pub fn dummy(cost: Cost) -> Self {
        let text = format!("$2y${:02}${}", cost.get(), ".".repeat(Self::LEN - 7));
        Self { text, cost }
    }

    /// Returns the 60 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Makes a hash of its parts. It begins with `$2y$`.
    #[must_use]
    pub(crate) fn of_parts(cost: Cost, salt: [u8; 16], digest: [u8; 23]) -> Self {
        let mut text = format!("$2y${:02}$", cost.get());
        BASE64.encode_string(salt, &mut text);
        BASE64.encode_string(digest, &mut text);
        Self { text, cost }
    }

    /// Returns the salt and the digest.
    ///
    /// # Errors
    /// Fails if they cannot be decoded, which [`PasswordHash::parse`] excludes.
    pub(crate) fn parts(&self) -> Result<([u8; 16], [u8; 23]), HashError> {
        let (mut salt, mut digest) = ([0; 16], [0; 23]);
        let (_, parts) = self.text.split_at(7);
        let (of_salt, of_digest) = parts.split_at(22);
        // The engine asks for room up to a multiple of three.
        for (from, to) in [(of_salt, &mut salt[..]), (of_digest, &mut digest[..])] {
            let decoded = BASE64.decode(from).map_err(|_| HashError::Malformed)?;
            if decoded.len() != to.len() {
                return Err(HashError::Malformed);
            }
            to.copy_from_slice(&decoded);
        }
        Ok((salt, digest))
    }

    /// Returns the cost of computing it.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash(cost {}, not shown)", self.cost.0)
    }
}

/// Finds what another program has done to a valid hash.
fn mangling(text: &str) -> Option<Mangling> {
    let is_hash = |text: &str| PasswordHash::parse_exactly(text).is_ok();
    let quoted = |quote| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    // In double quotes, a shell replaces $2 by nothing and $0 by its own name.
    let is_expanded = |text: &str| {
        text.starts_with(['a', 'b', 'y']) && !text.contains('$') && text.contains("sh")
    };
    if is_hash(text.trim()) {
        Some(Mangling::Blanks)
    } else if ['\'', '"'].into_iter().filter_map(quoted).any(is_hash) {
        Some(Mangling::Quotes)
    } else if is_hash(&text.replace("$$", "$")) {
        Some(Mangling::DoubledDollars)
    } else if is_hash(&text.replace('\\', "")) {
        Some(Mangling::Backslashes)
    } else if text.split_once(':').is_some_and(|(_, text)| is_hash(text)) {
        Some(Mangling::NameInFront)
    } else if is_expanded(text) && text.len() < PasswordHash::LEN {
        Some(Mangling::Expanded)
    } else {
        None
    }
}

/// What another program has done to a hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Mangling {
    /// White space before or behind it.
    #[error("there are blanks around it")]
    Blanks,
    /// Quotes around it.
    #[error("there are quotes around it")]
    Quotes,
    /// `$$` for each `$`.
    #[error("each $ is doubled, which only a compose file needs")]
    DoubledDollars,
    /// Backslashes before `$`.
    #[error("there are backslashes in it, which only a shell needs")]
    Backslashes,
    /// `name:` in front of it.
    #[error("a name stands in front of it; import reads htpasswd lines")]
    NameInFront,
    /// A shell has expanded `$2`, `$0` and the like.
    #[error("a shell has replaced its $ parts; put it in single quotes")]
    Expanded,
}

/// Returns true if the value of the last of these base64 characters is a multiple of `step`. Does not
/// branch on a character, because an import checks millions of random ones.
fn ends_clean(characters: &[u8], step: u8) -> Result<bool, HashError> {
    let value = |c: &u8| VALUES[usize::from(*c)];
    if characters.iter().fold(0, |all, c| all | value(c)) >= 64 {
        return Err(HashError::Malformed);
    }
    Ok(characters.last().is_none_or(|last| value(last) % step == 0))
}

/// The values of the base64 characters of bcrypt, and 64 for every other byte.
const VALUES: [u8; 256] = {
    let alphabet = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut values = [64; 256];
    let mut value = 0;
    while value < 64 {
        values[alphabet[value as usize] as usize] = value;
        value += 1;
    }
    values
};

/// The reason why a text is not a usable hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HashError {
    /// No prefix `$2a$`, `$2b$` or `$2y$`.
    #[error("it is no bcrypt hash: it does not begin with $2a$, $2b$ or $2y$")]
    NotBcrypt,
    /// Another program has changed a valid hash.
    #[error("{0}")]
    Mangled(Mangling),
    /// `$2x$`, of a program whose bug makes different passwords equal.
    #[error("it is a $2x$ hash, made by a flawed program")]
    Flawed,
    /// This many bytes instead of [`PasswordHash::LEN`].
    #[error("it has {0} bytes, and a bcrypt hash has {len}", len = PasswordHash::LEN)]
    Length(usize),
    /// A cost outside of [`Cost::MIN`] to [`Cost::MAX`].
    #[error("its cost is {0}, and only {min} to {max} are permitted", min = Cost::MIN, max = Cost::MAX)]
    Cost(u8),
    /// A character that is not allowed at its position.
    #[error("it holds a character that no bcrypt hash has there")]
    Malformed,
    /// Unused bits of the salt or the digest that are set.
    #[error("unused bits of its salt or digest are set")]
    Padding,
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn hash(text: &str) -> Result<u8, HashError> {
        PasswordHash::parse(text).map(|hash| hash.cost().get())
    }

    /// C-01, C-05, C-06, C-07, C-08
    #[test]
    fn hash_is_60_characters_that_bcrypt_can_compute() {
        for ident in ["2a", "2b", "2y"] {
            assert_eq!(hash(&HASH.replacen("2b", ident, 1)), Ok(5));
        }
        let with = |from, to| HASH.replacen(from, to, 1);
        assert_eq!(hash(&with("2b", "2x")), Err(HashError::Flawed));
        assert_eq!(hash(&with("2b", "2z")), Err(HashError::NotBcrypt));
        assert_eq!(hash(""), Err(HashError::NotBcrypt));
        assert_eq!(hash("$apr1$aaaaaaaa$bbbbbbbbbbbbbbbbbbbbbb"), Err(HashError::NotBcrypt));
        assert_eq!(hash(&HASH[..59]), Err(HashError::Length(59)));
        assert_eq!(hash(&format!("{HASH}x")), Err(HashError::Length(61)));
        assert_eq!(hash(&with("05", "04")), Ok(4));
        assert_eq!(hash(&with("05", "15")), Ok(15));
        assert_eq!(hash(&with("05", "03")), Err(HashError::Cost(3)));
        assert_eq!(hash(&with("05", "16")), Err(HashError::Cost(16)));
        assert_eq!(hash(&with("05", "99")), Err(HashError::Cost(99)));
        assert_eq!(hash(&with("05", "+5")), Err(HashError::Malformed));
        assert_eq!(hash(&with("05", "-5")), Err(HashError::Malformed));
        assert_eq!(hash(&with("05$", "050")), Err(HashError::Malformed));
        assert_eq!(hash(&with("CC", "C!")), Err(HashError::Malformed));
        assert_eq!(hash(&with("CC", "é")), Err(HashError::Malformed), "60 bytes, not ASCII");
        assert_eq!(hash(&with("C.E5", "CGE5")), Err(HashError::Padding), "bits of the salt");
        assert_eq!(hash(&with("OeW", "OeX")), Err(HashError::Padding), "bits of the digest");
    }

    /// H-10
    #[test]
    fn hash_is_made_of_its_parts() {
        let hash = PasswordHash::parse(&HASH.replacen("2b", "2y", 1)).unwrap();
        let (salt, digest) = hash.parts().unwrap();
        assert_eq!(PasswordHash::of_parts(hash.cost(), salt, digest), hash);
        assert_eq!(PasswordHash::dummy(hash.cost()).parts(), Ok(([0; 16], [0; 23])));
    }

    #[test]
    fn dummy_is_a_hash_of_the_given_cost() {
        for cost in [4, 12, 15] {
            let dummy = PasswordHash::dummy(Cost::new(cost).unwrap());
            assert_eq!(PasswordHash::parse(dummy.as_str()), Ok(dummy.clone()));
            assert_eq!(dummy.cost().get(), cost);
        }
    }

    /// W-08
    #[test]
    fn mangled_hash_is_named() {
        for (text, mangling) in [
            (format!("{HASH} "), Mangling::Blanks),
            (format!("{HASH}\n"), Mangling::Blanks),
            (format!("\t{HASH}"), Mangling::Blanks),
            (format!("'{HASH}'"), Mangling::Quotes),
            (format!("\"{HASH}\""), Mangling::Quotes),
            (HASH.replace('$', "$$"), Mangling::DoubledDollars),
            (HASH.replace('$', "\\$"), Mangling::Backslashes),
            (format!("roy:{HASH}"), Mangling::NameInFront),
            ("bbash5.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW".to_owned(), Mangling::Expanded),
        ] {
            assert_eq!(hash(&text), Err(HashError::Mangled(mangling)), "{text}");
        }
        assert_eq!(hash("$1$salt$digest"), Err(HashError::NotBcrypt));
    }

    ///
    #[test]
    fn hash_is_not_shown_by_debug() {
        let hash = PasswordHash::parse(HASH).unwrap();
        assert_eq!(format!("{hash:?}"), "PasswordHash(cost 5, not shown)");
    }

    proptest::proptest! {
        #[test]
        fn accepted_hash_is_kept_unchanged(text in "\\$2[abxy]\\$[0-9]{2}\\$[./A-Za-z0-9]{50,55}") {
            if let Ok(hash) = PasswordHash::parse(&text) {
                assert_eq!(hash.as_str(), text);
                assert!((Cost::MIN..=Cost::MAX).contains(&hash.cost().get()));
            }
        }
    }
}
