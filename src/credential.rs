//! What a valid user name, password, cost and password hash is: the words that every other
//! room speaks. Whoever holds a value of one of these types holds a valid one.
//!
//! This room knows neither HTTP nor the store nor the terminal, and computes no hash. A password
//! and a hash can't be printed: they have no `Display`, and their `Debug` shows no content.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use precis_profiles::UsernameCasePreserved;
use precis_profiles::precis_core::Error as PrecisError;
use precis_profiles::precis_core::profile::PrecisFastInvocation;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

/// The longest name or password that is looked at, in bytes as they came: longer ones are refused
/// before any work is spent on them. No text above it can shrink to a permitted one.
const MAX_RAW_BYTES: usize = 1024;

/// A user's name: RFC 8265 section 3.4 (`UsernameCasePreserved`), without a colon (RFC 7617 section 2),
/// at most [`UserName::MAX_BYTES`] long. Case matters. It holds no white space and no control or
/// formatting character that could break a line, so it may be printed as it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UserName(String);

impl UserName {
    /// The longest name in bytes of UTF-8, after mapping and normalisation.
    pub const MAX_BYTES: usize = 128;

    /// The name that `raw` stands for: full-width characters mapped, then NFC.
    ///
    /// # Errors
    /// Says why `raw` is no user's name.
    pub fn parse(raw: &str) -> Result<Self, NameError> {
        if raw.is_empty() {
            return Err(NameError::Empty);
        }
        if raw.len() > MAX_RAW_BYTES {
            return Err(NameError::TooLong);
        }
        // Of these the profile takes each as it is (RFC 8264 section 9.11): what most names are made of.
        if raw.len() <= Self::MAX_BYTES && raw.bytes().all(|c| c.is_ascii_graphic() && c != b':') {
            return Ok(Self(raw.to_owned()));
        }
        let enforced = |raw: &str| {
            UsernameCasePreserved::enforce(raw).map(Cow::into_owned).map_err(|e| match e {
                PrecisError::BadCodepoint(info) => NameError::Character(info.cp),
                PrecisError::Invalid | PrecisError::Unexpected(_) => NameError::Direction,
            })
        };
        // Twice, because characters are looked at before they are composed: `=` and U+0338 may stand in a name, and the
        // U+2260 that they make may not (RFC 8264 section 7: until it is stable).
        let name = enforced(&enforced(raw)?)?;
        if name.contains(':') {
            return Err(NameError::Character(u32::from(':')));
        }
        if name.len() > Self::MAX_BYTES {
            return Err(NameError::TooLong);
        }
        Ok(Self(name))
    }

