//! Password hashes of schemes before bcrypt, as htpasswd files hold them, and their parameters.
//! Nothing is computed here.
//!
//! A hash is accepted only if its scheme could have written it: programs compare the text that they
//! compute with the stored one, so any other spelling never matches. Base64 without padding is the
//! exception.

use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use zeroize::Zeroizing;

/// A scheme of password hashes that Apache and nginx read, other than bcrypt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LegacyScheme {
    /// `$apr1$`: Apache's variant of MD5-crypt, the default of `htpasswd`.
    Apr1,
    /// `$1$`: MD5-crypt of Poul-Henning Kamp (crypt(5)).
    Md5Crypt,
    /// `{SHA}`: SHA-1 without a salt (RFC 2307 section 5.3).
    Sha,
    /// `{SSHA}`: SHA-1 of the password and a salt.
    Ssha,
    /// `$5$`: SHA-256-crypt (Drepper, "Unix crypt using SHA-256 and SHA-512").
    Sha256Crypt,
    /// `$6$`: SHA-512-crypt of the same source.
    Sha512Crypt,
}

/// The lengths of a scheme in the format of crypt(5).
struct CryptLengths {
    /// The longest salt in bytes. Programs truncate a longer one before they write it.
    salt: usize,
    /// The characters of the digest, 6 bits each.
    digest: usize,
    /// The used bits of the last character, which are its lower ones.
    last_bits: u32,
}

impl LegacyScheme {
    /// All schemes.
    pub const ALL: [Self; 6] =
        [Self::Apr1, Self::Md5Crypt, Self::Sha, Self::Ssha, Self::Sha256Crypt, Self::Sha512Crypt];

    /// Returns the name, e.g. `sha512-crypt`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Apr1 => "apr1",
            Self::Md5Crypt => "md5-crypt",
            Self::Sha => "sha",
            Self::Ssha => "ssha",
            Self::Sha256Crypt => "sha256-crypt",
            Self::Sha512Crypt => "sha512-crypt",
        }
    }

    /// Finds the scheme of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.name() == name)
    }

    /// Returns the scheme of a hash, well-formed or not.
    pub(crate) fn of_hash(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| text.starts_with(scheme.ident()))
    }

    /// Returns the characters that every hash of the scheme begins with.
    pub(crate) fn ident(self) -> &'static str {
        match self {
            Self::Apr1 => "$apr1$",
            Self::Md5Crypt => "$1$",
            Self::Sha => "{SHA}",
            Self::Ssha => "{SSHA}",
            Self::Sha256Crypt => "$5$",
            Self::Sha512Crypt => "$6$",
        }
    }

    /// Returns `None` for a scheme in base64.
    fn lengths(self) -> Option<CryptLengths> {
        match self {
            // 16, 32 and 64 bytes of digest.
            Self::Apr1 | Self::Md5Crypt => Some(CryptLengths { salt: 8, digest: 22, last_bits: 2 }),
            Self::Sha256Crypt => Some(CryptLengths { salt: 16, digest: 43, last_bits: 4 }),
            Self::Sha512Crypt => Some(CryptLengths { salt: 16, digest: 86, last_bits: 2 }),
            Self::Sha | Self::Ssha => None,
        }
    }

    fn has_rounds(self) -> bool {
        matches!(self, Self::Sha256Crypt | Self::Sha512Crypt)
    }
}

/// The parameters of a legacy hash: the digest depends on them and on the password.
///
/// The rounds are at most [`LegacyParams::MAX_ROUNDS`]. The salt is part of a hash, so `Debug` does
/// not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct LegacyParams {
    scheme: LegacyScheme,
    salt: String,
    octets: Vec<u8>,
    rounds: Option<u32>,
}

