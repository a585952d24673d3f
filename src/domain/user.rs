//! The user record.

use std::time::SystemTime;

use super::{Groups, HashError, StoredHash, UserName};
use crate::time::Timestamp;

/// The part of a user record that decides a login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// The hash of the password.
    pub hash: StoredHash,
    /// The version of the password.
    pub credential_version: CredentialVersion,
    /// Refused even with the right password.
    pub locked: bool,
    /// Refused from this time on.
    pub expires: Option<Timestamp>,
}

impl User {
    /// Returns true if the user has expired when the wall clock shows `now`.
    #[must_use]
    pub fn has_expired(&self, now: SystemTime) -> bool {
        has_passed(self.expires, now)
    }
}

/// The whole record of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    /// The name, unique in a store.
    pub name: UserName,
    /// The hash of the password, or the problem with the stored value.
    pub hash: Result<StoredHash, BadRecord>,
    /// The version of the password.
    pub credential_version: CredentialVersion,
    /// The groups of the user.
    pub groups: Groups,
    /// Refused even with the right password.
    pub locked: bool,
    /// Refused from this time on.
    pub expires: Option<Timestamp>,
    /// The time when the user was added.
    pub created: Timestamp,
    /// The time of the last change of this record.
    pub changed: Timestamp,
}

impl Account {
    /// Returns true if the user has expired when the wall clock shows `now`.
    #[must_use]
    pub fn has_expired(&self, now: SystemTime) -> bool {
        has_passed(self.expires, now)
    }
}

/// A version of a user's password. Users that were added one after the other under the same name
/// have different versions too.
///
/// It changes with the password, and not when the same password gets another hash at a login.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CredentialVersion(i64);

impl CredentialVersion {
    /// Generates a new random version.
    ///
    /// # Errors
    /// Fails if the random source of the system cannot be read.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        Ok(Self(i64::from_le_bytes(random)))
    }

    /// Returns a stored version.
    #[must_use]
    pub fn from_number(number: i64) -> Self {
        Self(number)
    }

    /// Returns the version as a number.
    #[must_use]
    pub fn number(self) -> i64 {
        self.0
    }
}

fn has_passed(end: Option<Timestamp>, now: SystemTime) -> bool {
    end.is_some_and(|end| end.has_passed(now))
}

/// The problem of a stored record that cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadRecord {
    /// The hash is not a usable bcrypt hash.
    #[error("the stored hash cannot be used: {0}")]
    Hash(#[source] HashError),
    /// The value of this field has the wrong type or is out of range.
    #[error("the stored {0} has the wrong type or is out of range")]
    Field(&'static str),
}
