pub(super) mod interleavings;

use std::cell::RefCell;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::runtime::{Builder, Runtime};

use super::cache::CacheEntry;
use super::keyed::Key;
use super::verifier::{Attempt, CacheLookup, OutdatedHash, Verifier};
use super::*;
use crate::domain::{
    Account, BadRecord, Cost, Credentials, EncodedCredentials, HashError, LegacyHash, Password,
    PasswordHash, StoredHash, WrappedHash,
};
use crate::hashing::{self, BcryptKey};
use crate::store::contract::account;
use crate::store::mock::{Call, MockStore};
use crate::store::{StoreError, UserReader as _, UserStore as _, all};
use crate::time::Timestamp;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn credentials(password: &str) -> Credentials {
    Credentials { user: name(), password: (&Password::parse(password).unwrap()).into() }
}

/// Encodes credentials as a client does.
fn encode(password: &[u8]) -> String {
    STANDARD.encode([b"roy:", password].concat())
}

/// Makes a runtime for decisions, which limits their time.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn decide_on(authenticator: &Authenticator, encoded: &str) -> Decision {
    let encoded = EncodedCredentials::new(encoded.as_bytes());
    runtime().block_on(authenticator.decide(HERE, encoded, &AccessRequest::ANY))
}

fn name() -> UserName {
    UserName::parse("roy").unwrap()
}

fn granted() -> Decision {
    Decision::Granted(Arc::new(Grant {
        user: name(),
        groups: Arc::default(),
        credential_version: CredentialVersion::default(),
    }))
}

/// Returns the user roy with this password.
fn roy(password: &str) -> Account {
    let hash = hashing::hash(&Password::parse(password).unwrap(), cost(4)).unwrap();
    Account { hash: Ok(hash.into()), ..account("roy") }
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
    decide_on(authenticator, &encode(password.as_bytes()))
}

fn attempt(verifier: &Verifier, password: &str) -> Attempt {
    let credentials = credentials(password);
    let keys = verifier.candidate_keys(&credentials);
    Attempt { credentials, keys, source: Source::of(HERE), revision: None }
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

/// Makes a store whose look-ups wait until they may go on. Dropping both ends lets all of them go on.
fn held_store() -> (MockStore, Receiver<()>, Sender<()>) {
    let (looked, looks) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let (looked, may_go_on) = (Mutex::new(looked), Mutex::new(may_go_on));
    let store = MockStore::with_hook(move |call| {
        if call == Call::Find {
            // At later look-ups, the test has dropped its ends of the channels.
            let _ = looked.lock().unwrap().send(());
            let _ = may_go_on.lock().unwrap().recv();
        }
        Ok(())
    });
    (store, looks, go_on)
}

/// B-08: a client that disconnects while its hash is computed has used its attempt.
#[test]
fn abandoned_attempt_takes_no_hash_and_is_no_failure() {
    let (store, looks, go_on) = held_store();
    let config = AuthConfig {
        workers: NonZeroUsize::MIN,
        source_limit: Limit::new(3, Limit::MAX_PERIOD),
        ..config()
    };
    let authenticator = Authenticator::new(Box::new(store), &config).unwrap();
    let mut idle = Context::from_waker(Waker::noop());
    let runtime = runtime();
    let _entered = runtime.enter();
    let encoded = ["begun", "queued"].map(|password| encode(password.as_bytes()));
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
        assert_eq!(decide(&authenticator, password), granted(), "{password:?}");
    }
    // H-08: one for the octets, and one for their normalized form.
    assert_eq!(authenticator.counters().hashes, 2);
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
        assert_eq!(decide_on(&authenticator, encoded), Decision::Denied);
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
    let key = verifier.keyed.candidate(&name(), b"right");
    let now = Instant::now();
    let revision = verifier.store.revision(now).unwrap();
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
        hashing::is_hash_of(&user.hash, password) && user.hash.cost().get() == cost && user.locked
    };
    let attempt = attempt(&verifier, "right");
    let replace = |weak: &StoredHash| {
        let strong = hashing::hash(&Password::parse("right").unwrap(), cost(5)).unwrap();
        let outdated = OutdatedHash { attempt: &attempt, hash: weak.clone(), entry: None };
        verifier.replace(&outdated, strong.into()).unwrap()
    };
    let weak = put("right");
    assert!(replace(&weak));
    assert!(is("right", 5), "everything else is unchanged");
    // The hash changes while the stronger one is computed, also to a new hash of the same password.
    for password in ["another", "right"] {
        put(password);
        assert!(!replace(&weak));
        assert!(is(password, 4));
    }
    store.remove(&name());
    assert!(!replace(&weak));
    assert_eq!(verifier.store.find(&name()).unwrap(), None, "a removed user is not brought back");
}