    /// The name as text.
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

/// A group's name: what a user's name is, and without a comma, so that several can be written in one field.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GroupName(UserName);

impl GroupName {
    /// The name that `raw` stands for.
    ///
    /// # Errors
    /// Says why `raw` is no group's name.
    pub fn parse(raw: &str) -> Result<Self, NameError> {
        let name = UserName::parse(raw)?;
        if name.as_str().contains(',') {
            return Err(NameError::Character(u32::from(',')));
        }
        Ok(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The groups that a user is in, at most [`Groups::MAX`].
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Groups(BTreeSet<GroupName>);

impl Groups {
    /// The most that one user can be in: their names fit into a field of 8 KiB and some.
    pub const MAX: usize = 64;

    /// These groups.
    ///
    /// # Errors
    /// When they are more than [`Groups::MAX`].
    pub fn new(names: impl IntoIterator<Item = GroupName>) -> Result<Self, TooManyGroups> {
        let names: BTreeSet<_> = names.into_iter().collect();
        if names.len() > Self::MAX { Err(TooManyGroups) } else { Ok(Self(names)) }
    }

    /// These and those.
    ///
    /// # Errors
    /// When they are more than [`Groups::MAX`] together.
    pub fn with(&self, others: &Self) -> Result<Self, TooManyGroups> {
        Self::new(self.0.union(&others.0).cloned())
    }

    /// These but for those.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        Self(self.0.difference(&others.0).cloned().collect())
    }

    /// Whether this group is among them.
    #[must_use]
    pub fn contains(&self, group: &GroupName) -> bool {
        self.0.contains(group)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &GroupName> {
        self.0.iter()
    }
}

/// All of them with commas between, in the order of their names.
impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, group) in self.0.iter().enumerate() {
            write!(f, "{}{group}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// More groups than a user can be in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyGroups;

impl fmt::Display for TooManyGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a user can be in {} groups, and not in more", Groups::MAX)
    }
}

impl std::error::Error for TooManyGroups {}

/// Why a text is no user name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameError {
    /// There is nothing in it.
    Empty,
    /// Over [`UserName::MAX_BYTES`].
    TooLong,
    /// This code point is not allowed, or not at its place.
    Character(u32),
    /// It mixes directions of writing in a way that RFC 5893 forbids.
    Direction,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong => write!(f, "it is longer than {} bytes", UserName::MAX_BYTES),
            Self::Character(0x20) => f.write_str("it holds a space"),
            Self::Character(0x2C) => f.write_str("it holds a comma, which stands between groups"),
            Self::Character(0x3A) => f.write_str("it holds a colon, which HTTP Basic can't carry"),
            Self::Character(cp) => write!(f, "it holds U+{cp:04X}, which is not allowed there"),
            Self::Direction => {
                f.write_str("it mixes left-to-right and right-to-left characters ambiguously")
            }
        }
    }
}

impl std::error::Error for NameError {}

/// A password that bcrypt can take whole: 1 to [`Password::MAX_BYTES`] bytes of UTF-8, without control
/// characters, mapped and normalised as RFC 8265 section 4.2 (`OpaqueString`) says: other spaces become
/// U+0020, then NFC. The profile's list of permitted characters is not applied: it stops at the
/// Unicode version of its tables, and a newer character in a password harms nobody.
///
/// It can't be printed, and its memory is overwritten when it is dropped.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// The longest password in bytes after normalisation. bcrypt reads no further: what it would
    /// cut off is refused instead.
    pub const MAX_BYTES: usize = 72;

    /// The password that `raw` stands for.
    ///
    /// # Errors
    /// Says why it can't be one. The error holds nothing of the password.
    pub fn parse(raw: &str) -> Result<Self, PasswordError> {
        if raw.is_empty() {
            return Err(PasswordError::Empty);
        }
        if raw.len() > MAX_RAW_BYTES {
            return Err(PasswordError::TooLong);
        }
        let is_ascii = raw.is_ascii();
        // Byte by byte where that is the same, since every request comes here.
        let holds_control = if is_ascii {
            raw.bytes().any(|c| c.is_ascii_control())
        } else {
            raw.chars().any(char::is_control)
        };
        if holds_control {
            return Err(PasswordError::Control);
        }
        let password = if is_ascii {
            Zeroizing::new(raw.to_owned())
        } else {
            // Room for the longest that is read, so that no grown buffer leaves a copy behind.
            let mut normal = Zeroizing::new(String::with_capacity(3 * MAX_RAW_BYTES));
            normal.extend(raw.chars().map(ascii_space).nfc());
            normal
        };
        if password.len() > Self::MAX_BYTES {
            return Err(PasswordError::TooLong);
        }
        Ok(Self(password))
    }

    /// A random password: 24 characters out of 32 (no `i`, `l`, `o` or `u`), 120 bits.
    ///
    /// # Errors
    /// When the system's random source can't be read.
    pub fn generate() -> Result<Self, getrandom::Error> {
        const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let mut random = Zeroizing::new([0u8; 24]);
        getrandom::fill(random.as_mut_slice())?;
        let mut text = Zeroizing::new(String::with_capacity(random.len()));
        text.extend(random.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])));
        Ok(Self(text))
    }

    /// The password itself: for the hash, and for the one place that prints a generated one.
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

