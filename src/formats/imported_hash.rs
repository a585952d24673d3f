//! The hash of a user in a file to import. Computes nothing.

use crate::domain::{
    HashError, LegacyError, LegacyHash, LegacyScheme, Password, PasswordError, PasswordHash,
    StoredHash,
};

/// The prefix of a password in the clear, which nginx reads.
const PLAIN: &str = "{PLAIN}";

/// A hash of any scheme that can be imported.
#[derive(Clone, Debug)]
pub enum ImportedHash {
    /// A bcrypt hash, which is stored as it is. JSON lines may hold a wrapped one of another store.
    Stored(StoredHash),
    /// A hash of a legacy scheme, which is never stored as such.
    Legacy(LegacyHash),
    /// A password in the clear, which is hashed at once.
    Plain(Password),
}

impl ImportedHash {
    /// Parses a hash.
    ///
    /// # Errors
    /// Fails with the reason why the hash cannot be imported. The error contains no part of it.
    pub fn parse(text: &str) -> Result<Self, ImportedHashError> {
        if let Some(password) = text.strip_prefix(PLAIN) {
            return Ok(Self::Plain(Password::parse(password)?));
        }
        match PasswordHash::parse(text) {
            Ok(hash) => Ok(Self::Stored(hash.into())),
            Err(HashError::NotBcrypt) if LegacyScheme::of_hash(text).is_some() => {
                Ok(Self::Legacy(LegacyHash::parse(text)?))
            }
            Err(HashError::NotBcrypt) => Err(ImportedHashError::Scheme(scheme(text))),
            Err(why) => Err(why.into()),
        }
    }
}

/// Names the scheme of a hash that cannot be imported.
fn scheme(hash: &str) -> &'static str {
    const SCHEMES: [(&str, &str); 8] = [
        ("{MD5}", "MD5"),
        ("{SMD5}", "salted MD5"),
        ("$7$", "scrypt"),
        ("$y$", "yescrypt"),
        ("$gy$", "gost-yescrypt"),
        ("$argon2", "Argon2"),
        ("$sha1$", "SHA-1 crypt"),
        ("$3$", "NT"),
    ];
    let of_crypt = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '/';
    let known = SCHEMES.iter().find(|(begin, _)| hash.starts_with(begin)).map(|(_, name)| *name);
    known.unwrap_or(if hash.is_empty() {
        "none at all"
    } else if hash.len() == 13 && hash.chars().all(of_crypt) {
        "DES crypt"
    } else {
        "plain text, or one that is not known"
    })
}

/// The reason why a hash cannot be imported. It contains no part of the hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ImportedHashError {
    /// No login can be checked against a hash of this scheme.
    #[error("its scheme is {0}")]
    Scheme(&'static str),
    /// The bcrypt hash is unusable.
    #[error("{0}")]
    Bcrypt(#[from] HashError),
    /// The hash of a legacy scheme is unusable.
    #[error("{0}")]
    Legacy(#[from] LegacyError),
    /// The password in the clear is invalid.
    #[error("it is a password in the clear, and {0}")]
    Plain(#[from] PasswordError),
}

impl ImportedHashError {
    /// Returns true if no hash of this scheme is supported.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Scheme(_))
    }
}