/// B-06: also changes before the groups are read.
#[test]
fn change_during_the_hash_is_taken_into_account() {
    let user = roy("right");
    let locked = locked(user.clone());
    for lookup in [2, 3] {
        // Another server may have given the password another hash, so it is verified again.
        for (change, decision, hashes) in [
            (None, Decision::Denied, 1),
            (Some(locked.clone()), Decision::Denied, 1),
            (Some(roy("other")), Decision::Denied, 2),
            (Some(roy("right")), granted(), 2),
        ] {
            let what = format!("{lookup} {change:?}");
            let store = store_with(user.clone(), lookup, move |store| {
                match &change {
                    None => store.remove(&name()),
                    Some(user) => store.put(user.clone()),
                }
                Ok(())
            });
            let authenticator = on(&store);
            assert_eq!(decide(&authenticator, "right"), decision, "{what}");
            assert_eq!(authenticator.counters().hashes, hashes, "{what}");
        }
    }
}

/// F-05: a request waits for a reading if one is under way, or if the cache has its credentials. It
/// stops when the store is found unreachable.
#[test]
fn request_waits_for_a_reading_only_if_that_may_help() {
    // The answers of the store, the next one last. It is reachable after them.
    let answers = Arc::new(Mutex::new(Vec::<fn() -> StoreError>::new()));
    let waits = Arc::new(AtomicUsize::new(0));
    let of_hook = (Arc::clone(&answers), Arc::clone(&waits));
    let store = MockStore::with_hook(move |call| {
        let (answers, waits) = &of_hook;
        let mut answers = answers.lock().unwrap();
        if call == Call::NextRevision {
            waits.fetch_add(1, Ordering::Relaxed);
            answers.pop();
        }
        match answers.last() {
            Some(why) if call == Call::Revision => Err(why()),
            _ => Ok(()),
        }
    });
    store.put(roy("right"));
    let authenticator = on(&store);
    assert_eq!(decide(&authenticator, "right"), granted());
    let unreachable: fn() -> StoreError = || StoreError::Unreachable("frozen".to_owned());
    let lapsed: fn() -> StoreError = || StoreError::Lapsed;
    for (told, password, decision, waited) in [
        (&[unreachable][..], "wrong", Decision::Unavailable, 0),
        (&[unreachable], "right", granted(), 1),
        (&[unreachable; 3], "right", granted(), 3),
        (&[unreachable, lapsed], "right", Decision::Unavailable, 1),
        (&[lapsed], "wrong", Decision::Denied, 1),
        (&[lapsed], "right", granted(), 1),
        (&[lapsed, unreachable], "wrong", Decision::Unavailable, 1),
        (&[lapsed, unreachable], "right", granted(), 2),
        (&[lapsed, lapsed], "right", Decision::Unavailable, 1),
    ] {
        *answers.lock().unwrap() = told.iter().rev().copied().collect();
        waits.store(0, Ordering::Relaxed);
        let hashes = authenticator.counters().hashes;
        let what = format!("{:?} {password}", told.iter().map(|why| why()).collect::<Vec<_>>());
        assert_eq!(decide(&authenticator, password), decision, "{what}");
        assert_eq!(waits.load(Ordering::Relaxed), waited, "{what}");
        let hashed = u64::from(decision == Decision::Denied);
        assert_eq!(authenticator.counters().hashes - hashes, hashed, "{what}");
    }
}