/// RFC 8265 section 4.2.2, rule 2: every space (general category Zs) is U+0020.
fn ascii_space(c: char) -> char {
    match c {
        '\u{A0}' | '\u{1680}' | '\u{2000}'..='\u{200A}' | '\u{202F}' | '\u{205F}' | '\u{3000}' => {
            ' '
        }
        other => other,
    }
}

/// Why a text can't be a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PasswordError {
    /// There is nothing in it.
    Empty,
    /// Over [`Password::MAX_BYTES`] after normalisation.
    TooLong,
    /// It holds a control character, NUL included.
    Control,
}

impl fmt::Display for PasswordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong => write!(
                f,
                "it is longer than {} bytes, and bcrypt would ignore the rest",
                Password::MAX_BYTES
            ),
            Self::Control => f.write_str("it holds a control character"),
        }
    }
}

impl std::error::Error for PasswordError {}

/// How much work one bcrypt hash is: 2 to the power of this number of rounds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cost(u8);

impl Cost {
    /// The least that bcrypt knows.
    pub const MIN: u8 = 4;
    /// The most that is ever computed: about 2 seconds a hash. A higher one would let a stored
    /// hash block a worker for minutes.
    pub const MAX: u8 = 15;
    /// What a hash costs unless told otherwise.
    pub const DEFAULT: Self = Self(12);

    /// The cost `n`.
    ///
    /// # Errors
    /// When it is not within [`Cost::MIN`] and [`Cost::MAX`].
    pub fn new(n: u8) -> Result<Self, HashError> {
        if (Self::MIN..=Self::MAX).contains(&n) { Ok(Self(n)) } else { Err(HashError::Cost(n)) }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }

    /// Below what a guesser with a graphics card should meet (OWASP asks for 10 or more).
    #[must_use]
    pub fn is_weak(self) -> bool {
        self.0 < 10
    }
}

/// A bcrypt hash as programs exchange it, 60 characters: `$2b$12$`, 22 of salt, 31 of digest.
/// `$2a$`, `$2b$` and `$2y$` mean the same. It is well-formed: bcrypt can compute it, at a cost within
/// [`Cost::MAX`]. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    text: String,
    cost: Cost,
}

impl PasswordHash {
    /// Length in bytes.
    pub const LEN: usize = 60;

    /// The hash written as `text`.
    ///
    /// # Errors
    /// Says why `text` is no hash that can be used. The error holds nothing of it.
    pub fn parse(text: &str) -> Result<Self, HashError> {
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
        // 16 bytes of salt leave 4 unused bits in their last character, 23 of digest leave 2. Programs
        // disagree about what they mean, so a hash that sets them is refused rather than never matched.
        if !ends_clean(salt, 16)? || !ends_clean(digest, 4)? {
            return Err(HashError::Padding);
        }
        Ok(Self { text: text.to_owned(), cost })
    }

    /// A hash of this cost that is nobody's: to spend on an unknown user what a known one takes.
    #[must_use]
    pub fn decoy(cost: Cost) -> Self {
        let text = format!("$2y${:02}${}", cost.get(), ".".repeat(Self::LEN - 7));
        Self { text, cost }
    }

    /// The 60 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What it costs to compute.
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

/// Whether the value of the last of these base64 characters is a multiple of `step`.
fn ends_clean(characters: &[u8], step: u8) -> Result<bool, HashError> {
    let mut last = 0;
    for c in characters {
        last = match c {
            b'.' => 0,
            b'/' => 1,
            b'A'..=b'Z' => c - b'A' + 2,
            b'a'..=b'z' => c - b'a' + 28,
            b'0'..=b'9' => c - b'0' + 54,
            _ => return Err(HashError::Malformed),
        };
    }
    Ok(last % step == 0)
}

/// Why a text is no hash that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HashError {
    /// It does not begin with `$2a$`, `$2b$` or `$2y$`.
    NotBcrypt,
    /// `$2x$`: made by a program with a bug that makes different passwords equal.
    Flawed,
    /// It has this many bytes and not [`PasswordHash::LEN`].
    Length(usize),
    /// Its cost is outside of [`Cost::MIN`] to [`Cost::MAX`].
    Cost(u8),
    /// It holds a character that has no place in it.
    Malformed,
    /// Unused bits of its salt or digest are set.
    Padding,
}

