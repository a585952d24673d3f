//! The policy for new passwords and their hashes.

use crate::domain::{Cost, Password, PasswordHash, UserName};
use crate::hashing::{self, HashingError};

/// The requirements for a password that an administrator sets, and for its hash.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The minimum number of characters.
    pub min_length: usize,
    /// The cost of hashes.
    pub cost: Cost,
}

impl Policy {
    /// The default minimum length: none.
    pub const MIN_LENGTH: u8 = 1;

    /// Hashes a password without judging it again.
    ///
    /// # Errors
    /// Fails if the system gives no random numbers for a salt.
    pub fn hash(&self, password: &Password) -> Result<PasswordHash, PolicyError> {
        Ok(hashing::hash(password, self.cost)?)
    }

    /// Judges a password. Returns warnings about a password that is accepted.
    ///
    /// # Errors
    /// [`PolicyError::TooShort`] or [`PolicyError::Invisible`] if the password is refused.
    pub fn judge(
        &self,
        password: &Password,
        user: Option<&UserName>,
    ) -> Result<Vec<Warning>, PolicyError> {
        let length = password.reveal().chars().count();
        if length < self.min_length {
            return Err(PolicyError::TooShort { minimum: self.min_length });
        }
        if let Some((position, character)) = password.find_invisible() {
            return Err(PolicyError::Invisible { position, character });
        }
        let warnings = [
            (length < Warning::SHORT, Warning::Short),
            (user.is_some_and(|user| user.as_str() == password.reveal()), Warning::IsTheName),
            (self.cost.is_weak(), Warning::LowCost(self.cost)),
        ];
        Ok(warnings.into_iter().filter_map(|(holds, warning)| holds.then_some(warning)).collect())
    }
}

/// A weakness of an accepted password.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, thiserror::Error)]
pub enum Warning {
    /// The password has fewer than [`Warning::SHORT`] characters.
    #[error("the password has fewer than {} characters", Self::SHORT)]
    Short,
    /// The password is the name of its user.
    #[error("the password is the user's name")]
    IsTheName,
    /// The hash can be attacked quickly.
    #[error("a cost of {} is quick to guess against; 10 is the least advised", .0.get())]
    LowCost(Cost),
}

impl Warning {
    /// The minimum length of NIST SP 800-63B-4 section 3.1.1.2.
    pub const SHORT: usize = 8;
}

/// The reason why a password is refused or cannot be hashed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The password has too few characters.
    #[error("it has fewer than {minimum} characters")]
    TooShort {
        /// The minimum number of characters.
        minimum: usize,
    },
    /// The password has a character that cannot be seen.
    #[error("character {position} of it is U+{:04X}, which is invisible", u32::from(*.character))]
    Invisible {
        /// The position in characters, from 1.
        position: usize,
        /// The character.
        character: char,
    },
    /// Hashing failed.
    #[error("no hash could be made: {0}")]
    Hash(#[from] HashingError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(password: &str, min_length: usize) -> Option<Vec<Warning>> {
        let policy = Policy { min_length, cost: Cost::DEFAULT };
        let roy = UserName::parse("roy").unwrap();
        match policy.judge(&Password::parse(password).unwrap(), Some(&roy)) {
            Ok(warnings) => Some(warnings),
            Err(PolicyError::TooShort { minimum }) => {
                assert_eq!(minimum, min_length);
                None
            }
            Err(e) => panic!("{e}"),
        }
    }

    /// C-09
    #[test]
    fn weak_password_is_a_warning_and_short_one_is_refused() {
        assert_eq!(judge("eight888", 1), Some(vec![]));
        assert_eq!(judge("seven77", 1), Some(vec![Warning::Short]));
        assert_eq!(judge("ééééééé", 1), Some(vec![Warning::Short]), "characters count, not bytes");
        assert_eq!(judge("roy", 1), Some(vec![Warning::Short, Warning::IsTheName]));
        assert_eq!(judge("eight888", 9), None);
        assert_eq!(judge("eight888", 8), Some(vec![]));
    }

    /// W-02
    #[test]
    fn invisible_character_is_refused_by_place_and_code_point() {
        let policy = Policy { min_length: 1, cost: Cost::DEFAULT };
        let zero_width = Password::parse("open\u{200B}sesame").unwrap();
        assert_eq!(
            policy.judge(&zero_width, None).unwrap_err().to_string(),
            "character 5 of it is U+200B, which is invisible"
        );
        assert!(policy.judge(&Password::parse("I \u{2764}\u{FE0F} Rust").unwrap(), None).is_ok());
    }

    /// C-06
    #[test]
    fn cost_below_ten_is_a_warning() {
        for (cost, warned) in [(4, true), (9, true), (10, false), (15, false)] {
            let cost = Cost::new(cost).unwrap();
            let policy = Policy { min_length: 1, cost };
            let warnings = policy.judge(&Password::parse("open-sesame").unwrap(), None).unwrap();
            assert_eq!(warnings.contains(&Warning::LowCost(cost)), warned);
        }
    }
}
