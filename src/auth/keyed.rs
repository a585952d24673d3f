//! Keyed digests of credentials, names and hashes.
//!
//! They reveal nothing without the keys. Each process generates its keys at its start and never
//! writes them. Knows nothing of the use of a digest.

use std::hash::{Hash, Hasher};

use crate::domain::{EncodedCredentials, StoredHash, UserName, encode_credentials};

/// BLAKE3 in keyed mode, with a key for each kind of input.
pub(super) struct Keyed {
    credentials: [u8; 32],
    hashes: [u8; 32],
    users: [u8; 32],
}

/// The digest of encoded credentials.
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

/// The digest of a user name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct UserDigest([u8; 32]);

impl Keyed {
    /// Generates new random keys.
    ///
    /// # Errors
    /// Fails if the random source of the system cannot be read.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let key = || {
            let mut key = [0; 32];
            getrandom::fill(&mut key).map(|()| key)
        };
        Ok(Self { credentials: key()?, hashes: key()?, users: key()? })
    }

    /// Returns the key of credentials as received. Different names or passwords have different
    /// encodings, because base64 is canonical here and a name contains no colon.
    pub(super) fn encoded(&self, shown: EncodedCredentials<'_>) -> Key {
        Key(digest(&self.credentials, shown.octets()))
    }

    /// Returns the key of a user and a candidate for the password.
    pub(super) fn candidate(&self, user: &UserName, password: &[u8]) -> Key {
        let encoded = encode_credentials(user, password);
        self.encoded(EncodedCredentials::new(encoded.as_bytes()))
    }

    /// Returns the digest of a hash with the parameters that decide which passwords match it.
    pub(super) fn hash(&self, hash: &StoredHash) -> HashDigest {
        let bcrypt = hash.bcrypt.as_str();
        HashDigest(match &hash.wrapped {
            None => digest(&self.hashes, bcrypt.as_bytes()),
            Some(wrapped) => {
                let params = &wrapped.params;
                // No part contains a line feed.
                let parts = [bcrypt, params.scheme().name(), params.salt()].join("\n");
                let rounds = params.rounds().map_or(String::new(), |rounds| rounds.to_string());
                digest(&self.hashes, format!("{parts}\n{rounds}").as_bytes())
            }
        })
    }

    pub(super) fn user(&self, user: &UserName) -> UserDigest {
        UserDigest(digest(&self.users, user.as_str().as_bytes()))
    }
}

/// Digests the input in one call. A hasher that takes its input in parts is several times slower.
fn digest(key: &[u8; 32], input: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(key, input).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::LegacyScheme;
    use crate::store::contract::wrapped_hash;

    /// H-03: a record that has lost its parameters matches other passwords.
    #[test]
    fn digest_of_a_hash_depends_on_its_parameters() {
        let keyed = Keyed::new().unwrap();
        let wrapped = |scheme, salt, rounds| wrapped_hash(scheme, salt, rounds);
        let hashes = [
            wrapped(LegacyScheme::Apr1, "salt", None),
            wrapped(LegacyScheme::Apr1, "pepper", None),
            wrapped(LegacyScheme::Md5Crypt, "salt", None),
            wrapped(LegacyScheme::Sha512Crypt, "salt", None),
            wrapped(LegacyScheme::Sha512Crypt, "salt", Some(5000)),
            StoredHash { wrapped: None, ..wrapped(LegacyScheme::Apr1, "salt", None) },
        ];
        for (n, one) in hashes.iter().enumerate() {
            for (m, other) in hashes.iter().enumerate() {
                assert_eq!(keyed.hash(one) == keyed.hash(other), n == m, "{one:?} {other:?}");
            }
        }
    }

    /// B-05, B-03
    #[test]
    fn key_depends_on_name_password_and_process() {
        let keyed = Keyed::new().unwrap();
        let key_by = |keyed: &Keyed, user, password: &str| {
            keyed.candidate(&UserName::parse(user).unwrap(), password.as_bytes())
        };
        let key = |user, password| key_by(&keyed, user, password);
        assert!(key("roy", "open") == key("roy", "open"));
        for (user, password) in
            [("ro", "yopen"), ("royo", "pen"), ("roy", "opem"), ("Roy", "open"), ("roy", "open ")]
        {
            assert!(key(user, password) != key("roy", "open"), "{user} {password}");
        }
        let other = key_by(&Keyed::new().unwrap(), "roy", "open");
        assert!(key("roy", "open") != other, "each process has its own keys");
    }
}
