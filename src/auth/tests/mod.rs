pub(super) mod interleavings;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_executor::block_on;

use super::cache::CacheEntry;
use super::verifier::Verifier;
use super::*;
use crate::domain::{
    Account, BadRecord, Cost, Credentials, EncodedCredentials, HashError, Password, PasswordHash,
};
use crate::hashing;
use crate::store::contract::account;
use crate::store::mock::{Call, MockStore};
use crate::store::{StoreError, UserStore as _};
use crate::time::Timestamp;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn credentials(password: &str) -> Credentials {
    Credentials { user: name(), password: Password::parse(password).unwrap() }
}

fn name() -> UserName {
    UserName::parse("roy").unwrap()
}

fn granted() -> Decision {
    Decision::Granted(Arc::new(Grant { user: name(), groups: Arc::default() }))
}

/// Returns the user roy with this password.
fn roy(password: &str) -> Account {
    let hash = hashing::hash(&Password::parse(password).unwrap(), cost(4)).unwrap();
    Account { hash: Ok(hash), ..account("roy") }
}

fn locked(roy: Account) -> Account {
    Account { locked: true, ..roy }
}

fn expired(roy: Account) -> Account {
    Account { expires: Timestamp::from_seconds(0), ..roy }
}

fn cost(cost: u8) -> Cost {
    Cost::new(cost).unwrap()
}

fn config() -> AuthConfig {
    AuthConfig { cost: cost(4), ..AuthConfig::default() }
}

fn on(store: &MockStore) -> Authenticator {
    Authenticator::new(Box::new(store.clone()), &config()).unwrap()
}

fn decide(authenticator: &Authenticator, password: &str) -> Decision {
    let encoded = credentials(password).encode();
    let encoded = EncodedCredentials::new(encoded.as_bytes());
    block_on(authenticator.decide(HERE, encoded, &AccessRequest::ANY))
}

/// Returns the counter of an outcome.
fn count(authenticator: &Authenticator, reason: &str) -> u64 {
    authenticator.counters().outcome(reason).unwrap()
}

/// A counter of the look-ups of a user, for a hook.
#[derive(Clone, Default)]
struct Lookups(Arc<AtomicUsize>);

