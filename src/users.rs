//! Administering users: what an administrator may set, and how a user comes to be.
//!
//! The gate lets in whoever the store knows; what is wise to put there is decided here. This room knows
//! neither arguments nor terminals.

use std::fmt;

use crate::auth::hash;
use crate::credential::{Cost, Password, PasswordHash, UserName};
use crate::store::{Store, StoreError};

/// Adds a user. `hash` is asked for only when the name is free: it may mean to prompt somebody and
/// takes long.
///
/// # Errors
/// [`StoreError::UserExists`], other errors of the store, and whatever `hash` fails with.
pub fn add<E: From<StoreError>>(
    store: &dyn Store,
    name: &UserName,
    hash: impl FnOnce() -> Result<PasswordHash, E>,
) -> Result<(), E> {
    if store.contains(name)? {
        return Err(StoreError::UserExists.into());
    }
    Ok(store.add(name, &hash()?)?)
}

/// What is asked of passwords that an administrator sets, and of the hashes made of them.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Fewer characters than this are refused.
    pub min_length: usize,
    /// What a hash is to cost.
    pub cost: Cost,
}

impl Policy {
    /// Makes the hash to be kept for `password`, and says what is unwise about it. `user` is whose it is
    /// to be, where that is known.
    ///
    /// # Errors
    /// When the password is refused, or the system gives no random numbers for a salt.
    pub fn hash(
        &self,
        password: &Password,
        user: Option<&UserName>,
    ) -> Result<(PasswordHash, Vec<Warning>), PolicyError> {
        let warnings = self.judge(password, user)?;
        let hash = hash::hash(password, self.cost).map_err(|e| PolicyError::Hash(e.to_string()))?;
        Ok((hash, warnings))
    }

    fn judge(
        &self,
        password: &Password,
        user: Option<&UserName>,
    ) -> Result<Vec<Warning>, PolicyError> {
        let length = password.reveal().chars().count();
        if length < self.min_length {
            return Err(PolicyError::TooShort { least: self.min_length });
        }
        let warnings = [
            (length < Warning::SHORT, Warning::Short),
            (user.is_some_and(|user| user.as_str() == password.reveal()), Warning::IsTheName),
            (self.cost.is_weak(), Warning::LowCost(self.cost)),
        ];
        Ok(warnings.into_iter().filter_map(|(holds, warning)| holds.then_some(warning)).collect())
    }
}

/// What is unwise, and done all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warning {
    /// The password has fewer than [`Warning::SHORT`] characters.
    Short,
    /// The password is the user's name.
    IsTheName,
    /// The hash is quick to guess against.
    LowCost(Cost),
}

impl Warning {
    /// NIST SP 800-63B-4 section 3.1.1.2 wants at least this many characters.
    pub const SHORT: usize = 8;
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => write!(f, "the password has fewer than {} characters", Self::SHORT),
            Self::IsTheName => f.write_str("the password is the user's name"),
            Self::LowCost(cost) => {
                write!(
                    f,
                    "a cost of {} is quick to guess against; 10 is the least advised",
                    cost.get()
                )
            }
        }
    }
}

/// Why no hash was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PolicyError {
    /// The password has fewer characters than the policy asks for.
    TooShort {
        /// How many it asks for.
        least: usize,
    },
    /// bcrypt failed.
    Hash(String),
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { least } => write!(f, "it has fewer than {least} characters"),
            Self::Hash(why) => write!(f, "no hash could be made: {why}"),
        }
    }
}

impl std::error::Error for PolicyError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(password: &str, min_length: usize) -> Result<Vec<Warning>, PolicyError> {
        let policy = Policy { min_length, cost: Cost::DEFAULT };
        let roy = UserName::parse("roy").unwrap();
        policy.judge(&Password::parse(password).unwrap(), Some(&roy))
    }

    /// C-09
    #[test]
    fn what_is_unwise_is_a_warning_and_what_is_too_short_is_refused() {
        assert_eq!(judge("eight888", 1), Ok(vec![]));
        assert_eq!(judge("seven77", 1), Ok(vec![Warning::Short]));
        assert_eq!(judge("ééééééé", 1), Ok(vec![Warning::Short]), "characters count, not bytes");
        assert_eq!(judge("roy", 1), Ok(vec![Warning::Short, Warning::IsTheName]));
        assert_eq!(judge("eight888", 9), Err(PolicyError::TooShort { least: 9 }));
        assert_eq!(judge("eight888", 8), Ok(vec![]));
    }

    /// C-06
    #[test]
    fn a_cost_below_ten_is_a_warning() {
        for (cost, warned) in [(4, true), (9, true), (10, false), (15, false)] {
            let cost = Cost::new(cost).unwrap();
            let policy = Policy { min_length: 1, cost };
            let warnings = policy.judge(&Password::parse("open-sesame").unwrap(), None).unwrap();
            assert_eq!(warnings.contains(&Warning::LowCost(cost)), warned);
        }
    }
}