impl fmt::Display for HashError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBcrypt => {
                f.write_str("it is no bcrypt hash: it does not begin with $2a$, $2b$ or $2y$")
            }
            Self::Flawed => f.write_str("it is a $2x$ hash, made by a flawed program"),
            Self::Length(n) => {
                write!(f, "it has {n} bytes, and a bcrypt hash has {}", PasswordHash::LEN)
            }
            Self::Cost(n) => {
                write!(f, "its cost is {n}, and only {} to {} are permitted", Cost::MIN, Cost::MAX)
            }
            Self::Malformed => f.write_str("it holds a character that no bcrypt hash has there"),
            Self::Padding => f.write_str("unused bits of its salt or digest are set"),
        }
    }
}

impl std::error::Error for HashError {}

/// Credentials as the Basic scheme sends them: the base64 of a name, a colon and a password (RFC
/// 7617 section 2). They are not decoded yet, and may be malformed.
#[derive(Clone, Copy)]
pub struct EncodedCredentials<'a>(&'a [u8]);

impl<'a> EncodedCredentials<'a> {
    /// Takes the part of an Authorization field after the scheme.
    #[must_use]
    pub fn new(base64: &'a [u8]) -> Self {
        Self(base64)
    }

    /// The octets as they were sent.
    pub(crate) fn octets(self) -> &'a [u8] {
        self.0
    }

    /// Returns the credentials, or `None` if these cannot be any user's. Accepts canonical, padded
    /// base64 only (RFC 4648 sections 3.2 and 3.5).
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
        // `concat` sets the length aside first: a grown buffer would leave a copy behind.
        let plain = Zeroizing::new(parts.concat());
        Zeroizing::new(STANDARD.encode(plain.as_bytes()))
    }
}