impl Lookups {
    /// Counts a call. Returns the number of the look-up, from 1 on, if it is one.
    fn note(&self, call: Call) -> Option<usize> {
        let is_lookup = matches!(call, Call::Find | Call::FindWithGroups);
        is_lookup.then(|| self.0.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

/// Makes a store with a user, which fails or changes at a look-up.
fn store_with(
    user: Account,
    at: usize,
    what: impl Fn(&MockStore) -> Result<(), StoreError> + Send + Sync + 'static,
) -> MockStore {
    let lookups = Lookups::default();
    let slot: Arc<Mutex<Option<MockStore>>> = Arc::default();
    let of_hook = Arc::clone(&slot);
    let store = MockStore::with_hook(move |call| match lookups.note(call) {
        Some(n) if n == at => {
            let store = of_hook.lock().unwrap().clone();
            store.map_or(Ok(()), |store| what(&store))
        }
        _ => Ok(()),
    });
    store.put(user);
    *slot.lock().unwrap() = Some(store.clone());
    store
}

/// no refusal takes a look-up that another one does not take, and none reads groups.
#[test]
fn every_refusal_takes_the_same_lookups() {
    let calls = |user: Option<Account>, password: &str| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let of_hook = Arc::clone(&seen);
        let store = MockStore::with_hook(move |call| {
            of_hook.lock().unwrap().push(call);
            Ok(())
        });
        user.into_iter().for_each(|user| store.put(user));
        let authenticator = on(&store);
        let decision = decide(&authenticator, password);
        assert_eq!(authenticator.counters().hashes, 1);
        let mut seen = seen.lock().unwrap().clone();
        seen.retain(|call| !matches!(call, Call::Revision | Call::ReadRevision));
        (decision, seen)
    };
    let refused = (Decision::Denied, vec![Call::Find, Call::Find]);
    for user in [None, Some(locked(roy("right"))), Some(expired(roy("right")))] {
        for password in ["right", "wrong"] {
            assert_eq!(calls(user.clone(), password), refused, "{user:?} {password}");
        }
    }
    assert_eq!(calls(Some(roy("right")), "wrong"), refused);
    let grant = (granted(), vec![Call::Find, Call::Find, Call::FindWithGroups]);
    assert_eq!(calls(Some(roy("right")), "right"), grant);
}

#[test]
fn right_password_is_granted_and_wrong_one_denied() {
    let store = MockStore::default();
    store.put(roy("right"));
    let authenticator = on(&store);
    assert_eq!(decide(&authenticator, "right"), granted());
    assert_eq!(decide(&authenticator, "wrong"), Decision::Denied);
    assert_eq!(authenticator.counters().hashes, 2);
}

/// B-01: the same work, so the same time.
#[test]
fn unknown_user_takes_one_hash_at_the_configured_cost() {
    let authenticator = on(&MockStore::default());
    assert_eq!(decide(&authenticator, "right"), Decision::Denied);
    assert_eq!(authenticator.counters().hashes, 1);
    for n in [4, 7] {
        let config = AuthConfig { cost: cost(n), ..config() };
        let authenticator = Authenticator::new(Box::new(MockStore::default()), &config).unwrap();
        assert_eq!(authenticator.verifier().dummy.cost(), cost(n));
    }
}

/// P-09: refusing them takes as long as refusing any user.
#[test]
fn locked_and_expired_users_are_denied_after_a_hash() {
    for user in [locked(roy("right")), expired(roy("right"))] {
        let store = MockStore::default();
        store.put(user);
        let authenticator = on(&store);
        assert_eq!(decide(&authenticator, "right"), Decision::Denied);
        assert_eq!(authenticator.counters().hashes, 1);
    }
}

#[test]
fn user_may_log_in_until_the_second_of_expiry() {
    use std::time::SystemTime;
    let roy = Account { expires: Timestamp::from_seconds(1000), ..roy("right") };
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    assert!(!roy.has_expired(end - Duration::from_nanos(1)));
    assert!(roy.has_expired(end));
}

/// B-08: a client that disconnects while its hash is computed has used its attempt.
#[test]
fn abandoned_attempt_takes_no_hash_and_is_no_failure() {
    let (looked, looks) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let (looked, may_go_on) = (Mutex::new(looked), Mutex::new(may_go_on));
    // The first look-up waits until it may go on.
    let store = MockStore::with_hook(move |call| {
        if call == Call::Find {
            // At later look-ups, the test has dropped its ends of the channels.
            let _ = looked.lock().unwrap().send(());
            let _ = may_go_on.lock().unwrap().recv();
        }
        Ok(())
    });
    let config = AuthConfig {
        workers: NonZeroUsize::MIN,
        source_limit: Limit::new(3, Limit::MAX_PERIOD),
        ..config()
    };
    let authenticator = Authenticator::new(Box::new(store), &config).unwrap();
    let mut idle = Context::from_waker(Waker::noop());
    let encoded = ["begun", "queued"].map(|password| credentials(password).encode());
    let [mut begun, mut queued] = encoded.each_ref().map(|encoded| {
        let encoded = EncodedCredentials::new(encoded.as_bytes());
        Box::pin(authenticator.decide(HERE, encoded, &AccessRequest::ANY))
    });
    assert!(begun.as_mut().poll(&mut idle).is_pending());
    looks.recv().unwrap();
    assert!(queued.as_mut().poll(&mut idle).is_pending());
    drop((begun, queued));
    drop((looks, go_on));
    // This attempt runs after the one that had begun and the one that was skipped.
    assert_eq!(decide(&authenticator, "third"), Decision::Denied);
    assert_eq!(authenticator.counters().hashes, 2);
    assert_eq!(decide(&authenticator, "fourth"), Decision::Denied);
    let fifth = decide(&authenticator, "fifth");
    assert!(matches!(fifth, Decision::Throttled { .. }), "{fifth:?}");
}

/// P-18: no client waits forever, none is granted, and cached users are not affected.
#[test]
fn without_workers_only_cached_credentials_are_granted() {
    let store = MockStore::default();
    store.put(roy("right"));
    let authenticator = on(&store);
    assert_eq!(decide(&authenticator, "right"), granted());
    authenticator.workers().finish();
    for _ in 0..20 {
        assert_eq!(decide(&authenticator, "wrong"), Decision::Unavailable);
    }
    assert_eq!(decide(&authenticator, "right"), granted());
    let counts = ["cached", "failure", "too-many-failures"].map(|of| count(&authenticator, of));
    assert_eq!(counts, [1, 20, 0]);
    assert_eq!(authenticator.queued(), 0, "no attempt stays in the queue");
}

/// B-05: a client cannot fill the cache with the spellings of one password.
#[test]
fn spellings_of_a_password_share_one_cache_entry() {
    let store = MockStore::default();
    store.put(roy("\u{e9}"));
    let authenticator = on(&store);
    for password in ["e\u{301}", "\u{e9}", "e\u{301}"] {
        let encoded = STANDARD.encode(format!("roy:{password}"));
        let encoded = EncodedCredentials::new(encoded.as_bytes());
        let decision = block_on(authenticator.decide(HERE, encoded, &AccessRequest::ANY));
        assert_eq!(decision, granted(), "{password:?}");
    }
    assert_eq!(authenticator.counters().hashes, 1);
    assert_eq!(["verified", "cached"].map(|of| count(&authenticator, of)), [1, 2]);
    assert_eq!(authenticator.verifier().cache().len(), 1);
}

/// P-03
#[test]
fn malformed_credentials_are_denied_without_a_lookup() {
    let store = MockStore::with_hook(|call| match call {
        Call::Revision | Call::ReadRevision => Ok(()),
        other => panic!("{other:?}"),
    });
    let authenticator = on(&store);
    for (encoded, reason) in [
        ("", "no-colon"),
        ("cm95OnJpZ2h0=", "not-base64"),
        ("cm95", "no-colon"),
        ("cm95OnJpZ2h", "not-base64"),
        ("cm95Og==", "empty-password"),
        ("OnJpZ2h0", "name-not-allowed"),
        ("\u{e9}", "not-base64"),
    ] {
        let before = count(&authenticator, reason);
        let encoded = EncodedCredentials::new(encoded.as_bytes());
        let decision = block_on(authenticator.decide(HERE, encoded, &AccessRequest::ANY));
        assert_eq!(decision, Decision::Denied);
        assert_eq!(count(&authenticator, reason), before + 1);
    }
}

/// B-06: also if only the time has changed, and not the store.
#[test]
fn user_that_expires_while_cached_is_read_again() {
    let end = Timestamp::from_seconds(1);
    let store = MockStore::default();
    let user = roy("right");
    store.put(user.clone());
    let authenticator = on(&store);
    assert_eq!(decide(&authenticator, "right"), granted());
    // The record as read before the expiry, with the current revision of the store.
    store.put(Account { expires: end, ..user });
    store.visibility().wait().unwrap();
    let verifier = authenticator.verifier();
    let key = verifier.keyed.credentials(&credentials("right"));
    let now = Instant::now();
    let revision = verifier.revision(now).unwrap();
    let entry = verifier.cache().get(&key, now).unwrap();
    verifier.cache().insert(key, CacheEntry { expires: end, revision, ..entry }, now);
    assert_eq!(decide(&authenticator, "right"), Decision::Denied);
    assert_eq!(count(&authenticator, "expired"), 1);
}

/// C-11
#[test]
fn rehash_replaces_only_the_hash_that_the_password_matched() {
    let store = MockStore::default();
    let config = AuthConfig { cost: cost(5), ..config() };
    let verifier = Verifier::new(Box::new(store.clone()), &config).unwrap();
    let put = |password: &str| {
        let user = locked(roy(password));
        store.put(user.clone());
        user.hash.unwrap()
    };
    let is = |password: &str, cost: u8| {
        let user = verifier.store.find(&name()).unwrap().unwrap();
        let right = hashing::verify(&credentials(password).password, &user.hash).unwrap();
        right && user.hash.cost().get() == cost && user.locked
    };
    let weak = put("right");
    assert!(verifier.try_to_rehash(&credentials("right"), &weak).unwrap());
    assert!(is("right", 5), "everything else is unchanged");
    // The hash changes while the stronger one is computed, also to a new hash of the same password.
    for password in ["another", "right"] {
        put(password);
        assert!(!verifier.try_to_rehash(&credentials("right"), &weak).unwrap());
        assert!(is(password, 4));
    }
    store.remove(&name());
    assert!(!verifier.try_to_rehash(&credentials("right"), &weak).unwrap());
    assert_eq!(verifier.store.find(&name()).unwrap(), None, "a removed user is not brought back");
}

/// B-06: also changes before the groups are read.
#[test]
fn change_during_the_hash_is_taken_into_account() {
    let user = roy("right");
    let other_salt = roy("right");
    for lookup in [2, 3] {
        for change in [None, Some(locked(user.clone())), Some(other_salt.clone())] {
            let what = format!("{lookup} {change:?}");
            let store = store_with(user.clone(), lookup, move |store| {
                match &change {
                    None => store.remove(&name()),
                    Some(user) => store.put(user.clone()),
                }
                Ok(())
            });
            let authenticator = on(&store);
            assert_eq!(decide(&authenticator, "right"), Decision::Denied, "{what}");
            assert_eq!(authenticator.counters().hashes, 1);
        }
    }
}

/// P-18, C-06, C-07
#[test]
fn no_failure_becomes_a_grant_and_a_bad_record_takes_no_hash() {
    let errors: [fn() -> StoreError; 4] = [
        || StoreError::Busy,
        || StoreError::failed("disk on fire"),
        || StoreError::BadRecord { user: name(), why: BadRecord::Field("hash") },
        || StoreError::BadRecord { user: name(), why: BadRecord::Hash(HashError::Cost(31)) },
    ];
    for error in errors {
        for (lookup, hashes) in [(1, 0), (2, 1), (3, 1)] {
            let authenticator = on(&store_with(roy("right"), lookup, move |_| Err(error())));
            assert_eq!(decide(&authenticator, "right"), Decision::Unavailable, "{lookup}");
            assert_eq!(authenticator.counters().hashes, hashes);
        }
    }
    let panics = on(&store_with(roy("right"), 1, |_| panic!("on purpose")));
    assert_eq!(decide(&panics, "right"), Decision::Unavailable);
    assert_eq!(panics.counters().hashes, 0);
}
