//! Digests of names, credentials and hashes, that say nothing to anybody who has not the key. It is made at start and
//! written nowhere.

use std::hash::{Hash, Hasher};

use zeroize::Zeroizing;

use crate::credential::{Credentials, PasswordHash, UserName};

/// Makes digests under a key: BLAKE3 in its keyed mode.
pub(super) struct Keyed([u8; 32]);

/// The digest of a name and a password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u8; 32]);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// The digest of a stored hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct HashDigest([u8; 32]);

/// The digest of a name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct UserDigest([u8; 32]);

impl Keyed {
    /// With a new random key.
    ///
    /// # Errors
    /// When the system's random source can't be read.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self(key))
    }

    pub(super) fn credentials(&self, shown: &Credentials) -> Key {
        let (user, password) = (shown.user.as_str(), shown.password.reveal());
        Key(self.digest(b'c', &[user.as_bytes(), password.as_bytes()]))
    }

    pub(super) fn hash(&self, hash: &PasswordHash) -> HashDigest {
        HashDigest(self.digest(b'h', &[hash.as_str().as_bytes()]))
    }

    pub(super) fn user(&self, user: &UserName) -> UserDigest {
        UserDigest(self.digest(b'u', &[user.as_str().as_bytes()]))
    }

    /// Each part follows its length, so that `a` with `bc` differs from `ab` with `c`. All of them
    /// are hashed in one call, since a hasher that takes them one by one is several times slower.
    fn digest(&self, of: u8, parts: &[&[u8]]) -> [u8; 32] {
        let lengths = parts.len() * size_of::<u64>();
        let size = 1 + lengths + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut input = Zeroizing::new(Vec::with_capacity(size));
        input.push(of);
        for part in parts {
            input.extend_from_slice(&(part.len() as u64).to_le_bytes());
            input.extend_from_slice(part);
        }
        *blake3::keyed_hash(&self.0, &input).as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::Password;

    /// B-05, B-03
    #[test]
    fn a_key_is_of_name_and_password_each_for_itself_and_of_this_process() {
        let keyed = Keyed::new().unwrap();
        let key = |user, password| keyed.credentials(&credentials(user, password));
        assert!(key("roy", "open") == key("roy", "open"));
        for (user, password) in
            [("ro", "yopen"), ("royo", "pen"), ("roy", "opem"), ("Roy", "open"), ("roy", "open ")]
        {
            assert!(key(user, password) != key("roy", "open"), "{user} {password}");
        }
        let other = Keyed::new().unwrap().credentials(&credentials("roy", "open"));
        assert!(key("roy", "open") != other, "the key is another one in every process");
    }

    fn credentials(user: &str, password: &str) -> Credentials {
        Credentials {
            user: UserName::parse(user).unwrap(),
            password: Password::parse(password).unwrap(),
        }
    }
}
