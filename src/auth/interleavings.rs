//! Every order in which a verification, a change, the lease and the cache can meet, tried one by one on the real
//! code: none of them grants after the change has returned.
//!
//! The threads run one at a time, from one step to the next; a step is a look at the store, at its revision
//! or at the cache. A schedule says who goes next at each step, and the next schedule differs from it at the last
//! step where somebody else could have gone.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Instant;

use super::*;
use crate::credential::Password;
use crate::store::{LEASE, Lease, Transaction};

thread_local! {
    static ACTOR: RefCell<Option<(usize, Arc<Stage>)>> = const { RefCell::new(None) };
}

/// Where an actor waits until it is its turn. Nobody else waits here.
pub(super) fn step() {
    let actor = ACTOR.with_borrow(Clone::clone);
    if let Some((actor, stage)) = actor {
        stage.wait(actor);
    }
}

/// Who waits for their turn, and whose it is.
#[derive(Default)]
struct Stage {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<usize>,
    turn: Option<usize>,
    ended: usize,
}

impl Stage {
    fn wait(&self, actor: usize) {
        let mut state = self.state.lock().unwrap();
        state.waiting.push(actor);
        self.changed.notify_all();
        while state.turn != Some(actor) {
            state = self.changed.wait(state).unwrap();
        }
        state.turn = None;
    }

    fn end(&self) {
        self.state.lock().unwrap().ended += 1;
        self.changed.notify_all();
    }

    /// Lets the actors go as the schedule says, and lengthens it where it ends. How many could have gone at
    /// each step.
    fn direct(&self, actors: usize, schedule: &mut Vec<usize>) -> Vec<usize> {
        let mut choices = Vec::new();
        let mut state = self.state.lock().unwrap();
        loop {
            while state.turn.is_some() || state.waiting.len() + state.ended < actors {
                state = self.changed.wait(state).unwrap();
            }
            if state.waiting.is_empty() {
                return choices;
            }
            state.waiting.sort_unstable();
            if schedule.len() == choices.len() {
                schedule.push(0);
            }
            let next = schedule[choices.len()];
            choices.push(state.waiting.len());
            state.turn = Some(state.waiting.remove(next));
            self.changed.notify_all();
        }
    }
}

/// Plays every schedule; how many there were.
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

/// The store as SQLite's is: a row, a revision that every change moves on, a lease, and a clock that stands still
/// but for those who wait.
struct Model {
    row: Mutex<(Option<User>, u64)>,
    lease: Lease,
    clock: Mutex<Instant>,
}

impl Model {
    fn change(&self, to: Option<User>) {
        step();
        {
            let mut row = self.row.lock().unwrap();
            *row = (to, row.1 + 1);
        }
        step();
        *self.clock.lock().unwrap() += LEASE;
    }
}

impl Store for Arc<Model> {
    fn find(&self, _: &UserName) -> Result<Option<User>, StoreError> {
        step();
        Ok(self.row.lock().unwrap().0.clone())
    }
    fn find_with_groups(&self, name: &UserName) -> Result<Option<(User, Arc<Groups>)>, StoreError> {
        Ok(self.find(name)?.map(|user| (user, Arc::default())))
    }
    fn revision(&self, _: Instant) -> Result<Revision, StoreError> {
        let now = *self.clock.lock().unwrap();
        step();
        if let Some(revision) = self.lease.current(now) {
            return Ok(revision);
        }
        step();
        self.lease.renew(now, || Ok(Revision(self.row.lock().unwrap().1)))
    }
    fn contains(&self, _: &UserName) -> Result<bool, StoreError> {
        unreachable!("the decision is made on the record")
    }
    fn is_empty(&self) -> Result<bool, StoreError> {
        unreachable!("the decision is made on the record")
    }
    fn each(&self, _: &mut dyn FnMut(Account) -> ControlFlow<()>) -> Result<(), StoreError> {
        unreachable!("the decision changes nothing")
    }
    fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        unreachable!("the decision changes nothing")
    }
}

fn shown(password: &str) -> Credentials {
    Credentials {
        user: UserName::parse("roy").unwrap(),
        password: Password::parse(password).unwrap(),
    }
}

const OLD: &str = "$2y$04$abcdefghijklmnopqrstuu5s2v8.iXieOjg/.AySBTTZIIVFJeBui";
const NEW: &str = "$2y$04$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

fn user(hash: &str) -> User {
    User { hash: PasswordHash::parse(hash).unwrap(), locked: false, expires: None }
}

/// Quicker than bcrypt: `old` is right for one hash, and `new` for the other one.
fn quickly(password: &Password, hash: &PasswordHash) -> Result<bool, bcrypt::BcryptError> {
    Ok(hash.as_str() == if password.reveal() == "old" { OLD } else { NEW })
}

/// The way of a request, without the queue.
fn request(verifier: &Verifier, password: &str) -> bool {
    let shown = shown(password);
    let key = verifier.keyed.credentials(&shown);
    let source = Source::of(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let now = Instant::now();
    let revision = verifier.revision(now);
    revision.is_some_and(|revision| verifier.recall(&key, source, revision, now).is_some())
        || matches!(verifier.verify(&key, &shown, source, revision).0, Verdict::Verified(_))
}

/// What is known when it begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    Unknown,
    /// The old password was verified, at the current revision.
    Remembered,
    /// It was, and somebody else was changed since.
    Outdated,
}

/// One who shows the old password, and one who changes something and then tries it.
fn play(start: Start, change: &Option<User>, schedule: &mut Vec<usize>) -> Vec<usize> {
    let model = Arc::new(Model {
        row: Mutex::new((Some(user(OLD)), 0)),
        lease: Lease::new(),
        clock: Mutex::new(Instant::now()),
    });
    let mut verifier = Verifier::new(Box::new(Arc::clone(&model)), &Settings::default()).unwrap();
    verifier.hashes.compute = quickly;
    if start != Start::Unknown {
        assert!(request(&verifier, "old"));
    }
    if start == Start::Outdated {
        model.change(Some(user(OLD)));
    }
    let stage = Arc::new(Stage::default());
    let enter = |actor| ACTOR.set(Some((actor, Arc::clone(&stage))));
    let mut choices = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            enter(0);
            request(&verifier, "old");
            stage.end();
        });
        let changer = scope.spawn(|| {
            enter(1);
            model.change(change.clone());
            let granted = request(&verifier, "old");
            stage.end();
            granted
        });
        choices = stage.direct(2, schedule);
        assert!(!changer.join().unwrap(), "granted after the change had returned: {schedule:?}");
    });
    assert!(!request(&verifier, "old"), "granted in the end: {schedule:?}");
    let new = change.as_ref().is_some_and(|user| user.hash.as_str() == NEW);
    assert_eq!(request(&verifier, "new"), new, "the new password: {schedule:?}");
    choices
}

/// B-06
#[test]
fn no_interleaving_grants_after_the_change_has_returned() {
    let locked = User { locked: true, ..user(OLD) };
    let expired = User { expires: Moment::from_seconds(0), ..user(OLD) };
    for change in [None, Some(user(NEW)), Some(locked), Some(expired)] {
        for start in [Start::Unknown, Start::Remembered, Start::Outdated] {
            if start == Start::Outdated && change.is_some() {
                continue; // what differs by the change was seen, and these are many
            }
            let played = play_all(|schedule| play(start, &change, schedule));
            assert!(played > 20, "{played} are too few to be all");
        }
    }
}
