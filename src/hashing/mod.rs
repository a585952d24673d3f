//! Password hashing: bcrypt, the cost policy, hashing on several threads and in lanes, and the legacy
//! schemes of imported hashes.
//!
//! Decides how hashes are computed and which of them are too weak. Knows neither users nor the
//! store. Input that bcrypt would truncate, misread or compute for minutes cannot get here:
//! [`BcryptKey`], [`PasswordHash`] and [`Cost`] exclude it.

mod calibrate;
mod lanes;
mod legacy;
pub(crate) mod pool;

use std::collections::BTreeMap;

use bcrypt::{BcryptError, Version};
use zeroize::Zeroizing;

use crate::domain::{Cost, HashError, LegacyHash, Password, PasswordHash, StoredHash};
use lanes::LaneInput;

pub(crate) use calibrate::{TooSlow, calibrate, time_of_hash};
pub(crate) use legacy::max_rounds;
pub use legacy::text as legacy_text;

/// The most hashes that a thread computes at once.
pub(crate) const LANES: usize = lanes::MAX;

/// The bytes that bcrypt hashes: 1 to 72 of them without NUL, which bcrypt reads completely.
#[derive(Clone)]
pub(crate) struct BcryptKey(Zeroizing<Vec<u8>>);

impl BcryptKey {
    /// Takes the octets of a password. Returns `None` if bcrypt would truncate or misread them.
    pub(crate) fn of_octets(octets: &[u8]) -> Option<Self> {
        let is_read = (1..=Password::MAX_BYTES).contains(&octets.len()) && !octets.contains(&0);
        is_read.then(|| Self(Zeroizing::new(octets.to_owned())))
    }

    /// Returns the key that a stored hash covers if this candidate is the password. Takes the time of
    /// a legacy digest if the hash is wrapped. Returns `None` if the candidate cannot be the password.
    pub(crate) fn of_candidate(candidate: &[u8], hash: &StoredHash) -> Option<Self> {
        match &hash.wrapped {
            None => Self::of_octets(candidate),
            Some(wrapped) => {
                let is_bounded = legacy::is_bounded(&wrapped.params, candidate.len(), hash.cost());
                is_bounded.then(|| Self(legacy::key_for(&wrapped.params, candidate)))
            }
        }
    }

    /// Returns the key that wraps an imported hash.
    pub(crate) fn of_legacy(hash: &LegacyHash) -> Self {
        Self(legacy::key_of(hash))
    }

    #[cfg(test)]
    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }

    /// Returns a key that stands in for one that there is none, so that it takes as long.
    pub(crate) fn dummy() -> Self {
        Self(Zeroizing::new(vec![1]))
    }
}

impl From<&Password> for BcryptKey {
    fn from(password: &Password) -> Self {
        Self(Zeroizing::new(password.reveal().as_bytes().to_owned()))
    }
}