impl LegacyParams {
    /// The highest accepted number of rounds, some 0.6 s a hash. With a higher one, a stored hash
    /// could block a worker for minutes.
    pub const MAX_ROUNDS: u32 = 1_000_000;
    /// The rounds of a hash that does not name them.
    const DEFAULT_ROUNDS: u32 = 5_000;
    /// The rounds that the format permits. libxcrypt refuses other numbers. glibc and OpenSSL write
    /// the nearest of these instead.
    const ROUNDS: RangeInclusive<u32> = 1_000..=999_999_999;
    /// The salts of `{SSHA}` in bytes.
    const SSHA_SALT: RangeInclusive<usize> = 1..=64;
    /// The length of a SHA-1 digest in bytes.
    const SHA1_BYTES: usize = 20;

    /// Checks parameters. The salt is text, and that of [`LegacyScheme::Ssha`] is its base64.
    /// Without `rounds`, the hash does not name them.
    ///
    /// # Errors
    /// Fails if no hash of the scheme has these parameters. The error contains no part of the salt.
    pub fn new(scheme: LegacyScheme, salt: &str, rounds: Option<u32>) -> Result<Self, LegacyError> {
        let (salt, octets) = match scheme.lengths() {
            Some(lengths) => {
                check_crypt_salt(salt, &lengths, scheme.has_rounds())?;
                (salt.to_owned(), salt.as_bytes().to_vec())
            }
            None => {
                let octets = decode(salt)?;
                let is_valid = match scheme {
                    LegacyScheme::Ssha => Self::SSHA_SALT.contains(&octets.len()),
                    _ => octets.is_empty(),
                };
                if !is_valid {
                    return Err(LegacyError::SaltLength(octets.len()));
                }
                (STANDARD.encode(octets.as_slice()), octets.to_vec())
            }
        };
        match rounds {
            Some(_) if !scheme.has_rounds() => return Err(LegacyError::NoRounds),
            Some(n) if !Self::ROUNDS.contains(&n) => return Err(LegacyError::Rounds),
            Some(n) if n > Self::MAX_ROUNDS => return Err(LegacyError::TooManyRounds(n)),
            _ => {}
        }
        Ok(Self { scheme, salt, octets, rounds })
    }

    /// Returns the scheme.
    #[must_use]
    pub fn scheme(&self) -> LegacyScheme {
        self.scheme
    }

    /// Returns the salt as text: its padded base64 for [`LegacyScheme::Ssha`], and empty for
    /// [`LegacyScheme::Sha`].
    #[must_use]
    pub fn salt(&self) -> &str {
        &self.salt
    }

    /// Returns the salt as the digest covers it.
    #[must_use]
    pub fn salt_octets(&self) -> &[u8] {
        &self.octets
    }

    /// Returns the rounds that the hash names.
    #[must_use]
    pub fn rounds(&self) -> Option<u32> {
        self.rounds
    }

    /// Returns the rounds to compute. Schemes of a fixed number have `None`.
    #[must_use]
    pub fn effective_rounds(&self) -> Option<u32> {
        self.scheme.has_rounds().then_some(self.rounds.unwrap_or(Self::DEFAULT_ROUNDS))
    }

    /// Returns the text of a hash with this encoded digest.
    pub(crate) fn text_of(&self, digest: &str) -> Zeroizing<String> {
        let ident = self.scheme.ident();
        let head = match (self.scheme, self.rounds) {
            (LegacyScheme::Sha | LegacyScheme::Ssha, _) => ident.to_owned(),
            (_, None) => format!("{ident}{}$", self.salt),
            (_, Some(rounds)) => format!("{ident}rounds={rounds}${}$", self.salt),
        };
        // `concat` allocates once. A growing buffer would leave a copy behind.
        Zeroizing::new([head.as_str(), digest].concat())
    }
}

impl fmt::Debug for LegacyParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("LegacyParams");
        shown.field("scheme", &self.scheme).field("rounds", &self.rounds);
        shown.finish_non_exhaustive()
    }
}

/// A hash of a [`LegacyScheme`], well-formed and in its canonical spelling. Its `Debug` shows no
/// content.
#[derive(Clone, PartialEq, Eq)]
pub struct LegacyHash {
    params: LegacyParams,
    text: Zeroizing<String>,
}

