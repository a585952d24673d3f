//! Password hashing: bcrypt, the cost policy, and hashing on several threads.
//!
//! Decides how hashes are computed and which of them are too weak. Knows neither users nor the
//! store. Input that bcrypt would truncate, misread or compute for minutes cannot get here:
//! [`Password`], [`PasswordHash`] and [`Cost`] exclude it.

mod calibrate;
pub(crate) mod pool;

use bcrypt::{BcryptError, Version};

use crate::domain::{Cost, Password, PasswordHash};
pub(crate) use calibrate::{TooSlow, calibrate, time_of_hash};

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
    let parts = bcrypt::hash_with_result(password.reveal(), u32::from(cost.get()))?;
    let hash = PasswordHash::parse(&parts.format_for_version(Version::TwoY));
    hash.map_err(|_| BcryptError::InvalidHash("bcrypt made a hash that is none").into())
}

/// The type of [`verify`].
pub(crate) type VerifyFn = fn(&Password, &PasswordHash) -> Result<bool, HashingError>;

/// Returns true if the hash is one of this password. Takes as long as making the hash did.
///
/// # Errors
/// Passes on errors of the library, so that none becomes a grant.
pub(crate) fn verify(password: &Password, hash: &PasswordHash) -> Result<bool, HashingError> {
    Ok(bcrypt::verify(password.reveal(), hash.as_str())?)
}

/// Returns true if a hash should be replaced, because it costs less than `minimum`.
#[must_use]
pub(crate) fn needs_rehash(hash: &PasswordHash, minimum: u8) -> bool {
    hash.cost().get() < minimum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::parse(text).unwrap()
    }

    fn holds(text: &str, hash: &str) -> bool {
        verify(&password(text), &PasswordHash::parse(hash).unwrap()).unwrap()
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
        for (text, hash) in made {
            assert!(holds(text, hash), "{text}");
            assert!(holds(text, &hash.replacen("2a", "2y", 1)), "{text} as $2y$");
            assert!(holds(text, &hash.replacen("2a", "2b", 1)), "{text} as $2b$");
            assert!(!holds("U*u", hash), "another password than {text}");
        }
        assert!(!holds(&exactly_72[..71], made[3].1), "the last of 72 bytes counts");
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