/// P-18: a client gets a response also from a store that does not answer. Its connection would be
/// closed later.
#[test]
fn decision_is_unavailable_after_eight_seconds() {
    let (store, looks, go_on) = held_store();
    let authenticator = Authenticator::new(Box::new(store), &config()).unwrap();
    let clock = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    clock.block_on(async {
        let start = tokio::time::Instant::now();
        let encoded = encode(b"wrong");
        let encoded = EncodedCredentials::new(encoded.as_bytes());
        let decision = authenticator.decide(HERE, encoded, &AccessRequest::ANY).await;
        assert_eq!(decision, Decision::Unavailable);
        assert_eq!(start.elapsed().as_secs(), 8);
    });
    assert_eq!(count(&authenticator, "failure"), 1);
    drop((looks, go_on));
    assert_eq!(decide(&authenticator, "later"), Decision::Denied);
}

/// F-05: as many requests wait as may, and the next one is unavailable at once.
#[test]
fn waiters_are_bounded() {
    let waiters = AtomicUsize::new(0);
    let all: Vec<_> = (0..super::authenticator::MAX_WAITERS)
        .map(|_| super::authenticator::Waiter::enter(&waiters).unwrap())
        .collect();
    assert!(super::authenticator::Waiter::enter(&waiters).is_none());
    drop(all);
    assert_eq!(waiters.load(Ordering::Relaxed), 0);
}

