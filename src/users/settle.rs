//! Brings users to the state that somebody wants: all of them or none.
//!
//! It is planned and done within one transaction. What takes long, the hashes, is computed between two of them and kept in mind, and the
//! plan is made anew, until nothing is left to compute: so nobody waits for hashes who wants to write, and what others
//! change meanwhile counts. This file knows neither where passwords come from nor who is told of what was done.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::auth::hash;
use crate::credential::{Cost, GroupName, Groups, Password, PasswordHash, TooManyGroups, UserName};
use crate::moment::Moment;
use crate::store::{Account, Store, StoreError, Transaction};

/// What one user is to be.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Whose this is.
    pub name: UserName,
    /// What their password is to be.
    pub secret: Secret,
    /// What groups they are to be in.
    pub groups: Edit,
    /// Whether they are to be refused; `None` leaves that as it is.
    pub locked: Option<bool>,
    /// From when on they are to be refused; `None` leaves that as it is.
    pub expires: Option<Option<Moment>>,
    /// Another name.
    pub rename: Option<UserName>,
    /// When they were added and changed, if that was not just now.
    pub times: Option<(Moment, Moment)>,
}

impl Wanted {
    /// A user of whom nothing is said but the password.
    #[must_use]
    pub fn new(name: UserName, secret: Secret) -> Self {
        let groups = Edit::Keep;
        Self { name, secret, groups, locked: None, expires: None, rename: None, times: None }
    }
}

/// What a password is to be.
#[derive(Clone, Debug)]
pub enum Secret {
    /// What it is.
    Keep,
    /// This one.
    Password(Password),
    /// This one, if the user is new; otherwise what it is.
    ForNew(Password),
    /// One that has this hash.
    Hash(PasswordHash),
}

/// What is to become of somebody's groups.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Edit {
    Keep,
    Set(Groups),
    Join(Groups),
    Leave(Groups),
}

/// What to do with a user who is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Missing {
    Refuse,
    Add,
}

/// What to do with a user who is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// It is an error.
    Refuse,
    /// Nothing.
    Leave,
    /// A password gets a new hash.
    Replace,
    /// A password that is right already keeps its hash.
    Compare,
}

/// How users are brought to what they are to be.
#[derive(Clone, Debug)]
pub struct Rule {
    /// For users who are not there.
    pub missing: Missing,
    /// For users who are.
    pub existing: Existing,
    /// Whether users are removed of whom nothing is said.
    pub prune: bool,
    /// Whether all of it is only tried.
    pub dry_run: bool,
    /// What new hashes cost.
    pub cost: Cost,
    /// How many hashes are computed at once.
    pub threads: NonZeroUsize,
}

impl Rule {
    /// This for those who are not there and that for those who are; with all cores, and for good.
    #[must_use]
    pub fn new(missing: Missing, existing: Existing, cost: Cost) -> Self {
        let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self { missing, existing, prune: false, dry_run: false, cost, threads }
    }
}

/// What was done to one user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Their name, from before.
    pub name: UserName,
    /// In one word.
    pub outcome: Outcome,
    /// And in detail; of a new user, what is not usual.
    pub differences: Vec<Difference>,
}

/// What became of a user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Outcome {
    Added,
    Changed,
    Removed,
    Unchanged,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Unchanged => "unchanged",
        })
    }
}

/// What is another of a user than it was.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Difference {
    Password,
    Joined(GroupName),
    Left(GroupName),
    Locked,
    Unlocked,
    Expires(Option<Moment>),
    Renamed(UserName),
    /// When they were added or changed.
    Times,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password => f.write_str("password"),
            Self::Joined(group) => write!(f, "joined:{group}"),
            Self::Left(group) => write!(f, "left:{group}"),
            Self::Locked => f.write_str("locked"),
            Self::Unlocked => f.write_str("unlocked"),
            Self::Expires(None) => f.write_str("expires:never"),
            Self::Expires(Some(moment)) => write!(f, "expires:{moment}"),
            Self::Renamed(name) => write!(f, "renamed:{name}"),
            Self::Times => f.write_str("times"),
        }
    }
}

/// Why nothing was done.
#[derive(Debug)]
pub enum SettleError {
    /// It can't be done for one user.
    At {
        /// Which of the users that were named.
        index: usize,
        /// Why.
        why: StoreError,
    },
    /// One user would be in too many groups.
    Groups {
        /// Which of the users that were named.
        index: usize,
        /// How many that would be.
        why: TooManyGroups,
    },
    /// The store fails.
    Store(StoreError),
    /// No hash could be made.
    Hash(String),
}

