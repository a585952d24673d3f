//! Plays every interleaving of a login attempt, a change, the lease and the cache on the real code.
//! No interleaving grants the old password after the command has returned.
//!
//! The threads run one at a time, from step to step. A step is a call of the store or of the cache.
//! A schedule chooses the next thread at each step. The next schedule differs at the last step that
//! had another choice.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use futures_executor::block_on;

use super::*;
use crate::admin::{
    DesiredPassword, DesiredUser, IfExists, IfGone, IfMissing, ReconcileOptions, reconcile, remove,
};
use crate::hashing::{BcryptKey, HashingError};
use crate::store::contract::add;

thread_local! {
    static ACTOR: RefCell<Option<(usize, Arc<Stage>)>> = const { RefCell::new(None) };
}

/// Waits until it is the turn of the calling actor. Other threads do not wait.
pub(in crate::auth) fn step() {
    let actor = ACTOR.with_borrow(Clone::clone);
    if let Some((actor, stage)) = actor {
        stage.wait(actor);
    }
}

/// The actors of one schedule. The actor that leaves all remaining actors waiting chooses the next
/// one.
struct Stage {
    state: Mutex<State>,
    turns: [Condvar; ACTORS],
}

const ACTORS: usize = 2;

struct State {
    /// The choices to make. Each further step appends its first choice.
    schedule: Vec<usize>,
    /// The number of choices at each step so far.
    choices: Vec<usize>,
    acting: usize,
    waiting: Vec<usize>,
    turn: Option<usize>,
}

impl Stage {
    fn new(schedule: &[usize]) -> Self {
        let schedule = schedule.to_owned();
        let (choices, waiting) = (Vec::new(), Vec::new());
        let state = State { schedule, choices, acting: ACTORS, waiting, turn: None };
        Self { state: Mutex::new(state), turns: Default::default() }
    }

    fn wait(&self, actor: usize) {
        let mut state = self.state.lock().unwrap();
        state.waiting.push(actor);
        self.choose(&mut state);
        while state.turn != Some(actor) {
            state = self.turns[actor].wait(state).unwrap();
        }
        state.turn = None;
    }

    fn end(&self) {
        let mut state = self.state.lock().unwrap();
        state.acting -= 1;
        self.choose(&mut state);
    }

    fn choose(&self, state: &mut State) {
        if state.waiting.is_empty() || state.waiting.len() < state.acting {
            return;
        }
        state.waiting.sort_unstable();
        let step = state.choices.len();
        if state.schedule.len() == step {
            state.schedule.push(0);
        }
        state.choices.push(state.waiting.len());
        let next = state.waiting.remove(state.schedule[step]);
        state.turn = Some(next);
        self.turns[next].notify_one();
    }

    /// Returns the schedule that was played, and the number of choices at each step.
    fn played(&self) -> (Vec<usize>, Vec<usize>) {
        let state = self.state.lock().unwrap();
        (state.schedule.clone(), state.choices.clone())
    }
}

/// Plays every schedule. Returns their number.
fn play_all(mut play: impl FnMut(&mut Vec<usize>) -> Vec<usize>) -> usize {
    let mut schedule = Vec::new();
    for played in 1.. {
        let choices = play(&mut schedule);
        let last = (0..choices.len()).rfind(|&n| schedule[n] + 1 < choices[n]);
        let Some(last) = last else { return played };
        schedule.truncate(last + 1);
        schedule[last] += 1;
    }
    unreachable!("the schedules end")
}

const OLD: &str = "$2y$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui";
const NEW: &str = "$2y$04$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

fn with_hash(hash: &str) -> Account {
    Account { hash: Ok(PasswordHash::parse(hash).unwrap().into()), ..account("roy") }
}

/// Replaces bcrypt, which is slower. The password `old` matches one hash, and any other password
/// matches the other one.
fn quickly(pairs: &[(BcryptKey, &PasswordHash)]) -> Result<Vec<bool>, HashingError> {
    let matches = |(key, hash): &(BcryptKey, &PasswordHash)| {
        hash.as_str() == if key.octets() == b"old" { OLD } else { NEW }
    };
    Ok(pairs.iter().map(matches).collect())
}

/// Runs a request without the queue. Returns true if it is granted.
fn request(verifier: &Verifier, password: &str) -> bool {
    let credentials = credentials(password);
    let keys = verifier.candidate_keys(&credentials);
    let source = Source::of(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let now = Instant::now();
    let revision = verifier.store.revision(now).ok();
    let lookup = |key: &Key| match verifier.lookup_cache(key, source, revision?, now) {
        CacheLookup::Hit(grant) => Some(grant),
        CacheLookup::Miss => None,
        CacheLookup::Outdated(entry) => block_on(verifier.refresh(key, *entry, revision?, now)),
    };
    if keys.iter().find_map(lookup).is_some() {
        return true;
    }
    let mut granted = false;
    let attempt = Attempt { credentials, keys, source, revision };
    verifier.verify(&[&attempt], |_, outcome| granted = outcome.grant().is_some());
    granted
}

/// The state of the cache before the actors begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Start {
    Unknown,
    /// The old password is cached at the current revision.
    Cached,
    /// The old password is cached, and another user was changed since.
    Outdated,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Remove,
    NewHash,
    Lock,
    Expire,
}

