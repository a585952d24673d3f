//! Administering users: what an administrator may set (here), and how users come to be what they are to be
//! (`settle.rs`).
//!
//! The gate lets in whoever the store knows; what is wise to put there is decided here. This room knows
//! neither arguments nor terminals.

pub mod settle;

use std::fmt;
use std::time::{Duration, Instant};

use crate::auth::hash;
use crate::credential::{Cost, Password, PasswordHash, UserName};

/// What is asked of passwords that an administrator sets, and of the hashes made of them.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Fewer characters than this are refused.
    pub min_length: usize,
    /// What a hash is to cost.
    pub cost: Cost,
}

impl Policy {
    /// Makes a hash of a password, which is not judged again.
    ///
    /// # Errors
    /// When the system gives no random numbers for a salt.
    pub fn hash(&self, password: &Password) -> Result<PasswordHash, PolicyError> {
        hash::hash(password, self.cost).map_err(|e| PolicyError::Hash(e.to_string()))
    }

    /// What is unwise about a password.
    ///
    /// # Errors
    /// When it is refused.
    pub fn judge(
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

/// The highest cost of which a hash takes less than `limit` on this machine, with nothing else to do, as `time` has it.
///
/// # Errors
/// When not even the least cost does, or what [`time_of_hash`] fails with.
pub fn calibrate(
    limit: Duration,
    time: impl Fn(Cost) -> Result<Duration, PolicyError>,
) -> Result<Cost, PolicyError> {
    let mut best = None;
    for cost in (Cost::MIN..=Cost::MAX).filter_map(|cost| Cost::new(cost).ok()) {
        if time(cost)? >= limit {
            break;
        }
        best = Some(cost);
    }
    best.ok_or(PolicyError::TooSlow { limit })
}

/// How long a hash takes: the quickest of three.
///
/// # Errors
/// When no hash can be made.
pub fn time_of_hash(cost: Cost) -> Result<Duration, PolicyError> {
    let password = Password::generate().map_err(|e| PolicyError::Hash(e.to_string()))?;
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        hash::hash(&password, cost).map_err(|e| PolicyError::Hash(e.to_string()))?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

/// What is unwise, and done all the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
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
    /// A hash of the least cost takes longer.
    TooSlow {
        /// Than this.
        limit: Duration,
    },
    /// bcrypt failed.
    Hash(String),
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { least } => write!(f, "it has fewer than {least} characters"),
            Self::TooSlow { limit } => {
                write!(f, "a hash of cost {} takes longer than {limit:?} here", Cost::MIN)
            }
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

    #[test]
    fn calibration_finds_the_highest_cost_below_the_limit() {
        // Each step doubles it, from 1 ms on.
        let time = |cost: Cost| Ok(Duration::from_millis(1 << (cost.get() - Cost::MIN)));
        let found = |limit| calibrate(Duration::from_millis(limit), time).map(Cost::get);
        assert_eq!(found(2), Ok(4), "less, and not as much");
        assert_eq!(found(3), Ok(5));
        assert_eq!(found(257), Ok(12));
        assert_eq!(found(1_000_000), Ok(15));
        assert!(matches!(found(1), Err(PolicyError::TooSlow { .. })));
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
