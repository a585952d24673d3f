//! The decision: may whoever shows these credentials pass?
//!
//! This room knows neither HTTP nor SQLite. What fails becomes [`Decision::Unavailable`], never a grant.

pub(crate) mod hash;
mod workers;

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::credential::{Cost, Credentials, PasswordHash};
use crate::store::{Store, StoreError, User};
use workers::{Lost, Workers};

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Name and password are right, and the user may enter.
    Granted,
    /// They are not, or the user may not. Which of them it was is nobody's business.
    Denied,
    /// Too many are waiting already. Nothing was looked at.
    Overloaded,
    /// It could not be found out, by a failure on our side.
    Unavailable,
}

/// Decides, on threads of its own: neither a hash nor the store is waited for by the caller's thread.
pub struct Authenticator {
    verifier: Arc<Verifier>,
    workers: Workers,
}

impl Authenticator {
    /// How many requests may wait for a worker. It bounds the memory; the time that they wait is
    /// bounded by their clients.
    const QUEUE: usize = 1024;

    /// Decides by what is in `store`. `cost` is what the store's hashes usually cost, and what a name costs
    /// that is no user's.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(store: Box<dyn Store>, cost: Cost) -> io::Result<Self> {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let verifier =
            Verifier { store, decoy: PasswordHash::decoy(cost), computed: AtomicU64::new(0) };
        Ok(Self { verifier: Arc::new(verifier), workers: Workers::start(threads, Self::QUEUE)? })
    }

    /// Decides on what somebody has shown.
    pub async fn decide(&self, shown: Credentials) -> Decision {
        let verifier = Arc::clone(&self.verifier);
        match self.workers.run(move || verifier.decide(&shown)).await {
            Ok(decision) => decision,
            Err(Lost::Full) => Decision::Overloaded,
            Err(Lost::Died) => {
                log::error!("cannot check credentials: a hash worker failed");
                Decision::Unavailable
            }
        }
    }

    /// How many hashes have been computed so far.
    #[must_use]
    pub fn hashes_computed(&self) -> u64 {
        self.verifier.computed.load(Ordering::Relaxed)
    }
}

struct Verifier {
    store: Box<dyn Store>,
    /// What an unknown user's password is held against, so that it takes as long as a known one's.
    decoy: PasswordHash,
    computed: AtomicU64,
}

impl Verifier {
    fn decide(&self, shown: &Credentials) -> Decision {
        self.try_to_decide(shown).unwrap_or_else(|e| {
            // The error names a user only if there is one: what was typed as a name may be a password.
            log::error!("cannot check credentials: {e}");
            Decision::Unavailable
        })
    }

    fn try_to_decide(&self, shown: &Credentials) -> Result<Decision, StoreError> {
        let before = self.store.find(&shown.user)?;
        let hash = before.as_ref().map_or(&self.decoy, |user| &user.hash);
        self.computed.fetch_add(1, Ordering::Relaxed);
        let right = hash::verify(&shown.password, hash)
            .map_err(|e| StoreError::Failed(format!("bcrypt failed: {e}")))?;
        let Some(before) = before.filter(|_| right) else {
            return Ok(Decision::Denied);
        };
        // bcrypt took its time: what counts is the user as they are now.
        let now = self.store.find(&shown.user)?;
        let still =
            now.is_some_and(|now| now.hash == before.hash && may_enter(&now, SystemTime::now()));
        Ok(if still { Decision::Granted } else { Decision::Denied })
    }
}