impl LegacyHash {
    /// Parses a hash.
    ///
    /// # Errors
    /// Fails if `text` is a hash of no legacy scheme, or one that no password can match. The error
    /// contains no part of it.
    pub fn parse(text: &str) -> Result<Self, LegacyError> {
        let mut schemes = LegacyScheme::ALL.into_iter();
        let known = schemes.find_map(|scheme| Some((scheme, text.strip_prefix(scheme.ident())?)));
        let (scheme, rest) = known.ok_or(LegacyError::Scheme)?;
        match scheme.lengths() {
            Some(lengths) => Self::parse_crypt(scheme, &lengths, rest),
            None => Self::parse_base64(scheme, rest),
        }
    }

    fn parse_crypt(
        scheme: LegacyScheme,
        lengths: &CryptLengths,
        rest: &str,
    ) -> Result<Self, LegacyError> {
        let (rounds, rest) = match rest.strip_prefix("rounds=") {
            Some(rest) if scheme.has_rounds() => {
                let (number, rest) = rest.split_once('$').ok_or(LegacyError::Rounds)?;
                (Some(parse_rounds(number)?), rest)
            }
            _ => (None, rest),
        };
        let (salt, digest) = rest.split_once('$').ok_or(LegacyError::NoDigest)?;
        let params = LegacyParams::new(scheme, salt, rounds)?;
        if digest.len() != lengths.digest {
            return Err(LegacyError::DigestLength(digest.len()));
        }
        let last = last_value(digest)?;
        if last >> lengths.last_bits != 0 {
            return Err(LegacyError::UnusedBits);
        }
        Ok(Self { text: params.text_of(digest), params })
    }

    fn parse_base64(scheme: LegacyScheme, rest: &str) -> Result<Self, LegacyError> {
        let octets = decode(rest)?;
        let Some((_, salt)) = octets.split_at_checked(LegacyParams::SHA1_BYTES) else {
            return Err(LegacyError::DigestLength(octets.len()));
        };
        let params = LegacyParams::new(scheme, &STANDARD.encode(salt), None)?;
        let encoded = Zeroizing::new(STANDARD.encode(octets.as_slice()));
        Ok(Self { text: params.text_of(&encoded), params })
    }

    /// Returns the parameters.
    #[must_use]
    pub fn params(&self) -> &LegacyParams {
        &self.params
    }

    /// Returns the hash as its scheme writes it: base64 is padded, anything else is unchanged.
    #[must_use]
    pub fn canonical_text(&self) -> Zeroizing<String> {
        self.text.clone()
    }
}

impl fmt::Debug for LegacyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LegacyHash({}, not shown)", self.params.scheme.name())
    }
}

/// Accepts any printable ASCII except the separators. OpenSSL writes these salts, although libxcrypt
/// refuses some of them.
fn check_crypt_salt(
    salt: &str,
    lengths: &CryptLengths,
    has_rounds: bool,
) -> Result<(), LegacyError> {
    if salt.len() > lengths.salt {
        return Err(LegacyError::SaltLength(salt.len()));
    }
    let is_valid = |c| matches!(c, b' '..=b'~') && c != b'$' && c != b':';
    // Programs would read such a salt as the rounds.
    if !salt.bytes().all(is_valid) || (has_rounds && salt.starts_with("rounds=")) {
        return Err(LegacyError::Salt);
    }
    Ok(())
}

/// Parses the rounds as programs write them, without a sign or a leading zero.
fn parse_rounds(number: &str) -> Result<u32, LegacyError> {
    if number.starts_with('0') || !number.bytes().all(|c| c.is_ascii_digit()) {
        return Err(LegacyError::Rounds);
    }
    number.parse().map_err(|_| LegacyError::Rounds)
}

/// Returns the value of the last of these characters of crypt(5).
fn last_value(characters: &str) -> Result<u8, LegacyError> {
    let mut last = 0;
    for c in characters.bytes() {
        last = match c {
            b'.' => 0,
            b'/' => 1,
            b'0'..=b'9' => c - b'0' + 2,
            b'A'..=b'Z' => c - b'A' + 12,
            b'a'..=b'z' => c - b'a' + 38,
            _ => return Err(LegacyError::Malformed),
        };
    }
    Ok(last)
}

