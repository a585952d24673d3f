//! The user record.

use std::time::SystemTime;

use super::{Groups, HashError, PasswordHash, UserName};
use crate::time::Timestamp;

/// The part of a user record that decides a login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// The hash of the password.
    pub hash: PasswordHash,
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
    pub hash: Result<PasswordHash, BadRecord>,
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