impl fmt::Display for SettleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At { index, why } => write!(f, "user {}: {why}", index + 1),
            Self::Groups { index, why } => write!(f, "user {}: {why}", index + 1),
            Self::Store(why) => why.fmt(f),
            Self::Hash(why) => write!(f, "no hash could be made: {why}"),
        }
    }
}

impl std::error::Error for SettleError {}

impl From<StoreError> for SettleError {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

/// How often others may change under our hands what a hash was computed for.
const ROUNDS: usize = 10;

/// After how many users that need no hash somebody is told of it.
const PACE: usize = 1024;

/// Brings users to what they are to be: all of them, or none and an error. What was done comes in the order of `wanted`, and
/// then those who were pruned. Whoever is named twice is brought to the one and then to the other.
///
/// `progress` is told, from several threads, how many hashes or users are done, and of how many.
///
/// # Errors
/// Says which user stands in the way; others fail the whole.
pub fn settle(
    store: &dyn Store,
    wanted: &[Wanted],
    rule: &Rule,
    now: Moment,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Change>, SettleError> {
    let mut found = HashMap::new();
    for _ in 0..ROUNDS {
        let mut transaction = store.begin()?;
        let mut jobs = Vec::new();
        let mut done = Vec::with_capacity(wanted.len());
        for (index, one) in wanted.iter().enumerate() {
            match one.settle(&mut *transaction, found.get(&index), rule, now) {
                Ok(change) => {
                    done.push(change);
                    if jobs.is_empty() && done.len() % PACE == 0 {
                        progress(done.len(), wanted.len());
                    }
                }
                Err(Stop::Needs(compare)) => jobs.push(Job { index, compare }),
                Err(Stop::Groups(why)) => return Err(SettleError::Groups { index, why }),
                Err(Stop::Store(why)) => return Err(SettleError::At { index, why }),
            }
        }
        if !jobs.is_empty() {
            drop(transaction);
            found.extend(compute(&jobs, wanted, rule, progress)?);
            continue;
        }
        if rule.prune {
            prune(&mut *transaction, wanted, &mut done)?;
        }
        if !rule.dry_run && done.iter().any(|change| change.outcome != Outcome::Unchanged) {
            transaction.commit()?;
        }
        return Ok(done);
    }
    Err(StoreError::Busy.into())
}

/// Removes a user. Durable when it returns, and the next request with their password is refused.
///
/// # Errors
/// [`StoreError::NoSuchUser`], and other errors of the store.
pub fn remove(store: &dyn Store, name: &UserName) -> Result<Change, StoreError> {
    let mut transaction = store.begin()?;
    transaction.remove(name)?;
    transaction.commit()?;
    Ok(removed(name.clone()))
}

fn removed(name: UserName) -> Change {
    Change { name, outcome: Outcome::Removed, differences: Vec::new() }
}

fn prune(
    transaction: &mut dyn Transaction,
    wanted: &[Wanted],
    done: &mut Vec<Change>,
) -> Result<(), StoreError> {
    let named: BTreeSet<_> = wanted.iter().map(|one| &one.name).collect();
    for name in transaction.names()? {
        if !named.contains(&name) {
            transaction.remove(&name)?;
            done.push(removed(name));
        }
    }
    Ok(())
}

/// Why a user can't be settled now.
enum Stop {
    /// A hash has to be computed first, unless the password is that of this one.
    Needs(Option<PasswordHash>),
    Groups(TooManyGroups),
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

/// What was computed for one user.
#[derive(Default)]
struct Found {
    /// A hash, and whether the password is that of it.
    compared: Option<(PasswordHash, bool)>,
    /// A new hash of the password.
    fresh: Option<PasswordHash>,
}

impl Wanted {
    fn settle(
        &self,
        transaction: &mut dyn Transaction,
        found: Option<&Found>,
        rule: &Rule,
        now: Moment,
    ) -> Result<Change, Stop> {
        let unchanged = Change {
            name: self.name.clone(),
            outcome: Outcome::Unchanged,
            differences: Vec::new(),
        };
        let before = match transaction.find(&self.name) {
            // Whatever is wrong with what is kept of them, they are there.
            Err(StoreError::BadRecord { .. }) if rule.existing == Existing::Leave => {
                return Ok(unchanged);
            }
            before => before?,
        };
        match (&before, rule.missing, rule.existing) {
            (None, Missing::Refuse, _) => return Err(StoreError::NoSuchUser.into()),
            (Some(_), _, Existing::Refuse) => return Err(StoreError::UserExists.into()),
            (Some(_), _, Existing::Leave) => return Ok(unchanged),
            (None, Missing::Add, _) | (Some(_), _, Existing::Replace | Existing::Compare) => {}
        }
        let mut after = self.on(before.as_ref(), found, rule, now)?;
        let mut differences = differences(before.as_ref(), &after);
        let outcome = if before.is_some() { Outcome::Changed } else { Outcome::Added };
        if let Some(name) = self.rename.as_ref().filter(|name| **name != self.name) {
            transaction.rename(&self.name, name)?;
            after.name = name.clone();
            differences.push(Difference::Renamed(name.clone()));
        }
        if outcome == Outcome::Changed && differences.is_empty() {
            return Ok(unchanged);
        }
        after.changed = self.times.map_or(now, |(_, changed)| changed);
        transaction.put(&after)?;
        Ok(Change { name: self.name.clone(), outcome, differences })
    }

    /// What becomes of what was there before.
    fn on(
        &self,
        before: Option<&Account>,
        found: Option<&Found>,
        rule: &Rule,
        now: Moment,
    ) -> Result<Account, Stop> {
        let none = Groups::default();
        let had = before.map_or(&none, |before| &before.groups);
        let groups = match &self.groups {
            Edit::Keep => had.clone(),
            Edit::Set(groups) => groups.clone(),
            Edit::Join(groups) => had.with(groups).map_err(Stop::Groups)?,
            Edit::Leave(groups) => had.without(groups),
        };
        let hash = match (&self.secret, before) {
            (Secret::Hash(hash), _) => Ok(hash.clone()),
            (Secret::Keep | Secret::ForNew(_), Some(before)) => before.hash.clone(),
            (Secret::Keep, None) => return Err(StoreError::NoSuchUser.into()),
            (Secret::Password(_) | Secret::ForNew(_), _) => {
                let compare = rule.existing == Existing::Compare;
                let old = before.filter(|_| compare).and_then(|before| before.hash.as_ref().ok());
                Ok(hash_of(old, found)?)
            }
        };
        Ok(Account {
            name: self.name.clone(),
            hash,
            groups,
            locked: self.locked.unwrap_or(before.is_some_and(|before| before.locked)),
            expires: self.expires.unwrap_or(before.and_then(|before| before.expires)),
            created: self
                .times
                .map(|(created, _)| created)
                .or(before.map(|before| before.created))
                .unwrap_or(now),
            changed: self
                .times
                .map(|(_, changed)| changed)
                .or(before.map(|before| before.changed))
                .unwrap_or(now),
        })
    }
}

/// The hash to be kept for a password, as far as it was computed: `old`, if that is one of it.
fn hash_of(old: Option<&PasswordHash>, found: Option<&Found>) -> Result<PasswordHash, Stop> {
    if let Some(old) = old {
        let compared = found.and_then(|found| found.compared.as_ref());
        match compared.filter(|(hash, _)| hash == old) {
            None => return Err(Stop::Needs(Some(old.clone()))),
            Some((_, true)) => return Ok(old.clone()),
            Some((_, false)) => {}
        }
    }
    found.and_then(|found| found.fresh.clone()).ok_or(Stop::Needs(None))
}

fn differences(before: Option<&Account>, after: &Account) -> Vec<Difference> {
    let none = Groups::default();
    let had = before.map_or(&none, |before| &before.groups);
    let mut differences = Vec::new();
    if before.is_some_and(|before| before.hash != after.hash) {
        differences.push(Difference::Password);
    }
    differences.extend(after.groups.without(had).iter().cloned().map(Difference::Joined));
    differences.extend(had.without(&after.groups).iter().cloned().map(Difference::Left));
    match (before.is_some_and(|before| before.locked), after.locked) {
        (false, true) => differences.push(Difference::Locked),
        (true, false) => differences.push(Difference::Unlocked),
        (true, true) | (false, false) => {}
    }
    if before.and_then(|before| before.expires) != after.expires {
        differences.push(Difference::Expires(after.expires));
    }
    if before.is_some_and(|b| (b.created, b.changed) != (after.created, after.changed)) {
        differences.push(Difference::Times);
    }
    differences
}

/// A hash to be computed.
struct Job {
    index: usize,
    /// Only if the password is not that of this one.
    compare: Option<PasswordHash>,
}

impl Job {
    fn run(&self, wanted: &Wanted, rule: &Rule) -> Result<Found, String> {
        let (Secret::Password(password) | Secret::ForNew(password)) = &wanted.secret else {
            return Ok(Found::default());
        };
        let mut found = Found::default();
        if let Some(old) = &self.compare {
            let right = hash::verify(password, old).map_err(|e| e.to_string())?;
            found.compared = Some((old.clone(), right));
            if right {
                return Ok(found);
            }
        }
        found.fresh = Some(if rule.dry_run {
            PasswordHash::decoy(rule.cost)
        } else {
            hash::hash(password, rule.cost).map_err(|e| e.to_string())?
        });
        Ok(found)
    }
}

/// Computes hashes on several threads.
fn compute(
    jobs: &[Job],
    wanted: &[Wanted],
    rule: &Rule,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<(usize, Found)>, SettleError> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(jobs.len())));
    let work = || -> Result<(), String> {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let Some(one) = wanted.get(job.index) else { continue };
            let found = job.run(one, rule)?;
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push((job.index, found));
            progress(done.len(), jobs.len());
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads = rule.threads.get().min(jobs.len());
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let ours = work();
        others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())))
            .chain([ours])
            .collect::<Result<(), _>>()
    })
    .map_err(SettleError::Hash)?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::store;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn store(&self) -> Box<dyn Store> {
            store::open(&self.0.path().join("users.db")).unwrap()
        }

        fn all(&self) -> Vec<Account> {
            store::all(&*self.store())
        }

        fn names(&self) -> Vec<String> {
            self.all().iter().map(|user| user.name.to_string()).collect()
        }

        fn settle(&self, wanted: &[Wanted], rule: &Rule) -> Result<Vec<Change>, SettleError> {
            settle(&*self.store(), wanted, rule, at(1000), &|_, _| {})
        }
    }

    fn at(seconds: i64) -> Moment {
        Moment::from_seconds(seconds).unwrap()
    }

    fn name(raw: &str) -> UserName {
        UserName::parse(raw).unwrap()
    }

    fn group(raw: &str) -> GroupName {
        GroupName::parse(raw).unwrap()
    }

    fn groups(names: &[&str]) -> Groups {
        Groups::new(names.iter().map(|raw| group(raw))).unwrap()
    }

    fn secret(raw: &str) -> Secret {
        Secret::Password(Password::parse(raw).unwrap())
    }

    fn user(of: &str, password: &str) -> Wanted {
        Wanted::new(name(of), secret(password))
    }

    fn rule(missing: Missing, existing: Existing) -> Rule {
        Rule::new(missing, existing, Cost::new(Cost::MIN).unwrap())
    }

    fn upsert() -> Rule {
        rule(Missing::Add, Existing::Compare)
    }

    fn outcomes(changes: &[Change]) -> Vec<Outcome> {
        changes.iter().map(|change| change.outcome).collect()
    }

    fn is_password(user: &Account, password: &str) -> bool {
        hash::verify(&Password::parse(password).unwrap(), user.hash.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn what_is_done_with_who_is_there_and_who_is_not_is_for_the_rule_to_say() {
        let place = Place::new();
        let refused = |rule| match place.settle(&[user("ann", "one")], &rule) {
            Err(SettleError::At { index: 0, why }) => why.to_string(),
            other => panic!("{other:?}"),
        };
        let none = refused(rule(Missing::Refuse, Existing::Replace));
        assert_eq!(none, StoreError::NoSuchUser.to_string());
        let done = |existing, password| {
            let changes =
                place.settle(&[user("ann", password)], &rule(Missing::Add, existing)).unwrap();
            (changes[0].outcome, changes[0].differences.clone())
        };
        assert_eq!(done(Existing::Refuse, "one"), (Outcome::Added, vec![]));
        let taken = refused(rule(Missing::Add, Existing::Refuse));
        assert_eq!(taken, StoreError::UserExists.to_string());
        assert_eq!(done(Existing::Leave, "two"), (Outcome::Unchanged, vec![]));
        assert!(is_password(&place.all()[0], "one"));
        let password = || vec![Difference::Password];
        assert_eq!(done(Existing::Replace, "one"), (Outcome::Changed, password()));
        assert_eq!(done(Existing::Compare, "one"), (Outcome::Unchanged, vec![]));
        assert_eq!(done(Existing::Compare, "two"), (Outcome::Changed, password()));
        assert!(is_password(&place.all()[0], "two"));
    }

    #[test]
    fn everything_but_what_is_wanted_stays_as_it_was() {
        let place = Place::new();
        let ann = Wanted {
            groups: Edit::Set(groups(&["admin", "staff"])),
            locked: Some(true),
            expires: Some(Some(at(5000))),
            ..user("ann", "one")
        };
        place.settle(&[ann], &upsert()).unwrap();
        let before = place.all().remove(0);
        assert_eq!((before.created, before.changed), (at(1000), at(1000)));
        let change = |wanted: Wanted| {
            let now = at(2000);
            let mut changes =
                settle(&*place.store(), &[wanted], &upsert(), now, &|_, _| {}).unwrap();
            (changes.remove(0).differences, place.all().remove(0))
        };
        let keep = || Wanted::new(name("ann"), Secret::Keep);
        let now = Account { changed: at(2000), ..before };
        let (differences, after) = change(Wanted { locked: Some(false), ..keep() });
        assert_eq!(differences, [Difference::Unlocked]);
        let now = Account { locked: false, ..now };
        assert_eq!(after, now);
        let (differences, after) = change(Wanted { expires: Some(None), ..keep() });
        assert_eq!(differences, [Difference::Expires(None)]);
        let now = Account { expires: None, ..now };
        assert_eq!(after, now);
        let join = Edit::Join(groups(&["staff", "ops"]));
        let (differences, after) = change(Wanted { groups: join, ..keep() });
        assert_eq!(differences, [Difference::Joined(group("ops"))]);
        let now = Account { groups: groups(&["admin", "ops", "staff"]), ..now };
        assert_eq!(after, now);
        let leave = Edit::Leave(groups(&["admin", "nobodys"]));
        let (differences, after) = change(Wanted { groups: leave, ..keep() });
        assert_eq!(differences, [Difference::Left(group("admin"))]);
        let now = Account { groups: groups(&["ops", "staff"]), ..now };
        assert_eq!(after, now);
        let set = Edit::Set(groups(&["admin", "staff"]));
        let renamed = Wanted { groups: set, rename: Some(name("eve")), ..keep() };
        let (differences, after) = change(renamed);
        let expected = [
            Difference::Joined(group("admin")),
            Difference::Left(group("ops")),
            Difference::Renamed(name("eve")),
        ];
        assert_eq!(differences, expected);
        let now = Account { name: name("eve"), groups: groups(&["admin", "staff"]), ..now };
        assert_eq!(after, now);
        let times = Some((at(7), at(8)));
        let copy = Wanted { times, ..Wanted::new(name("eve"), Secret::Keep) };
        let (differences, after) = change(copy);
        assert_eq!(differences, [Difference::Times]);
        assert_eq!(after, Account { created: at(7), changed: at(8), ..now });
    }

    /// L-05
    #[test]
    fn it_is_all_or_nothing() {
        let place = Place::new();
        place.settle(&[user("eve", "one")], &upsert()).unwrap();
        let add = rule(Missing::Add, Existing::Refuse);
        let wanted = [user("ann", "one"), user("bob", "one"), user("eve", "two")];
        let why = place.settle(&wanted, &add).unwrap_err();
        assert!(matches!(why, SettleError::At { index: 2, why: StoreError::UserExists }));
        let numbered = (0..Groups::MAX).map(|n| group(&format!("g{n}")));
        let full = Edit::Set(Groups::new(numbered).unwrap());
        place.settle(&[Wanted { groups: full, ..user("eve", "one") }], &upsert()).unwrap();
        let one_more = Edit::Join(groups(&["one-more"]));
        let eve = Wanted { groups: one_more, ..Wanted::new(name("eve"), Secret::Keep) };
        let why = place.settle(&[user("ann", "one"), eve], &upsert()).unwrap_err();
        assert!(matches!(why, SettleError::Groups { index: 1, why: TooManyGroups }));
        assert_eq!(place.names(), ["eve"]);
    }

    #[test]
    fn a_dry_run_says_the_same_and_does_nothing() {
        let place = Place::new();
        place.settle(&[user("ann", "one"), user("bob", "one")], &upsert()).unwrap();
        let before = place.all();
        let wanted = [user("ann", "one"), user("bob", "two"), user("cid", "one")];
        let dry = Rule { dry_run: true, ..upsert() };
        let said = place.settle(&wanted, &dry).unwrap();
        assert_eq!(outcomes(&said), [Outcome::Unchanged, Outcome::Changed, Outcome::Added]);
        assert_eq!(place.all(), before);
        assert_eq!(place.settle(&wanted, &upsert()).unwrap(), said);
    }

    #[test]
    fn pruning_removes_who_was_not_named() {
        let place = Place::new();
        let both = [user("ann", "one"), user("bob", "one")];
        place.settle(&both, &upsert()).unwrap();
        let prune = Rule { prune: true, ..upsert() };
        let changes = place.settle(&both[..1], &prune).unwrap();
        assert_eq!(outcomes(&changes), [Outcome::Unchanged, Outcome::Removed]);
        assert_eq!(changes[1].name, name("bob"));
        assert_eq!(place.names(), ["ann"]);
    }

    #[test]
    fn a_password_for_new_users_is_not_for_others() {
        let place = Place::new();
        let wanted = [Wanted::new(name("ann"), Secret::ForNew(Password::parse("one").unwrap()))];
        assert_eq!(outcomes(&place.settle(&wanted, &upsert()).unwrap()), [Outcome::Added]);
        assert!(is_password(&place.all()[0], "one"));
        let wanted = [Wanted::new(name("ann"), Secret::ForNew(Password::parse("two").unwrap()))];
        assert_eq!(outcomes(&place.settle(&wanted, &upsert()).unwrap()), [Outcome::Unchanged]);
        assert!(is_password(&place.all()[0], "one"));
    }

    #[test]
    fn nothing_to_do_is_no_change_of_the_store() {
        let place = Place::new();
        place.settle(&[user("ann", "one")], &upsert()).unwrap();
        let store = place.store();
        let before = store.revision(Instant::now()).unwrap();
        place.settle(&[user("ann", "one")], &upsert()).unwrap();
        assert_eq!(store.revision(Instant::now()).unwrap(), before);
    }

    /// Between the look and the change, while hashes are computed.
    #[test]
    fn what_others_change_meanwhile_counts() {
        let place = Place::new();
        let both = [user("ann", "one"), user("bob", "one")];
        place.settle(&both, &upsert()).unwrap();
        let round = AtomicUsize::new(0);
        let meddle = |done: usize, of: usize| {
            if done < of {
                return;
            }
            // Each of these makes another hash necessary, or none.
            match round.fetch_add(1, Ordering::Relaxed) {
                0 => drop(place.settle(&[user("ann", "three")], &upsert()).unwrap()),
                1 => drop(remove(&*place.store(), &name("bob")).unwrap()),
                _ => {}
            }
        };
        let wanted = [user("ann", "two"), user("bob", "two")];
        let changes = settle(&*place.store(), &wanted, &upsert(), at(3000), &meddle).unwrap();
        assert_eq!(outcomes(&changes), [Outcome::Changed, Outcome::Added]);
        let all = place.all();
        assert!(all.iter().all(|user| is_password(user, "two")));
        assert_eq!(all.iter().map(|user| user.created).collect::<Vec<_>>(), [at(1000), at(3000)]);
    }

    #[test]
    fn a_store_that_never_stands_still_is_busy() {
        let place = Place::new();
        place.settle(&[user("ann", "one")], &upsert()).unwrap();
        let round = AtomicUsize::new(0);
        let meddle = |_: usize, _: usize| {
            let other = format!("other-{}", round.fetch_add(1, Ordering::Relaxed));
            place.settle(&[user("ann", &other)], &upsert()).unwrap();
        };
        let wanted = [user("ann", "two")];
        let why = settle(&*place.store(), &wanted, &upsert(), at(1), &meddle).unwrap_err();
        assert!(matches!(why, SettleError::Store(StoreError::Busy)));
    }

    #[test]
    fn hashes_are_computed_on_as_many_threads_as_allowed() {
        let place = Place::new();
        let wanted: Vec<_> = (0..20).map(|n| user(&format!("user-{n}"), "one")).collect();
        for threads in [1, 3, 50] {
            let threads = NonZeroUsize::new(threads).unwrap();
            let seen = Mutex::new((BTreeSet::new(), Vec::new()));
            let note = |done: usize, of: usize| {
                let mut seen = seen.lock().unwrap();
                seen.0.insert(format!("{:?}", thread::current().id()));
                seen.1.push((done, of));
            };
            let rule = Rule { threads, ..rule(Missing::Add, Existing::Replace) };
            settle(&*place.store(), &wanted, &rule, at(1), &note).unwrap();
            let (ids, told) = seen.into_inner().unwrap();
            assert!(ids.len() <= threads.get().min(20), "{ids:?}");
            assert_eq!(told, (1..=20).map(|done| (done, 20)).collect::<Vec<_>>());
        }
    }
}