fn may_enter(user: &User, now: SystemTime) -> bool {
    !user.locked && user.expires.is_none_or(|end| now < end)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use futures_executor::block_on;

    use super::*;
    use crate::credential::{HashError, Password, UserName};
    use crate::store::{BadRecord, Revision};

    /// A store that answers what it was told to, one answer a look.
    struct Script(Mutex<Vec<Result<Option<User>, StoreError>>>);

    impl Store for Script {
        fn find(&self, _: &UserName) -> Result<Option<User>, StoreError> {
            self.0.lock().unwrap().remove(0)
        }
        fn contains(&self, _: &UserName) -> Result<bool, StoreError> {
            unreachable!("the decision is made on the record")
        }
        fn is_empty(&self) -> Result<bool, StoreError> {
            unreachable!("the decision is made on the record")
        }
        fn revision(&self) -> Result<Revision, StoreError> {
            Ok(Revision(0))
        }
        fn add(&self, _: &UserName, _: &PasswordHash) -> Result<(), StoreError> {
            unreachable!("the decision changes nothing")
        }
        fn remove(&self, _: &UserName) -> Result<(), StoreError> {
            unreachable!("the decision changes nothing")
        }
    }

    fn shown(password: &str) -> Credentials {
        Credentials {
            user: UserName::parse("roy").unwrap(),
            password: Password::parse(password).unwrap(),
        }
    }

    fn user(password: &str) -> User {
        let cost = Cost::new(4).unwrap();
        let hash = hash::hash(&Password::parse(password).unwrap(), cost).unwrap();
        User { hash, locked: false, expires: None }
    }

    /// What is decided on the password `right` when the store gives these answers, and how many
    /// hashes that took.
    fn decide(answers: Vec<Result<Option<User>, StoreError>>) -> (Decision, u64) {
        let store = Box::new(Script(Mutex::new(answers)));
        let authenticator = Authenticator::new(store, Cost::new(4).unwrap()).unwrap();
        let decision = block_on(authenticator.decide(shown("right")));
        (decision, authenticator.hashes_computed())
    }

    #[test]
    fn the_right_password_is_granted_and_a_wrong_one_denied() {
        let roy = user("right");
        assert_eq!(decide(vec![Ok(Some(roy.clone())), Ok(Some(roy))]), (Decision::Granted, 1));
        assert_eq!(decide(vec![Ok(Some(user("wrong")))]), (Decision::Denied, 1));
    }

    /// B-01: the same work, so the same time.
    #[test]
    fn an_unknown_user_costs_one_hash_at_the_configured_cost() {
        assert_eq!(decide(vec![Ok(None)]), (Decision::Denied, 1));
        for cost in [4, 7] {
            let cost = Cost::new(cost).unwrap();
            let store = Box::new(Script(Mutex::new(Vec::new())));
            let authenticator = Authenticator::new(store, cost).unwrap();
            assert_eq!(authenticator.verifier.decoy.cost(), cost);
        }
    }

    /// P-09: it takes as long to refuse them as anybody.
    #[test]
    fn locked_and_expired_users_are_denied_after_a_hash() {
        let roy = user("right");
        let locked = User { locked: true, ..roy.clone() };
        let expired = User { expires: Some(SystemTime::UNIX_EPOCH), ..roy };
        for user in [locked, expired] {
            let answers = vec![Ok(Some(user.clone())), Ok(Some(user))];
            assert_eq!(decide(answers), (Decision::Denied, 1));
        }
    }

    #[test]
    fn a_user_may_enter_until_the_second_of_expiry() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let roy = User { expires: Some(end), ..user("right") };
        assert!(may_enter(&roy, end - Duration::from_nanos(1)));
        assert!(!may_enter(&roy, end));
    }

    /// B-06
    #[test]
    fn what_changed_while_the_hash_was_computed_counts() {
        let roy = user("right");
        let locked = User { locked: true, ..roy.clone() };
        for now in [None, Some(locked), Some(user("right"))] {
            let answers = vec![Ok(Some(roy.clone())), Ok(now)];
            assert_eq!(decide(answers), (Decision::Denied, 1));
        }
    }

    /// P-18, C-06, C-07
    #[test]
    fn no_failure_becomes_a_grant_and_a_bad_record_costs_no_hash() {
        let roy = UserName::parse("roy").unwrap();
        let bad = |why| StoreError::BadRecord { user: roy.clone(), why };
        for error in [
            StoreError::Busy,
            StoreError::Failed("disk on fire".into()),
            bad(BadRecord::Field("hash")),
            bad(BadRecord::Hash(HashError::Cost(31))),
        ] {
            assert_eq!(decide(vec![Err(error)]), (Decision::Unavailable, 0));
        }
        let late = vec![Ok(Some(user("right"))), Err(StoreError::Busy)];
        assert_eq!(decide(late), (Decision::Unavailable, 1));
        assert_eq!(decide(Vec::new()), (Decision::Unavailable, 0), "a store that panics");
    }
}
