use std::collections::BTreeSet;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::*;
use crate::domain::{
    Account, Cost, GroupName, Groups, LegacyHash, Password, TooManyGroups, UserName,
};
use crate::hashing;
use crate::store::{self, StoreError, UserStore};
use crate::time::Timestamp;

struct TestStore(tempfile::TempDir);

impl TestStore {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn store(&self) -> Box<dyn UserStore> {
        let path = self.0.path().join("users.db");
        store::open_or_create(&path.into()).unwrap()
    }

    fn all(&self) -> Vec<Account> {
        store::all(&*self.store())
    }

    fn names(&self) -> Vec<String> {
        self.all().iter().map(|user| user.name.to_string()).collect()
    }

    fn reconcile(
        &self,
        desired: &[DesiredUser],
        rule: &ReconcileOptions,
    ) -> Result<Vec<Change>, ReconcileError> {
        reconcile(&*self.store(), desired, rule, at(1000), &|_, _| {})
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds).unwrap()
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

fn secret(raw: &str) -> DesiredPassword {
    DesiredPassword::Password(Password::parse(raw).unwrap())
}

fn user(of: &str, password: &str) -> DesiredUser {
    DesiredUser::new(name(of), secret(password))
}

fn options(missing: IfMissing, existing: IfExists) -> ReconcileOptions {
    ReconcileOptions {
        cost: Cost::new(Cost::MIN).unwrap(),
        ..ReconcileOptions::new(missing, existing)
    }
}

fn upsert() -> ReconcileOptions {
    options(IfMissing::Add, IfExists::Compare)
}

fn kinds(changes: &[Change]) -> Vec<ChangeKind> {
    changes.iter().map(|change| change.kind).collect()
}

fn is_password(user: &Account, password: &str) -> bool {
    hashing::is_hash_of(user.hash.as_ref().unwrap(), password)
}

#[test]
fn options_decide_about_missing_and_existing_users() {
    let place = TestStore::new();
    let refused = |options| match place.reconcile(&[user("ann", "one")], &options) {
        Err(ReconcileError::User { position: 0, why, .. }) => why.to_string(),
        other => panic!("{other:?}"),
    };
    let none = refused(options(IfMissing::Refuse, IfExists::Replace));
    assert_eq!(none, StoreError::NoSuchUser.to_string());
    let done = |existing, password| {
        let changes =
            place.reconcile(&[user("ann", password)], &options(IfMissing::Add, existing)).unwrap();
        (changes[0].kind, changes[0].fields.clone())
    };
    assert_eq!(done(IfExists::Refuse, "one"), (ChangeKind::Added, vec![]));
    let taken = refused(options(IfMissing::Add, IfExists::Refuse));
    assert_eq!(taken, StoreError::UserExists.to_string());
    assert_eq!(done(IfExists::Skip, "two"), (ChangeKind::Unchanged, vec![]));
    assert!(is_password(&place.all()[0], "one"));
    let password = || vec![FieldChange::Password];
    assert_eq!(done(IfExists::Replace, "one"), (ChangeKind::Changed, password()));
    assert_eq!(done(IfExists::Compare, "one"), (ChangeKind::Unchanged, vec![]));
    assert_eq!(done(IfExists::Compare, "two"), (ChangeKind::Changed, password()));
    assert!(is_password(&place.all()[0], "two"));
}

#[test]
fn fields_that_are_not_given_stay_unchanged() {
    let place = TestStore::new();
    let ann = DesiredUser {
        groups: GroupsEdit::Set(groups(&["admin", "staff"])),
        locked: Some(true),
        expires: Some(Some(at(5000))),
        ..user("ann", "one")
    };
    place.reconcile(&[ann], &upsert()).unwrap();
    let before = place.all().remove(0);
    assert_eq!((before.created, before.changed), (at(1000), at(1000)));
    let change = |desired: DesiredUser| {
        let now = at(2000);
        let mut changes =
            reconcile(&*place.store(), &[desired], &upsert(), now, &|_, _| {}).unwrap();
        (changes.remove(0).fields, place.all().remove(0))
    };
    let keep = || DesiredUser::new(name("ann"), DesiredPassword::Keep);
    let now = Account { changed: at(2000), ..before };
    let (differences, after) = change(DesiredUser { locked: Some(false), ..keep() });
    assert_eq!(differences, [FieldChange::Unlocked]);
    let now = Account { locked: false, ..now };
    assert_eq!(after, now);
    let (differences, after) = change(DesiredUser { expires: Some(None), ..keep() });
    assert_eq!(differences, [FieldChange::Expires(None)]);
    let now = Account { expires: None, ..now };
    assert_eq!(after, now);
    let join = GroupsEdit::Add(groups(&["staff", "ops"]));
    let (differences, after) = change(DesiredUser { groups: join, ..keep() });
    assert_eq!(differences, [FieldChange::Joined(group("ops"))]);
    let now = Account { groups: groups(&["admin", "ops", "staff"]), ..now };
    assert_eq!(after, now);
    let leave = GroupsEdit::Remove(groups(&["admin", "nobodys"]));
    let (differences, after) = change(DesiredUser { groups: leave, ..keep() });
    assert_eq!(differences, [FieldChange::Left(group("admin"))]);
    let now = Account { groups: groups(&["ops", "staff"]), ..now };
    assert_eq!(after, now);
    let set = GroupsEdit::Set(groups(&["admin", "staff"]));
    let renamed = DesiredUser { groups: set, rename: Some(name("eve")), ..keep() };
    let (differences, after) = change(renamed);
    let expected = [
        FieldChange::Joined(group("admin")),
        FieldChange::Left(group("ops")),
        FieldChange::Renamed(name("eve")),
    ];
    assert_eq!(differences, expected);
    let now = Account { name: name("eve"), groups: groups(&["admin", "staff"]), ..now };
    assert_eq!(after, now);
    let times = Some((at(7), at(8)));
    let copy = DesiredUser { times, ..DesiredUser::new(name("eve"), DesiredPassword::Keep) };
    let (differences, after) = change(copy);
    assert_eq!(differences, [FieldChange::Times]);
    assert_eq!(after, Account { created: at(7), changed: at(8), ..now });
}

/// L-05
/// A stream of a user whose password has changed is closed, also if they were removed meanwhile.
#[test]
fn credential_version_changes_with_the_password_alone() {
    let place = TestStore::new();
    let version = |desired: DesiredUser| {
        place.reconcile(&[desired], &upsert()).unwrap();
        place.all().remove(0).credential_version
    };
    let keep = || DesiredUser::new(name("ann"), DesiredPassword::Keep);
    let first = version(user("ann", "one"));
    for kept in [
        keep(),
        user("ann", "one"),
        DesiredUser { locked: Some(true), ..keep() },
        DesiredUser { groups: GroupsEdit::Set(groups(&["staff"])), ..keep() },
        DesiredUser { expires: Some(Some(at(5))), ..keep() },
    ] {
        assert_eq!(version(kept.clone()), first, "{kept:?}");
    }
    let second = version(user("ann", "two"));
    assert_ne!(second, first);
    let hash = hashing::hash(&Password::parse("two").unwrap(), upsert().cost).unwrap();
    let third = version(DesiredUser::new(name("ann"), DesiredPassword::Hash(hash.into())));
    assert_ne!(third, second, "the hash may be one of another password");
    remove(&*place.store(), &[name("ann")], IfGone::Refuse).unwrap();
    let again = version(user("ann", "one"));
    assert!(![first, second, third].contains(&again));
}

/// H-01
#[test]
fn legacy_hashes_are_wrapped_at_the_given_cost() {
    let place = TestStore::new();
    let hashes = ["{SHA}piGucRdTwGb7+i3S1svNik60+fw=", "$1$28772684$UKwa6G6ujOWr8LWclVweg1"];
    let desired: Vec<_> = (0..5)
        .map(|n| {
            let hash = LegacyHash::parse(hashes[n % 2]).unwrap();
            DesiredUser::new(name(&format!("user-{n}")), DesiredPassword::Legacy(hash))
        })
        .collect();
    let changes = place.reconcile(&desired, &upsert()).unwrap();
    assert_eq!(kinds(&changes), [ChangeKind::Added; 5]);
    let mut seen = BTreeSet::new();
    for (n, user) in place.all().into_iter().enumerate() {
        let hash = user.hash.clone().unwrap();
        assert_eq!(hash.cost(), upsert().cost);
        let wrapped = hash.wrapped.as_ref().unwrap();
        assert_eq!(wrapped.params, *LegacyHash::parse(hashes[n % 2]).unwrap().params());
        assert_eq!(wrapped.imported, at(1000));
        assert!(is_password(&user, "open-sesame") && !is_password(&user, "open-sesamE"));
        assert!(seen.insert(hash.bcrypt.as_str().to_owned()), "each has its own salt");
    }
}

#[test]
fn all_users_are_reconciled_or_none() {
    let place = TestStore::new();
    place.reconcile(&[user("eve", "one")], &upsert()).unwrap();
    let add = options(IfMissing::Add, IfExists::Refuse);
    let desired = [user("ann", "one"), user("bob", "one"), user("eve", "two")];
    let why = place.reconcile(&desired, &add).unwrap_err();
    assert!(matches!(why, ReconcileError::User { position: 2, why: StoreError::UserExists, .. }));
    let numbered = (0..Groups::MAX).map(|n| group(&format!("g{n}")));
    let full = GroupsEdit::Set(Groups::new(numbered).unwrap());
    place.reconcile(&[DesiredUser { groups: full, ..user("eve", "one") }], &upsert()).unwrap();
    let one_more = GroupsEdit::Add(groups(&["one-more"]));
    let eve =
        DesiredUser { groups: one_more, ..DesiredUser::new(name("eve"), DesiredPassword::Keep) };
    let why = place.reconcile(&[user("ann", "one"), eve], &upsert()).unwrap_err();
    assert!(matches!(why, ReconcileError::Groups { position: 1, why: TooManyGroups, .. }));
    assert_eq!(place.names(), ["eve"]);
}

#[test]
fn dry_run_reports_the_same_and_changes_nothing() {
    let place = TestStore::new();
    place.reconcile(&[user("ann", "one"), user("bob", "one")], &upsert()).unwrap();
    let before = place.all();
    let desired = [user("ann", "one"), user("bob", "two"), user("cid", "one")];
    let dry = ReconcileOptions { dry_run: true, ..upsert() };
    let said = place.reconcile(&desired, &dry).unwrap();
    assert_eq!(kinds(&said), [ChangeKind::Unchanged, ChangeKind::Changed, ChangeKind::Added]);
    assert_eq!(place.all(), before);
    assert_eq!(place.reconcile(&desired, &upsert()).unwrap(), said);
}

#[test]
fn pruning_removes_users_that_are_not_desired() {
    let place = TestStore::new();
    let both = [user("ann", "one"), user("bob", "one")];
    place.reconcile(&both, &upsert()).unwrap();
    let prune = ReconcileOptions { prune: true, ..upsert() };
    let changes = place.reconcile(&both[..1], &prune).unwrap();
    assert_eq!(kinds(&changes), [ChangeKind::Unchanged, ChangeKind::Removed]);
    assert_eq!(changes[1].name, name("bob"));
    assert_eq!(place.names(), ["ann"]);
}

#[test]
fn initial_password_is_for_new_users_only() {
    let place = TestStore::new();
    let desired =
        [DesiredUser::new(name("ann"), DesiredPassword::Initial(Password::parse("one").unwrap()))];
    assert_eq!(kinds(&place.reconcile(&desired, &upsert()).unwrap()), [ChangeKind::Added]);
    assert!(is_password(&place.all()[0], "one"));
    let desired =
        [DesiredUser::new(name("ann"), DesiredPassword::Initial(Password::parse("two").unwrap()))];
    assert_eq!(kinds(&place.reconcile(&desired, &upsert()).unwrap()), [ChangeKind::Unchanged]);
    assert!(is_password(&place.all()[0], "one"));
}

#[test]
fn reconciled_state_is_no_change_of_the_store() {
    let place = TestStore::new();
    place.reconcile(&[user("ann", "one")], &upsert()).unwrap();
    let store = place.store();
    let before = store.revision(Instant::now()).unwrap();
    place.reconcile(&[user("ann", "one")], &upsert()).unwrap();
    assert_eq!(store.revision(Instant::now()).unwrap(), before);
}

/// W-22: all of the users, or none. Users that do not exist are named together.
#[test]
fn users_are_removed_in_one_transaction() {
    let place = TestStore::new();
    let all = ["ann", "bob", "cid"].map(|of| user(of, "one"));
    place.reconcile(&all, &upsert()).unwrap();
    let remove_all = |missing, names: &[&str]| {
        remove(&*place.store(), &names.iter().map(|of| name(of)).collect::<Vec<_>>(), missing)
    };
    let refused = remove_all(IfGone::Refuse, &["ann", "dan", "bob", "eve"]).unwrap_err();
    let RemoveError::Missing(gone) = refused else { panic!("{refused}") };
    assert_eq!(gone, [name("dan"), name("eve")]);
    assert_eq!(place.names(), ["ann", "bob", "cid"]);
    let changes = remove_all(IfGone::Skip, &["ann", "dan", "bob"]).unwrap();
    let (removed, unchanged) = (ChangeKind::Removed, ChangeKind::Unchanged);
    assert_eq!(kinds(&changes), [removed, unchanged, removed]);
    assert_eq!(place.names(), ["cid"]);
    assert_eq!(kinds(&remove_all(IfGone::Skip, &["ann", "bob"]).unwrap()), [unchanged; 2]);
    assert_eq!(kinds(&remove_all(IfGone::Refuse, &["cid"]).unwrap()), [removed]);
}

/// The user changes between two transactions, while hashes are computed.
#[test]
fn concurrent_changes_are_taken_into_account() {
    let place = TestStore::new();
    let both = [user("ann", "one"), user("bob", "one")];
    place.reconcile(&both, &upsert()).unwrap();
    let round = AtomicUsize::new(0);
    let meddle = |done: usize, of: usize| {
        if done < of {
            return;
        }
        // Each of these changes makes another hash necessary, or none.
        match round.fetch_add(1, Ordering::Relaxed) {
            0 => drop(place.reconcile(&[user("ann", "three")], &upsert()).unwrap()),
            1 => drop(remove(&*place.store(), &[name("bob")], IfGone::Refuse).unwrap()),
            _ => {}
        }
    };
    let desired = [user("ann", "two"), user("bob", "two")];
    let changes = reconcile(&*place.store(), &desired, &upsert(), at(3000), &meddle).unwrap();
    assert_eq!(kinds(&changes), [ChangeKind::Changed, ChangeKind::Added]);
    let all = place.all();
    assert!(all.iter().all(|user| is_password(user, "two")));
    assert_eq!(all.iter().map(|user| user.created).collect::<Vec<_>>(), [at(1000), at(3000)]);
}

#[test]
fn store_that_changes_in_every_plan_is_busy() {
    let place = TestStore::new();
    place.reconcile(&[user("ann", "one")], &upsert()).unwrap();
    let round = AtomicUsize::new(0);
    let meddle = |_: usize, _: usize| {
        let other = format!("other-{}", round.fetch_add(1, Ordering::Relaxed));
        place.reconcile(&[user("ann", &other)], &upsert()).unwrap();
    };
    let desired = [user("ann", "two")];
    let why = reconcile(&*place.store(), &desired, &upsert(), at(1), &meddle).unwrap_err();
    assert!(matches!(why, ReconcileError::Store(StoreError::Busy)));
}

#[test]
fn hashes_are_computed_on_the_given_threads() {
    let place = TestStore::new();
    let desired: Vec<_> = (0..20).map(|n| user(&format!("user-{n}"), "one")).collect();
    for threads in [1, 3, 50] {
        let threads = NonZeroUsize::new(threads).unwrap();
        let seen = Mutex::new((BTreeSet::new(), Vec::new()));
        let note = |done: usize, of: usize| {
            let mut seen = seen.lock().unwrap();
            seen.0.insert(format!("{:?}", thread::current().id()));
            seen.1.push((done, of));
        };
        let options = ReconcileOptions { threads, ..options(IfMissing::Add, IfExists::Replace) };
        reconcile(&*place.store(), &desired, &options, at(1), &note).unwrap();
        let (ids, told) = seen.into_inner().unwrap();
        assert!(ids.len() <= threads.get().min(20), "{ids:?}");
        // Four at a time, if every thread has a job.
        let step = 20usize.div_ceil(threads.get()).min(4);
        let expected = (1..=20 / step).map(|done| (done * step, 20)).collect::<Vec<_>>();
        assert_eq!(told, expected);
    }
}

/// A sink that fails at one of its calls.
#[derive(Default)]
struct FailingSink {
    at: &'static str,
    begun: usize,
}

impl FailingSink {
    fn call(&self, call: &str) -> io::Result<()> {
        if call == self.at { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl ChangeSink for FailingSink {
    fn restart(&mut self) -> io::Result<()> {
        self.begun += 1;
        self.call("restart")
    }

    fn push(&mut self, _: Change) -> io::Result<()> {
        self.call("push")
    }

    fn finish(&mut self) -> io::Result<()> {
        self.call("finish")
    }
}

/// L-05
#[test]
fn change_that_cannot_be_recorded_is_rolled_back() {
    let place = TestStore::new();
    let desired = [user("ann", "one")];
    let record = |at| {
        let mut sink = FailingSink { at, begun: 0 };
        let (users, now) = (&desired[..], Timestamp::from_seconds(1).unwrap());
        let done = reconcile_into(&*place.store(), &users, &mut sink, &upsert(), now, &|_, _| {});
        (done, sink.begun)
    };
    for at in ["restart", "push", "finish"] {
        let (done, _) = record(at);
        assert!(matches!(done, Err(ReconcileError::Record(_))), "{at}: {done:?}");
        assert!(place.all().is_empty(), "{at}");
    }
    // The plan without hashes, and the one with them.
    assert!(matches!(record("nowhere"), (Ok(()), 2)));
    assert_eq!(place.names(), ["ann"]);
}

#[test]
fn changes_of_an_abandoned_plan_are_forgotten() {
    let place = TestStore::new();
    let hash = hashing::hash(&Password::parse("one").unwrap(), upsert().cost).unwrap();
    let ann = DesiredUser::new(name("ann"), DesiredPassword::Hash(hash.into()));
    let changes = place.reconcile(&[ann, user("bob", "one")], &upsert()).unwrap();
    assert_eq!(kinds(&changes), [ChangeKind::Added, ChangeKind::Added]);
}

/// Desired users that cannot be read a second time, or from the start.
struct FailingUsers<'a>(&'a [DesiredUser], AtomicUsize);

impl DesiredUsers for FailingUsers<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn visit(&self, visit: &mut Visit<'_>) -> Result<(), ReconcileError> {
        self.0.visit(visit)?;
        match self.1.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(ReconcileError::Desired(io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }
}

/// L-05
#[test]
fn users_that_cannot_be_read_again_are_rolled_back() {
    let place = TestStore::new();
    let desired = [user("ann", "one")];
    for successes in [0, 1] {
        let users = FailingUsers(&desired, AtomicUsize::new(successes));
        let mut changes = Vec::new();
        let done =
            reconcile_into(&*place.store(), &users, &mut changes, &upsert(), at(1), &|_, _| {});
        assert!(matches!(done, Err(ReconcileError::Desired(_))), "{done:?}");
        assert!(place.all().is_empty());
    }
}