/// An error of hashing. None of them is known to occur with a valid [`Password`] and
/// [`PasswordHash`], except that the random source fails.
#[derive(Debug, thiserror::Error)]
pub enum HashingError {
    /// An error of the bcrypt library.
    #[error("{0}")]
    Bcrypt(#[from] BcryptError),
    /// The random source of the system cannot be read.
    #[error("{0}")]
    Random(#[from] getrandom::Error),
    /// A stored hash cannot be decoded.
    #[error("{0}")]
    Hash(#[from] HashError),
    /// A hash thread panicked.
    #[error("a thread panicked")]
    Panicked,
}

/// Hashes a password with a random salt. Each step of the cost doubles the time.
///
/// The hash begins with `$2y$`, one of three equivalent prefixes, because Apache's `htpasswd`
/// writes this one.
///
/// # Errors
/// Fails if the system gives no random numbers.
pub(crate) fn hash(password: &Password, cost: Cost) -> Result<PasswordHash, HashingError> {
    hash_key(&password.into(), cost)
}

fn hash_key(key: &BcryptKey, cost: Cost) -> Result<PasswordHash, HashingError> {
    let parts = bcrypt::hash_with_result(key.0.as_slice(), u32::from(cost.get()))?;
    let hash = PasswordHash::parse(&parts.format_for_version(Version::TwoY));
    hash.map_err(|_| BcryptError::InvalidHash("bcrypt made a hash that is none").into())
}

/// The type of [`verify_all`].
pub(crate) type VerifyFn = fn(&[(BcryptKey, &PasswordHash)]) -> Result<Vec<bool>, HashingError>;

/// Returns true if the hash is one of this key. Takes as long as making the hash did.
fn verify(key: &BcryptKey, hash: &PasswordHash) -> Result<bool, HashingError> {
    Ok(bcrypt::verify(key.0.as_slice(), hash.as_str())?)
}

/// Compares keys with hashes, up to four of equal cost at once. Returns the answers in their order.
///
/// # Errors
/// Passes on errors of the library, so that none becomes a grant.
pub(crate) fn verify_all(pairs: &[(BcryptKey, &PasswordHash)]) -> Result<Vec<bool>, HashingError> {
    let mut by_cost: BTreeMap<Cost, Vec<usize>> = BTreeMap::new();
    for (index, (_, hash)) in pairs.iter().enumerate() {
        by_cost.entry(hash.cost()).or_default().push(index);
    }
    let mut answers = vec![false; pairs.len()];
    for (cost, indexes) in by_cost {
        if let [index] = indexes[..] {
            let (key, hash) = &pairs[index];
            answers[index] = verify(key, hash)?;
            continue;
        }
        let mut inputs = Vec::with_capacity(indexes.len());
        let mut expected = Vec::with_capacity(indexes.len());
        for index in &indexes {
            let (key, hash) = &pairs[*index];
            let (salt, digest) = hash.parts()?;
            inputs.push(LaneInput { password: &key.0, salt });
            expected.push(digest);
        }
        let digests = lanes::digests(cost.get(), &inputs);
        for ((index, digest), expected) in indexes.into_iter().zip(digests).zip(expected) {
            answers[index] = is_equal(&digest, &expected);
        }
    }
    Ok(answers)
}

/// Compares in a time that does not depend on the position of a difference.
fn is_equal(one: &[u8; lanes::DIGEST], other: &[u8; lanes::DIGEST]) -> bool {
    one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

/// Hashes keys like [`hash`], up to four at once.
///
/// # Errors
/// See [`hash`].
pub(crate) fn hash_all(keys: &[BcryptKey], cost: Cost) -> Result<Vec<PasswordHash>, HashingError> {
    if let [key] = keys {
        return Ok(vec![hash_key(key, cost)?]);
    }
    let mut inputs = Vec::with_capacity(keys.len());
    for key in keys {
        let mut salt = [0; lanes::SALT];
        getrandom::fill(&mut salt)?;
        inputs.push(LaneInput { password: &key.0, salt });
    }
    let digests = lanes::digests(cost.get(), &inputs);
    let made = inputs.iter().zip(digests);
    Ok(made.map(|(input, digest)| PasswordHash::of_parts(cost, input.salt, digest)).collect())
}

/// Returns true if a hash should be replaced, because it costs less than `minimum`.
#[must_use]
pub(crate) fn needs_rehash(hash: &PasswordHash, minimum: u8) -> bool {
    hash.cost().get() < minimum
}

/// Returns the rounds of a wrapped hash, if they take longer than [`max_rounds`] permits for its cost.
#[must_use]
pub(crate) fn exceeds_ceiling(hash: &StoredHash) -> Option<u32> {
    let rounds = hash.wrapped.as_ref()?.params.effective_rounds()?;
    (rounds > max_rounds(hash.cost())).then_some(rounds)
}

/// Returns true if a hash is one of this password.
#[cfg(test)]
pub(crate) fn is_hash_of(hash: &StoredHash, password: &str) -> bool {
    let key = BcryptKey::of_candidate(password.as_bytes(), hash).unwrap();
    verify(&key, &hash.bcrypt).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::parse(text).unwrap()
    }

    fn holds(text: &str, hash: &str) -> bool {
        verify(&(&password(text)).into(), &PasswordHash::parse(hash).unwrap()).unwrap()
    }

    /// C-01, C-03. Vectors of crypt_blowfish 1.3 (wrapper.c).
    #[test]
    fn hashes_of_other_programs_verify() {
        let exactly_72 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        let made = [
            ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
            ("U*U*", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK"),
            ("U*U*U", "$2a$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a"),
            (exactly_72, "$2a$05$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui"),
        ];
        // H-10: in lanes too.
        let passwords = made.map(|(text, _)| password(text));
        let hashes = made.map(|(_, hash)| PasswordHash::parse(hash).unwrap());
        let pairs: Vec<_> = passwords.iter().map(BcryptKey::from).zip(&hashes).collect();
        assert_eq!(verify_all(&pairs).unwrap(), [true; 4]);
        for (text, hash) in made {
            assert!(holds(text, hash), "{text}");
            assert!(holds(text, &hash.replacen("2a", "2y", 1)), "{text} as $2y$");
            assert!(holds(text, &hash.replacen("2a", "2b", 1)), "{text} as $2b$");
            assert!(!holds("U*u", hash), "another password than {text}");
        }
        assert!(!holds(&exactly_72[..71], made[3].1), "the last of 72 bytes counts");
    }

    /// H-10: costs are not mixed in one batch, and each answer is that of its pair.
    #[test]
    fn passwords_of_a_batch_are_verified_each_with_its_hash() {
        let costs = [4, 5, 4, 4, 6, 4, 4, 5];
        let texts: Vec<_> =
            (0..costs.len()).map(|n| password(&format!("open-sesame-{n}"))).collect();
        let hashes: Vec<_> = texts
            .iter()
            .zip(costs)
            .map(|(text, cost)| hash(text, Cost::new(cost).unwrap()).unwrap())
            .collect();
        let keys: Vec<_> = texts.iter().map(BcryptKey::from).collect();
        let right: Vec<_> = keys.iter().cloned().zip(&hashes).collect();
        assert_eq!(verify_all(&right).unwrap(), [true; 8]);
        // Each with the hash of its neighbour, but two.
        let shifted: Vec<_> = (0..8).map(|n| (keys[n].clone(), &hashes[(n + 1) % 8])).collect();
        assert_eq!(verify_all(&shifted).unwrap(), [false; 8]);
        let mut mixed = shifted;
        mixed[2] = right[2].clone();
        mixed[4] = right[4].clone();
        let expected = [false, false, true, false, true, false, false, false];
        assert_eq!(verify_all(&mixed).unwrap(), expected);
        assert_eq!(verify_all(&[]).unwrap(), [false; 0]);
    }

    /// H-10
    #[test]
    fn passwords_of_a_batch_are_hashed_with_a_salt_each() {
        let cost = Cost::new(4).unwrap();
        for count in [0, 1, 2, 4, 7] {
            let texts: Vec<_> = (0..count).map(|n| password(&format!("open-{n}"))).collect();
            let made =
                hash_all(&texts.iter().map(BcryptKey::from).collect::<Vec<_>>(), cost).unwrap();
            assert_eq!(made.len(), count);
            for (text, made) in texts.iter().zip(&made) {
                assert!(
                    made.as_str().starts_with("$2y$04$") && verify(&text.into(), made).unwrap()
                );
            }
            let salts: std::collections::BTreeSet<_> =
                made.iter().map(|hash| hash.parts().unwrap().0).collect();
            assert_eq!(salts.len(), count);
        }
    }

    /// C-02, C-04: bcrypt ignores what is behind 72 bytes, or behind NUL.
    #[test]
    fn key_is_what_bcrypt_reads_completely() {
        let of = |octets: &[u8]| BcryptKey::of_octets(octets).map(|key| key.0.to_vec());
        assert_eq!(of(b"\xE9"), Some(b"\xE9".to_vec()), "not UTF-8");
        assert_eq!(of(&[b'p'; 72]), Some(vec![b'p'; 72]));
        for octets in [&[b'p'; 73][..], b"", b"a\0b"] {
            assert_eq!(of(octets), None, "{octets:?}");
        }
    }

    /// C-06, C-13
    #[test]
    fn hash_has_its_own_salt_and_the_given_cost() {
        let cost = Cost::new(4).unwrap();
        let one = hash(&password("open-sesame"), cost).unwrap();
        let other = hash(&password("open-sesame"), cost).unwrap();
        assert_ne!(one, other);
        assert_eq!(one.cost(), cost);
        for hash in [one, other] {
            assert!(hash.as_str().starts_with("$2y$04$"));
            assert!(holds("open-sesame", hash.as_str()));
            assert!(!holds("open-sesamE", hash.as_str()));
        }
    }
}