impl Change {
    /// Changes roy by the code of the commands.
    fn run(self, store: &MockStore) {
        let keep = || DesiredUser::new(name(), DesiredPassword::Keep);
        let now = Timestamp::now();
        let desired = match self {
            // The test checks the state after the command has returned, not its result.
            Self::Remove => return drop(remove(store, &[name()], IfGone::Refuse)),
            Self::NewHash => {
                let hash = PasswordHash::parse(NEW).unwrap();
                DesiredUser::new(name(), DesiredPassword::Hash(hash.into()))
            }
            Self::Lock => DesiredUser { locked: Some(true), ..keep() },
            Self::Expire => DesiredUser { expires: Some(Timestamp::from_seconds(0)), ..keep() },
        };
        let options = ReconcileOptions::new(IfMissing::Refuse, IfExists::Replace);
        drop(reconcile(store, &[desired], &options, now, &|_, _| {}));
    }

    /// Makes the same change in one step, like another process that commits and does not wait.
    fn commit_without_wait(self, store: &MockStore) {
        step();
        match self {
            Self::Remove => store.remove(&name()),
            Self::NewHash => store.put(with_hash(NEW)),
            Self::Lock => store.put(locked(with_hash(OLD))),
            Self::Expire => store.put(expired(with_hash(OLD))),
        }
    }
}

/// The end of the transaction of the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Committed,
    /// The command finds nothing to change, since another process has just committed the same
    /// change.
    NoOp,
    /// The commit takes effect, but the command gets an error.
    UnknownOutcome,
}

/// Makes a store that takes a step at the relevant calls.
fn store(end: End, waits: bool, knows_names: bool) -> MockStore {
    let hook = move |call| {
        let acts = ACTOR.with_borrow(Option::is_some);
        match call {
            Call::Find | Call::FindWithGroups | Call::Revision | Call::ReadRevision => step(),
            Call::Commit | Call::Wait => step(),
            _ => {}
        }
        match call {
            Call::Wait if acts && !waits => Err(StoreError::failed("dropped")),
            Call::Committed if acts && end == End::UnknownOutcome => {
                Err(StoreError::failed("connection lost"))
            }
            _ => Ok(()),
        }
    };
    let store = match knows_names {
        true => MockStore::with_names(hook),
        false => MockStore::with_still_clock(hook),
    };
    store.put(with_hash(OLD));
    store
}

/// Plays one schedule. One actor uses the old password. The other one runs a command, and then uses
/// the old password. Returns the choices, and true if the request after the command was granted.
fn play(
    start: Start,
    change: Change,
    end: End,
    waits: bool,
    knows_names: bool,
    schedule: &mut Vec<usize>,
) -> (Vec<usize>, bool) {
    let store = store(end, waits, knows_names);
    // The tables are small, because they are made for every schedule.
    let config = AuthConfig {
        cache_entries: 4,
        source_limit: None,
        user_limit: None,
        ..AuthConfig::default()
    };
    let mut verifier = Verifier::new(Box::new(store.clone()), &config).unwrap();
    verifier.hashes.compute = quickly;
    if start != Start::Unknown {
        assert!(request(&verifier, "old"));
    }
    if start == Start::Outdated {
        add(&store, "ann").unwrap();
    }
    let stage = Arc::new(Stage::new(schedule));
    let enter = |actor| ACTOR.set(Some((actor, Arc::clone(&stage))));
    let granted = thread::scope(|scope| {
        scope.spawn(|| {
            enter(0);
            request(&verifier, "old");
            stage.end();
        });
        let command = scope.spawn(|| {
            enter(1);
            if end == End::NoOp {
                change.commit_without_wait(&store);
            }
            change.run(&store);
            let granted = request(&verifier, "old");
            stage.end();
            granted
        });
        command.join().unwrap()
    });
    let choices;
    (*schedule, choices) = stage.played();
    if waits {
        assert!(!request(&verifier, "old"), "granted in the end: {schedule:?}");
        let new = change == Change::NewHash;
        assert_eq!(request(&verifier, "new"), new, "the new password: {schedule:?}");
    }
    (choices, granted)
}

/// B-06
#[test]
fn no_interleaving_grants_after_the_command_has_returned() {
    let changes = [Change::Remove, Change::NewHash, Change::Lock, Change::Expire];
    let committed = changes.into_iter().flat_map(|change| {
        [Start::Unknown, Start::Cached].map(|start| (start, change, End::Committed))
    });
    let others = [
        (Start::Outdated, Change::Remove, End::Committed),
        (Start::Cached, Change::Remove, End::NoOp),
        (Start::Cached, Change::Lock, End::NoOp),
        (Start::Cached, Change::Remove, End::UnknownOutcome),
        (Start::Cached, Change::Lock, End::UnknownOutcome),
    ];
    let cases = committed.chain(others).map(|(start, change, end)| (start, change, end, false));
    // The model of the lease explores more of a store that knows names.
    let with_names = (Start::Cached, Change::Remove, End::Committed, true);
    for (start, change, end, names) in cases.chain([with_names]) {
        let played = play_all(|schedule| {
            let (choices, granted) = play(start, change, end, true, names, schedule);
            assert!(!granted, "{start:?}, {change:?}, {end:?}, {names}: {schedule:?}");
            choices
        });
        assert!(played > 20, "{played} are too few to be all");
    }
}

/// B-06: the test above would detect a command that returns without the wait.
#[test]
fn without_the_wait_some_interleaving_grants() {
    for end in [End::Committed, End::NoOp, End::UnknownOutcome] {
        for change in [Change::Remove, Change::Lock] {
            let mut seen = false;
            play_all(|schedule| {
                let (choices, granted) = play(Start::Cached, change, end, false, false, schedule);
                seen |= granted;
                // One granted request is enough.
                if granted { Vec::new() } else { choices }
            });
            assert!(seen, "{end:?}, {change:?}");
        }
    }
}