/// Decodes base64 with all of its padding or none. Unused bits must be zero.
fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, LegacyError> {
    let engine = if text.ends_with('=') { &STANDARD } else { &STANDARD_NO_PAD };
    engine.decode(text).map(Zeroizing::new).map_err(|_| LegacyError::Base64)
}

/// The reason why a text is not a usable hash of a [`LegacyScheme`]. It contains no part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LegacyError {
    /// The text begins like no scheme.
    #[error("its scheme is not known")]
    Scheme,
    /// A salt of this many bytes.
    #[error("its salt has {0} bytes, which its scheme does not permit")]
    SaltLength(usize),
    /// A salt with a character that is not allowed there, or that begins like rounds.
    #[error("its salt is not one of its scheme")]
    Salt,
    /// Rounds of a scheme that has a fixed number.
    #[error("its scheme has a fixed number of rounds")]
    NoRounds,
    /// Rounds that the format does not permit.
    #[error(
        "its rounds are not a number from {min} to {max}",
        min = LegacyParams::ROUNDS.start(),
        max = LegacyParams::ROUNDS.end()
    )]
    Rounds,
    /// This many rounds, more than [`LegacyParams::MAX_ROUNDS`].
    #[error("it has {0} rounds, and at most {max} are permitted", max = LegacyParams::MAX_ROUNDS)]
    TooManyRounds(u32),
    /// No `$` between salt and digest.
    #[error("its digest is missing")]
    NoDigest,
    /// A digest of this many characters, or bytes in base64.
    #[error("the length of its digest is {0}, which is not that of its scheme")]
    DigestLength(usize),
    /// A character in the digest that is not allowed there.
    #[error("its digest holds a character that no digest of its scheme has")]
    Malformed,
    /// Unused bits of the digest that are set, so that no password can match.
    #[error("unused bits of its digest are set")]
    UnusedBits,
    /// Base64 that is not canonical.
    #[error("it is not canonical base64")]
    Base64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each scheme. `{SHA}` and `$apr1$` are of Apache's page "Password Formats", the others
    /// of hashcat's page "Example hashes".
    const HASHES: [&str; 7] = [
        "$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/",
        "$1$28772684$iEwNOgGugqO9.bIz5sk8k/",
        "{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=",
        "{SSHA}AZKja92fbuuB9SpRlHqaoXxbTc43Mzc2MDM1Ng==",
        "$5$rounds=5000$GX7BopJZJxPc/KEK$le16UF8I2Anb.rOrn22AUPWvzUETDGefUmAV8AZkGcD",
        "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
        "$6$52450745$k5ka2p8bFuSmoVT1tzOyyuaREkkKBcCNqoDKzYiJL9RaE8yMnPgh2XzzF0NDrUhgrcLwg78xs1w5pJiypEdFX/",
    ];

    fn error(text: &str) -> Option<LegacyError> {
        LegacyHash::parse(text).err()
    }

    #[test]
    fn scheme_is_found_by_its_name() {
        for scheme in LegacyScheme::ALL {
            assert_eq!(LegacyScheme::from_name(scheme.name()), Some(scheme));
        }
        assert_eq!(LegacyScheme::from_name("bcrypt"), None);
        assert_eq!(LegacyScheme::from_name("SHA"), None);
    }

    #[test]
    fn hash_is_kept_with_its_parameters() {
        let expected = [
            (LegacyScheme::Apr1, "r31.....", None),
            (LegacyScheme::Md5Crypt, "28772684", None),
            (LegacyScheme::Sha, "", None),
            (LegacyScheme::Ssha, "NzM3NjAzNTY=", None),
            (LegacyScheme::Sha256Crypt, "GX7BopJZJxPc/KEK", Some(5000)),
            (LegacyScheme::Sha256Crypt, "saltstring", None),
            (LegacyScheme::Sha512Crypt, "52450745", None),
        ];
        for (text, (scheme, salt, rounds)) in HASHES.into_iter().zip(expected) {
            let hash = LegacyHash::parse(text).unwrap();
            assert_eq!(*hash.canonical_text(), text);
            let params = hash.params();
            assert_eq!((params.scheme(), params.salt(), params.rounds()), (scheme, salt, rounds));
            assert_eq!(*params, LegacyParams::new(scheme, salt, rounds).unwrap());
            let computed = scheme.has_rounds().then_some(5000);
            assert_eq!(params.effective_rounds(), computed, "{text}");
        }
        let ssha = LegacyHash::parse(HASHES[3]).unwrap();
        assert_eq!(ssha.params().salt_octets(), b"73760356");
    }

    #[test]
    fn base64_without_padding_becomes_canonical() {
        for text in [HASHES[2], HASHES[3]] {
            let bare = LegacyHash::parse(text.trim_end_matches('=')).unwrap();
            assert_eq!(bare, LegacyHash::parse(text).unwrap());
            assert_eq!(*bare.canonical_text(), text);
        }
        let ssha = |salt| LegacyParams::new(LegacyScheme::Ssha, salt, None);
        assert_eq!(ssha("NzM3NjAzNTY"), ssha("NzM3NjAzNTY="));
        assert_eq!(ssha("NzM3NjAzNTY").unwrap().salt(), "NzM3NjAzNTY=");
        assert_eq!(error(&HASHES[3].replace("==", "=")), Some(LegacyError::Base64));
    }

    #[test]
    fn hash_that_no_password_matches_is_refused() {
        let [apr1, _, sha, ssha, _, sha256, sha512] = HASHES;
        for (text, why) in [
            ("", LegacyError::Scheme),
            ("$apr2$r31.....$HqJZimcKQFAMYayBlzkrA/", LegacyError::Scheme),
            ("{sha}VBPuJHI7uixaa6LQGWx4s+5GKNE=", LegacyError::Scheme),
            ("$1$28772684", LegacyError::NoDigest),
            ("$1$28772684$", LegacyError::DigestLength(0)),
            (&apr1[..36], LegacyError::DigestLength(21)),
            (&format!("{apr1}."), LegacyError::DigestLength(23)),
            (&apr1.replace("Hq", "H!"), LegacyError::Malformed),
            (&apr1.replace("Hq", "é"), LegacyError::Malformed),
            (&apr1.replace("Hq", "H$"), LegacyError::Malformed),
            // The last character holds 2, 4 and 2 bits.
            (&apr1.replace("rA/", "rA2"), LegacyError::UnusedBits),
            (&sha256.replace("Ec5", "EcE"), LegacyError::UnusedBits),
            (&sha512.replace("FX/", "FX2"), LegacyError::UnusedBits),
            (&apr1.replace("r31.....", "r31......"), LegacyError::SaltLength(9)),
            (&sha512.replace("52450745", "12345678901234567"), LegacyError::SaltLength(17)),
            (&apr1.replace("r31", "r:1"), LegacyError::Salt),
            (&apr1.replace("r31", "r\t1"), LegacyError::Salt),
            (&apr1.replace("r31", "r\u{7f}1"), LegacyError::Salt),
            (&apr1.replace("r31", "é1"), LegacyError::Salt),
            (&sha.replace("VB", "V!"), LegacyError::Base64),
            (&sha.replace("NE=", "NF="), LegacyError::Base64),
            ("{SHA}VBPuJHI7uixaa6LQGWx4s+5GKA==", LegacyError::DigestLength(19)),
            ("{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNEA", LegacyError::SaltLength(1)),
            (&sha.replace("SHA", "SSHA"), LegacyError::SaltLength(0)),
            (&format!("{}{}", &ssha[..30], "A".repeat(92)), LegacyError::SaltLength(67)),
        ] {
            assert_eq!(error(text), Some(why), "{text}");
        }
        assert_eq!(error(&apr1.replace("rA/", "rA1")), None, "3 is the last value of 2 bits");
        assert_eq!(error(&sha256.replace("Ec5", "EcD")), None, "15 is the last value of 4 bits");
        assert_eq!(error(&sha512.replace("FX/", "FX1")), None, "3 is the last value of 2 bits");
    }

    /// JtR's tests have the first salt, and `openssl passwd -salt` accepts the others.
    #[test]
    fn salt_is_printable_ascii() {
        let md5 = |salt| LegacyParams::new(LegacyScheme::Md5Crypt, salt, None).map(|_| ());
        for salt in ["`!@#%^&*", "", "a b", "rounds=1", "{}~\\\"'"] {
            assert_eq!(md5(salt), Ok(()), "{salt}");
        }
        assert_eq!(md5("a$b"), Err(LegacyError::Salt));
        let sha = |salt| LegacyParams::new(LegacyScheme::Sha256Crypt, salt, None).map(|_| ());
        assert_eq!(sha(""), Ok(()));
        assert_eq!(sha("rounds=1000"), Err(LegacyError::Salt), "it would be read as rounds");
    }

    #[test]
    fn rounds_are_a_canonical_number_in_range() {
        let with = |rounds: &str| error(&HASHES[4].replace("5000", rounds));
        for rounds in ["1000", "5000", "1000000"] {
            assert_eq!(with(rounds), None, "{rounds}");
        }
        for rounds in ["", "999", "01000", "+1000", "1e3", "1000000000", "99999999999", "5000 "] {
            assert_eq!(with(rounds), Some(LegacyError::Rounds), "{rounds}");
        }
        for rounds in [1_000_001, 999_999_999] {
            let why = LegacyError::TooManyRounds(rounds);
            assert_eq!(with(&rounds.to_string()), Some(why));
            assert!(why.to_string().contains(&rounds.to_string()));
            assert!(why.to_string().contains("1000000"));
        }
        assert_eq!(error("$5$rounds=5000"), Some(LegacyError::Rounds));
        for scheme in [LegacyScheme::Apr1, LegacyScheme::Sha] {
            let params = LegacyParams::new(scheme, "", Some(5000));
            assert_eq!(params, Err(LegacyError::NoRounds));
        }
    }

    ///
    #[test]
    fn legacy_hash_is_not_shown_by_debug() {
        let hash = LegacyHash::parse(HASHES[6]).unwrap();
        assert_eq!(format!("{hash:?}"), "LegacyHash(sha512-crypt, not shown)");
        let shown = format!("{:?}", hash.params());
        assert_eq!(shown, "LegacyParams { scheme: Sha512Crypt, rounds: None, .. }");
    }

    proptest::proptest! {
        #[test]
        fn parsed_hash_is_parsed_from_its_text(
            text in "(\\$(apr1|1|5|6)\\$(rounds=[1-9][0-9]{3,5}\\$)?[ -~]{0,9}\\$([./0-9A-Za-z]{21}|[./0-9A-Za-z]{42}|[./0-9A-Za-z]{85})[./0-9A-D])|(\\{S?SHA\\}[+/0-9A-Za-z]{26,120}={0,2})",
        ) {
            if let Ok(hash) = LegacyHash::parse(&text) {
                let canonical = hash.canonical_text();
                assert_eq!(canonical.trim_end_matches('='), text.trim_end_matches('='));
                assert_eq!(LegacyHash::parse(&canonical).as_ref(), Ok(&hash));
                let params = hash.params();
                let again = LegacyParams::new(params.scheme(), params.salt(), params.rounds());
                assert_eq!(again.as_ref(), Ok(params));
            }
        }

        #[test]
        fn arbitrary_legacy_text_does_not_panic(
            ident in "(\\$apr1\\$|\\$[156]\\$|\\{S?SHA\\})?(rounds=)?",
            rest in "(?s).{0,100}",
        ) {
            let _ = LegacyHash::parse(&format!("{ident}{rest}"));
            for scheme in LegacyScheme::ALL {
                let _ = LegacyParams::new(scheme, &rest, None);
            }
        }
    }
}