/// F-06: a change of another user costs no look-up.
#[test]
fn record_is_read_again_only_if_its_user_has_changed() {
    let reads = Arc::new(AtomicUsize::new(0));
    let of_hook = Arc::clone(&reads);
    let store = MockStore::with_names(move |call| {
        if call == Call::FindWithGroups {
            of_hook.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    let ann = Account { name: UserName::parse("ann").unwrap(), ..roy("right") };
    store.put(roy("right"));
    let authenticator = on(&store);
    assert_eq!(decide(&authenticator, "right"), granted());
    let after = |change: &dyn Fn()| {
        change();
        store.visibility().wait().unwrap();
        let before = reads.load(Ordering::Relaxed);
        let decision = decide(&authenticator, "right");
        (decision, reads.load(Ordering::Relaxed) - before)
    };
    for _ in 0..2 {
        assert_eq!(after(&|| store.put(ann.clone())), (granted(), 0));
    }
    let other = Account { expires: Timestamp::from_seconds(9_000_000_000), ..roy("right") };
    let same = {
        let hash = store.find(&name()).unwrap().unwrap().hash;
        Account { hash: Ok(hash), ..other }
    };
    assert_eq!(after(&|| store.put(same.clone())), (granted(), 1));
    assert_eq!(after(&|| ()), (granted(), 0));
    assert_eq!(after(&|| store.remove(&name())), (Decision::Denied, 1));
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

/// Returns the user roy with a hash that covers these octets, as another program made it.
fn imported(octets: &[u8]) -> Account {
    let key = BcryptKey::of_octets(octets).unwrap();
    let hash = hashing::hash_all(&[key], cost(4)).unwrap().remove(0);
    Account { hash: Ok(hash.into()), ..roy("replaced") }
}

/// H-08: imported hashes cover the octets as they were typed.
#[test]
fn octets_are_tried_before_their_normalized_form() {
    let (decomposed, composed, latin1) = ("cafe\u{301}".as_bytes(), "caf\u{e9}", b"caf\xE9");
    for (stored, right, wrong) in [
        (decomposed, decomposed, composed.as_bytes()),
        (latin1, latin1, composed.as_bytes()),
        ("a\u{A0}b".as_bytes(), "a\u{A0}b".as_bytes(), b"a b".as_slice()),
    ] {
        let store = MockStore::default();
        store.put(imported(stored));
        let authenticator = on(&store);
        let decide = |octets| decide_on(&authenticator, &encode(octets));
        for _ in 0..2 {
            assert_eq!(decide(right), granted(), "{stored:?}");
            assert_eq!(decide(wrong), Decision::Denied, "{stored:?}");
        }
        assert_eq!(count(&authenticator, "cached"), 1, "an answer is not that of another spelling");
    }
    // A hash of this program covers the normalized form.
    let store = MockStore::default();
    store.put(roy(composed));
    for octets in [decomposed, composed.as_bytes(), latin1] {
        assert_eq!(decide_on(&on(&store), &encode(octets)), granted());
    }
}

/// H-08, H-12: also for unknown users, and for passwords that bcrypt does not read completely.
#[test]
fn number_of_hashes_depends_on_the_password_alone() {
    let long = "p".repeat(73);
    for (password, hashes) in
        [("wrong", 1), ("e\u{301}", 2), (&long, 1), (&"e\u{301}".repeat(40), 2)]
    {
        for user in [None, Some(roy("right")), Some(locked(roy("right")))] {
            let store = MockStore::default();
            user.into_iter().for_each(|user| store.put(user));
            let authenticator = on(&store);
            assert_eq!(decide(&authenticator, password), Decision::Denied);
            assert_eq!(authenticator.counters().hashes, hashes, "{password}");
        }
    }
}

/// C-02, B-08: bcrypt would grant it, since it ignores what is behind 72 bytes.
#[test]
fn password_over_72_bytes_is_refused_and_counts_as_a_failure() {
    let store = MockStore::default();
    store.put(roy(&"p".repeat(72)));
    let config = AuthConfig { source_limit: Limit::new(1, Limit::MAX_PERIOD), ..config() };
    let authenticator = Authenticator::new(Box::new(store), &config).unwrap();
    assert_eq!(decide(&authenticator, &"p".repeat(73)), Decision::Denied);
    assert_eq!(count(&authenticator, "too-long"), 1);
    assert!(matches!(decide(&authenticator, &"p".repeat(73)), Decision::Throttled { .. }));
}

/// Verifies attempts in one batch. Returns the indexes in the order of their outcomes.
fn verify(verifier: &Verifier, attempts: &[Attempt]) -> Vec<(usize, Outcome)> {
    let mut outcomes = Vec::new();
    let attempts: Vec<_> = attempts.iter().collect();
    verifier.verify(&attempts, |index, outcome| outcomes.push((index, outcome)));
    outcomes
}

fn of_user(user: &str, attempt: Attempt) -> Attempt {
    let user = UserName::parse(user).unwrap();
    Attempt { credentials: Credentials { user, ..attempt.credentials }, ..attempt }
}

/// H-11: other costs form batches of their own, the cheapest first.
#[test]
fn attempts_of_equal_cost_share_a_batch() {
    let store = MockStore::default();
    for (user, cost_of_hash) in [("ann", 5), ("bob", 4), ("cid", 5)] {
        let hash = hashing::hash(&Password::parse("right").unwrap(), cost(cost_of_hash)).unwrap();
        store.put(Account { hash: Ok(hash.into()), ..account(user) });
    }
    let mut verifier = Verifier::new(Box::new(store), &config()).unwrap();
    thread_local! { static BATCHES: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) } }
    verifier.hashes.compute = |pairs| {
        BATCHES.with_borrow_mut(|batches| batches.push(pairs.len()));
        hashing::verify_all(pairs)
    };
    let attempts = [("ann", "right"), ("bob", "right"), ("cid", "wrong"), ("eve", "right")]
        .map(|(user, password)| of_user(user, attempt(&verifier, password)));
    let outcomes = verify(&verifier, &attempts);
    let reasons =
        outcomes.iter().map(|(index, outcome)| (*index, Outcome::LABELS[outcome.index()].reason));
    let expected = [(1, "verified"), (3, "unknown-user"), (0, "verified"), (2, "wrong-password")];
    assert_eq!(reasons.collect::<Vec<_>>(), expected);
    assert_eq!(BATCHES.take(), [2, 2]);
}

/// P-18: a failure of one attempt is its own, unless it is one of hashing.
#[test]
fn failed_lookup_does_not_affect_the_batch() {
    let store = store_with(roy("right"), 1, |_| Err(StoreError::Busy));
    let verifier = Verifier::new(Box::new(store), &config()).unwrap();
    let attempts = [(); 3].map(|()| attempt(&verifier, "right"));
    let outcomes = verify(&verifier, &attempts);
    assert_eq!(outcomes[0], (0, Outcome::Unavailable));
    assert!(outcomes[1..].iter().all(|(_, outcome)| outcome.grant().is_some()), "{outcomes:?}");
    let mut verifier = Verifier::new(Box::new(MockStore::default()), &config()).unwrap();
    verifier.hashes.compute = |_| Err(hashing::HashingError::Panicked);
    assert_eq!(verify(&verifier, &attempts), [0, 1, 2].map(|index| (index, Outcome::Unavailable)));
}

/// P-18: a panic costs one batch, and each of its clients gets an answer.
#[test]
fn panic_makes_its_batch_unavailable() {
    let (looked, looks) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let (looked, may_go_on) = (Mutex::new(looked), Mutex::new(may_go_on));
    let lookups = Lookups::default();
    let store = MockStore::with_hook(move |call| {
        match lookups.note(call) {
            Some(1) => {
                looked.lock().unwrap().send(()).unwrap();
                may_go_on.lock().unwrap().recv().unwrap();
            }
            // The first one looks up twice. This is the second attempt of the batch behind it.
            Some(4) => panic!("on purpose"),
            _ => {}
        }
        Ok(())
    });
    let config = AuthConfig { workers: NonZeroUsize::MIN, ..config() };
    let authenticator = Authenticator::new(Box::new(store), &config).unwrap();
    let mut idle = Context::from_waker(Waker::noop());
    let runtime = runtime();
    let _entered = runtime.enter();
    let encoded = ["first", "one", "two", "three"].map(|password| encode(password.as_bytes()));
    let mut attempts = encoded.each_ref().map(|encoded| {
        let encoded = EncodedCredentials::new(encoded.as_bytes());
        Box::pin(authenticator.decide(HERE, encoded, &AccessRequest::ANY))
    });
    assert!(attempts[0].as_mut().poll(&mut idle).is_pending());
    looks.recv().unwrap();
    attempts[1..]
        .iter_mut()
        .for_each(|attempt| assert!(attempt.as_mut().poll(&mut idle).is_pending()));
    go_on.send(()).unwrap();
    let decisions = attempts.map(|attempt| runtime.block_on(attempt));
    let unavailable = Decision::Unavailable;
    assert_eq!(
        decisions,
        [Decision::Denied, unavailable.clone(), unavailable.clone(), unavailable]
    );
    assert_eq!(decide(&authenticator, "later"), Decision::Denied);
}

/// B-03, H-08: an attempt is coalesced with one of the same octets alone.
#[test]
fn spellings_do_not_share_an_attempt() {
    let (store, looks, go_on) = held_store();
    let config = AuthConfig { workers: NonZeroUsize::MIN, ..config() };
    let authenticator = Authenticator::new(Box::new(store), &config).unwrap();
    let mut idle = Context::from_waker(Waker::noop());
    let runtime = runtime();
    let _entered = runtime.enter();
    let spellings = ["busy", "\u{e9}", "e\u{301}", "e\u{301}", "\u{e9}"];
    let encoded = spellings.map(|password| encode(password.as_bytes()));
    let mut attempts: Vec<_> = encoded
        .iter()
        .map(|encoded| {
            let encoded = EncodedCredentials::new(encoded.as_bytes());
            Box::pin(authenticator.decide(HERE, encoded, &AccessRequest::ANY))
        })
        .collect();
    assert!(attempts[0].as_mut().poll(&mut idle).is_pending());
    looks.recv().unwrap();
    attempts.iter_mut().skip(1).for_each(|attempt| {
        assert!(attempt.as_mut().poll(&mut idle).is_pending());
    });
    assert_eq!(authenticator.queued(), 2);
    drop((looks, go_on));
    for attempt in attempts {
        assert_eq!(runtime.block_on(attempt), Decision::Denied);
    }
    assert_eq!(authenticator.counters().hashes, 1 + 1 + 2);
}

/// C-11: the next request needs no further hash.
#[test]
fn rehashed_password_stays_in_the_cache() {
    let store = MockStore::default();
    store.put(roy("right"));
    let config = AuthConfig { cost: cost(5), rehash: true, workers: NonZeroUsize::MIN, ..config() };
    let authenticator = Authenticator::new(Box::new(store.clone()), &config).unwrap();
    assert_eq!(decide(&authenticator, "right"), granted());
    // The worker replaces the hash before it takes the next attempt.
    assert_eq!(decide(&authenticator, "wrong"), Decision::Denied);
    assert_eq!(store.find(&name()).unwrap().unwrap().hash.cost(), cost(5));
    assert_eq!(decide(&authenticator, "right"), granted());
    assert_eq!(authenticator.counters().hashes, 2);
    assert_eq!(count(&authenticator, "cached"), 1);
}

/// Returns the user roy with an imported hash.
fn wrapped(legacy: &str) -> Account {
    let legacy = LegacyHash::parse(legacy).unwrap();
    let key = BcryptKey::of_legacy(&legacy);
    let bcrypt = hashing::hash_all(&[key], cost(4)).unwrap().remove(0);
    let imported = Timestamp::from_seconds(0).unwrap();
    let wrapped = Some(WrappedHash { params: legacy.params().clone(), imported });
    Account { hash: Ok(StoredHash { bcrypt, wrapped }), ..account("roy") }
}

/// `open-sesame` by `openssl passwd`, Apache's `htpasswd`, Python's hashlib and Perl's `crypt`.
const SESAME: [&str; 6] = [
    "$apr1$r31.....$Hm1OIgTN82PzLwE0zV.OK/",
    "$1$28772684$UKwa6G6ujOWr8LWclVweg1",
    "{SHA}piGucRdTwGb7+i3S1svNik60+fw=",
    "{SSHA}O+Oyukq0vnKtJlV8v2y8+/B3PldwZXBwZXIxMg==",
    "$5$saltstring$YMEFb732kZl0jCjPG5sl3fA/cc3yVEA9XjUgdVtTwUD",
    "$6$rounds=1000$saltstring$bXtjwWGhHv00QEFtV7pSDYAHSjHeOb4PkJhpsO558p6O6nPDZLduVOXR4RlGN3qwtFdC19Ci02mCKp4sXlq9b0",
];

fn hash_in(store: &MockStore) -> StoredHash {
    store.find(&name()).unwrap().unwrap().hash
}

/// An authenticator with one worker, which replaces a hash before it takes the next attempt.
fn with_one_worker(store: &MockStore, config: AuthConfig) -> Authenticator {
    let config = AuthConfig { workers: NonZeroUsize::MIN, ..config };
    Authenticator::new(Box::new(store.clone()), &config).unwrap()
}

/// H-01, H-04
#[test]
fn imported_hash_is_replaced_at_the_first_login() {
    for legacy in SESAME {
        let store = MockStore::default();
        let roy = wrapped(legacy);
        store.put(roy.clone());
        let authenticator = with_one_worker(&store, AuthConfig { cost: cost(5), ..config() });
        assert_eq!(decide(&authenticator, "wrong"), Decision::Denied);
        assert_eq!(hash_in(&store), roy.hash.clone().unwrap(), "{legacy}");
        assert_eq!(decide(&authenticator, "open-sesame"), granted(), "{legacy}");
        assert_eq!(decide(&authenticator, "wrong again"), Decision::Denied);
        let mut accounts = all(&store);
        let now = accounts.remove(0);
        let hash = now.hash.clone().unwrap();
        assert_eq!((hash.wrapped.is_none(), hash.cost()), (true, cost(5)));
        assert!(hashing::is_hash_of(&hash, "open-sesame"));
        assert_eq!(Account { hash: roy.hash.clone(), ..now }, roy, "everything else is unchanged");
        assert_eq!(decide(&authenticator, "open-sesame"), granted());
        assert_eq!(authenticator.counters().hashes, 3, "it is in the cache");
    }
}

#[test]
fn imported_hash_is_kept_without_upgrades() {
    let store = MockStore::default();
    store.put(wrapped(SESAME[0]));
    let authenticator = with_one_worker(&store, AuthConfig { upgrade: false, ..config() });
    let before = hash_in(&store);
    assert_eq!(decide(&authenticator, "open-sesame"), granted());
    assert_eq!(decide(&authenticator, "wrong"), Decision::Denied);
    assert_eq!(hash_in(&store), before);
    assert_eq!(decide(&authenticator, "open-sesame"), granted());
    assert_eq!(count(&authenticator, "cached"), 1);
}

/// H-04: also while the replacement is computed.
#[test]
fn imported_hash_that_was_changed_meanwhile_is_not_replaced() {
    for change in [roy("another"), wrapped(SESAME[1]), locked(wrapped(SESAME[0]))] {
        let mock: Arc<Mutex<Option<MockStore>>> = Arc::default();
        let (of_hook, account) = (Arc::clone(&mock), change.clone());
        let store = MockStore::with_hook(move |call| {
            // The only transaction is that of the upgrade.
            if call == Call::Begin {
                of_hook.lock().unwrap().as_ref().unwrap().put(account.clone());
            }
            Ok(())
        });
        *mock.lock().unwrap() = Some(store.clone());
        store.put(wrapped(SESAME[0]));
        let authenticator = with_one_worker(&store, config());
        assert_eq!(decide(&authenticator, "open-sesame"), granted());
        assert_eq!(decide(&authenticator, "wrong"), Decision::Denied);
        assert_eq!(all(&store), [change]);
    }
}

/// H-03
#[test]
fn digest_of_an_old_file_is_no_password() {
    let legacy = LegacyHash::parse(SESAME[0]).unwrap();
    let key = BcryptKey::of_legacy(&legacy);
    let (mark, base64) = key.octets().split_at(1);
    assert_eq!((mark, base64.len()), (&b"\x01"[..], 44));
    let of_file = legacy.canonical_text();
    let presented = [key.octets(), base64, of_file.as_bytes(), &of_file.as_bytes()[6..]];
    let user = wrapped(SESAME[0]);
    let hash = user.hash.clone().unwrap();
    let cleared = Account { hash: Ok(StoredHash { wrapped: None, ..hash }), ..user.clone() };
    for user in [user, cleared.clone()] {
        let store = MockStore::default();
        store.put(user);
        let authenticator = on(&store);
        for octets in presented {
            assert_eq!(decide_on(&authenticator, &encode(octets)), Decision::Denied);
        }
    }
    let store = MockStore::default();
    store.put(cleared);
    assert_eq!(decide(&on(&store), "open-sesame"), Decision::Denied);
}

/// H-07
#[test]
fn long_password_of_an_imported_hash_keeps_working() {
    for length in [73, 100, 1024] {
        let long = "p".repeat(length);
        let params = LegacyHash::parse(SESAME[0]).unwrap().params().clone();
        let store = MockStore::default();
        store.put(wrapped(&hashing::legacy_text(&params, long.as_bytes())));
        let before = hash_in(&store);
        let authenticator = with_one_worker(&store, config());
        assert_eq!(decide(&authenticator, &long[..72]), Decision::Denied);
        assert_eq!(decide(&authenticator, &long), granted(), "{length}");
        assert_eq!(decide(&authenticator, "wrong"), Decision::Denied);
        assert_eq!(hash_in(&store), before);
        assert_eq!(decide(&authenticator, &long), granted());
        assert_eq!(authenticator.counters().hashes, 3);
    }
}

/// H-01: the login succeeds, and so do the next ones.
#[test]
fn store_that_cannot_be_written_to_grants_all_the_same() {
    let begun = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&begun);
    let store = MockStore::with_hook(move |call| match call {
        Call::Begin => {
            counter.fetch_add(1, Ordering::SeqCst);
            Err(StoreError::failed("attempt to write a readonly database"))
        }
        _ => Ok(()),
    });
    store.put(wrapped(SESAME[0]));
    let before = hash_in(&store);
    let authenticator = with_one_worker(&store, config());
    for _ in 0..2 {
        assert_eq!(decide(&authenticator, "open-sesame"), granted());
        assert_eq!(decide(&authenticator, "wrong"), Decision::Denied);
    }
    assert_eq!((hash_in(&store), begun.load(Ordering::SeqCst)), (before, 1));
    assert_eq!(count(&authenticator, "cached"), 1);
}
