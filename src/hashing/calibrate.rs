//! Finds the bcrypt cost for a machine.

use std::time::{Duration, Instant};

use super::{HashingError, hash};
use crate::domain::{Cost, Password};

/// An error: a hash of the lowest cost takes longer than the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a hash of cost {} takes longer than {limit:?} here", Cost::MIN)]
pub(crate) struct TooSlow {
    limit: Duration,
}

/// Returns the highest cost at which a hash takes less than `limit`, as measured by `time`.
///
/// # Errors
/// Fails with [`TooSlow`] if no cost does, and passes on errors of `time`.
pub(crate) fn calibrate<E: From<TooSlow>>(
    limit: Duration,
    time: impl Fn(Cost) -> Result<Duration, E>,
) -> Result<Cost, E> {
    let mut best = None;
    for cost in (Cost::MIN..=Cost::MAX).filter_map(|cost| Cost::new(cost).ok()) {
        if time(cost)? >= limit {
            break;
        }
        best = Some(cost);
    }
    best.ok_or(TooSlow { limit }.into())
}

/// Measures the time of a hash, as the fastest of three.
pub(crate) fn time_of_hash(cost: Cost) -> Result<Duration, HashingError> {
    let password = Password::generate()?;
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        hash(&password, cost)?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calibration_finds_the_highest_cost_below_the_limit() {
        // The time doubles with each step, from 1 ms on.
        let time =
            |cost: Cost| Ok::<_, TooSlow>(Duration::from_millis(1 << (cost.get() - Cost::MIN)));
        let found = |limit| calibrate(Duration::from_millis(limit), time).map(Cost::get);
        assert_eq!(found(2), Ok(4), "less, and not as much");
        assert_eq!(found(3), Ok(5));
        assert_eq!(found(257), Ok(12));
        assert_eq!(found(1_000_000), Ok(15));
        assert!(matches!(found(1), Err(TooSlow { .. })));
    }
}