/// A name and a password that somebody showed. Nobody has looked yet whether they are right.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Who they say they are.
    pub user: UserName,
    /// What they show for it.
    pub password: Password,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(raw: &str) -> Result<String, NameError> {
        UserName::parse(raw).map(|name| name.as_str().to_owned())
    }

    /// C-10
    #[test]
    fn a_user_name_is_a_precis_user_name_without_a_colon() {
        assert_eq!(name("roy").as_deref(), Ok("roy"));
        assert_eq!(name("Roy").as_deref(), Ok("Roy"), "case is kept");
        assert_eq!(name("juliet@example.com").as_deref(), Ok("juliet@example.com"));
        assert_eq!(name("ｒｏｙ").as_deref(), Ok("roy"), "full-width letters are mapped");
        assert_eq!(name("Jose\u{301}").as_deref(), Ok("José"), "NFD becomes NFC");
        assert_eq!(name(""), Err(NameError::Empty));
        assert_eq!(name("foo bar"), Err(NameError::Character(0x20)));
        assert_eq!(name("a:b"), Err(NameError::Character(0x3A)));
        assert_eq!(name("ａ：ｂ"), Err(NameError::Character(0x3A)), "a colon after mapping counts");
        assert_eq!(name("admin\u{200B}"), Err(NameError::Character(0x200B)));
        assert_eq!(name("a\u{202E}b"), Err(NameError::Character(0x202E)));
        assert_eq!(name("a\nb"), Err(NameError::Character(0x0A)));
        assert_eq!(name("a\0b"), Err(NameError::Character(0)));
        assert_eq!(name("x\u{5D0}"), Err(NameError::Direction));
        assert_eq!(name("a\u{2260}"), Err(NameError::Character(0x2260)));
        assert_eq!(name("a=\u{338}"), Err(NameError::Character(0x2260)), "that is the same in NFD");
    }

    #[test]
    fn a_group_name_is_a_user_name_without_a_comma() {
        let group = |raw| GroupName::parse(raw).map(|group| group.to_string());
        assert_eq!(group("admin").as_deref(), Ok("admin"));
        assert_eq!(group("ａdmin").as_deref(), Ok("admin"), "full-width letters are mapped");
        assert_eq!(group(""), Err(NameError::Empty));
        assert_eq!(group("a,b"), Err(NameError::Character(0x2C)));
        assert_eq!(group("ａ，b"), Err(NameError::Character(0x2C)), "a comma after mapping counts");
        assert_eq!(group("a:b"), Err(NameError::Character(0x3A)));
        assert_eq!(group("a b"), Err(NameError::Character(0x20)));
    }

    #[test]
    fn groups_are_sorted_without_doubles_and_not_too_many() {
        let groups = |names: &[&str]| {
            Groups::new(names.iter().map(|name| GroupName::parse(name).unwrap())).unwrap()
        };
        assert_eq!(groups(&["staff", "admin", "staff"]).to_string(), "admin,staff");
        let staff = groups(&["staff"]);
        assert_eq!(groups(&["admin"]).with(&staff), Ok(groups(&["admin", "staff"])));
        assert_eq!(groups(&["admin", "staff"]).without(&staff), groups(&["admin"]));
        let numbered = |most: usize| {
            Groups::new((0..most).map(|n| GroupName::parse(&format!("g{n}")).unwrap()))
        };
        let most = numbered(Groups::MAX).unwrap();
        assert_eq!(numbered(Groups::MAX + 1), Err(TooManyGroups));
        assert_eq!(most.with(&staff), Err(TooManyGroups));
    }

    /// C-10: the short way gives what the long one would.
    #[test]
    fn every_ascii_name_is_what_the_profile_says() {
        for one in 0..=0x7Fu8 {
            let raw = format!("a{}b", char::from(one));
            let expected =
                UsernameCasePreserved::enforce(raw.as_str()).ok().filter(|_| one != b':');
            assert_eq!(name(&raw).ok().as_deref(), expected.as_deref(), "{one:#x}");
        }
    }

    /// C-10, B-15
    #[test]
    fn a_user_name_has_at_most_128_bytes() {
        let longest = "n".repeat(128);
        assert_eq!(name(&longest).as_deref(), Ok(longest.as_str()));
        assert_eq!(name(&"n".repeat(129)), Err(NameError::TooLong));
        assert_eq!(name(&"é".repeat(65)), Err(NameError::TooLong), "bytes count, not characters");
        assert_eq!(name(&"ｎ".repeat(128)).as_deref(), Ok(longest.as_str()), "after mapping");
        assert_eq!(name(&" ".repeat(5000)), Err(NameError::TooLong), "nothing of it is looked at");
    }

    fn password(raw: &str) -> Result<String, PasswordError> {
        Password::parse(raw).map(|password| password.reveal().to_owned())
    }

    /// C-02, C-03, B-15
    #[test]
    fn a_password_has_at_most_72_bytes_after_normalisation() {
        let longest = "p".repeat(72);
        assert_eq!(password(&longest).as_deref(), Ok(longest.as_str()));
        assert_eq!(password(&"p".repeat(73)), Err(PasswordError::TooLong));
        assert_eq!(password(&"e\u{301}".repeat(36)), Ok("é".repeat(36)), "108 bytes become 72");
        assert_eq!(password(&"e\u{301}".repeat(37)), Err(PasswordError::TooLong));
        assert_eq!(password(&"\0".repeat(5000)), Err(PasswordError::TooLong), "not looked at");
    }

    /// P-08
    #[test]
    fn a_password_is_the_same_in_nfc_and_nfd_and_with_any_space() {
        assert_eq!(password("cafe\u{301}"), password("caf\u{E9}"));
        assert_eq!(password("a\u{3000}b\u{A0}c"), password("a b c"));
        assert_ne!(password("a b"), password("a  b"));
    }

    /// P-06, C-04, C-12
    #[test]
    fn a_password_is_not_empty_and_holds_no_control_character() {
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

    const HASH: &str = "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn hash(text: &str) -> Result<u8, HashError> {
        PasswordHash::parse(text).map(|hash| hash.cost().get())
    }

    /// C-01, C-05, C-06, C-07, C-08
    #[test]
    fn a_hash_is_sixty_characters_that_bcrypt_can_compute() {
        for ident in ["2a", "2b", "2y"] {
            assert_eq!(hash(&HASH.replacen("2b", ident, 1)), Ok(5));
        }
        let with = |from, to| HASH.replacen(from, to, 1);
        assert_eq!(hash(&with("2b", "2x")), Err(HashError::Flawed));
        assert_eq!(hash(&with("2b", "2z")), Err(HashError::NotBcrypt));
        assert_eq!(hash(""), Err(HashError::NotBcrypt));
        assert_eq!(hash("$apr1$aaaaaaaa$bbbbbbbbbbbbbbbbbbbbbb"), Err(HashError::NotBcrypt));
        assert_eq!(hash(&HASH[..59]), Err(HashError::Length(59)));
        assert_eq!(hash(&format!("{HASH}\n")), Err(HashError::Length(61)));
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

    #[test]
    fn a_decoy_is_a_hash_of_the_cost_asked_for() {
        for cost in [4, 12, 15] {
            let decoy = PasswordHash::decoy(Cost::new(cost).unwrap());
            assert_eq!(PasswordHash::parse(decoy.as_str()), Ok(decoy.clone()));
            assert_eq!(decoy.cost().get(), cost);
        }
    }

    ///
    #[test]
    fn passwords_and_hashes_do_not_show_themselves() {
        let shown = Credentials {
            user: UserName::parse("roy").unwrap(),
            password: Password::parse("open-sesame").unwrap(),
        };
        assert!(!format!("{shown:?}").contains("sesame"));
        let hash = PasswordHash::parse(HASH).unwrap();
        assert_eq!(format!("{hash:?}"), "PasswordHash(cost 5, not shown)");
    }

    proptest::proptest! {
        /// C-10: whatever is typed, what comes out is a name, and the same one again.
        #[test]
        fn a_name_that_was_made_is_its_own_name(raw in "\\PC{0,40}") {
            if let Ok(made) = UserName::parse(&raw) {
                let text = made.as_str();
                assert_eq!(UserName::parse(text), Ok(made.clone()));
                assert!((1..=UserName::MAX_BYTES).contains(&text.len()) && !text.contains(':'));
                assert!(!text.chars().any(|c| c.is_control() || c.is_whitespace()));
            }
        }

        /// P-08: a password is the same, typed again as it was kept.
        #[test]
        fn a_password_that_was_made_is_its_own(raw in "\\PC{0,40}") {
            if let Ok(made) = Password::parse(&raw) {
                let again = Password::parse(made.reveal()).unwrap();
                assert_eq!(again.reveal(), made.reveal());
                assert!((1..=Password::MAX_BYTES).contains(&made.reveal().len()));
            }
        }

        #[test]
        fn a_hash_is_kept_as_it_was_given(text in "\\$2[abxy]\\$[0-9]{2}\\$[./A-Za-z0-9]{50,55}") {
            if let Ok(hash) = PasswordHash::parse(&text) {
                assert_eq!(hash.as_str(), text);
                assert!((Cost::MIN..=Cost::MAX).contains(&hash.cost().get()));
            }
        }
    }
}
