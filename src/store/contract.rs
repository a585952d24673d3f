//! The contract of a store: tests that every backend passes.
//!
//! A backend implements [`Backend`], and calls [`contract!`] with its type.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_executor::block_on;

use super::{Revision, StoreError, UserReader, UserStore, all};
use crate::domain::{
    Account, Cost, CredentialVersion, GroupName, Groups, LegacyParams, LegacyScheme, PasswordHash,
    StoredHash, User, UserName, WrappedHash,
};
use crate::time::Timestamp;

/// A fresh store of a backend.
pub(crate) trait Backend {
    fn new() -> Self;

    /// Opens the store once more, like another process.
    fn open(&self) -> Box<dyn UserStore>;

    /// The number of rounds of a test that waits for the lease again and again.
    fn rounds(&self) -> u32 {
        100
    }

    /// Opens the store as a server does.
    fn serve(&self) -> Box<dyn UserReader> {
        self.open()
    }
}

/// Runs the contract for a backend.
macro_rules! contract {
    ($backend:ty $(, #[$attribute:meta])*) => {
        crate::store::contract::contract! {
            $backend, [$(#[$attribute])*]:
            user_exists_from_put_to_remove,
            record_is_read_as_it_was_put,
            changes_take_effect_together_or_not_at_all,
            name_that_is_taken_or_unknown_cannot_be_changed,
            removal_of_many_users_is_seen_within_its_transaction,
            visiting_all_users_can_be_broken_off,
            first_user_and_members_of_groups_are_found,
            lookup_with_groups_reads_both,
            several_users_are_found_in_their_order,
            hash_is_replaced_only_if_it_is_still_the_old_one,
            revision_changes_with_every_change_and_only_then,
            change_is_in_every_revision_read_after_its_wait,
            second_writer_does_not_see_or_lose_changes,
        }
    };
    ($backend:ty, $attributes:tt: $($test:ident,)*) => {
        $(crate::store::contract::contract! { test $backend, $attributes, $test })*
    };
    (test $backend:ty, [$(#[$attribute:meta])*], $test:ident) => {
            #[test]
            $(#[$attribute])*
            fn $test() {
                use crate::store::contract::{self, Backend};
                contract::$test(&<$backend as Backend>::new());
            }
    };
}
pub(crate) use contract;

pub(crate) fn name(raw: &str) -> UserName {
    UserName::parse(raw).unwrap()
}

pub(crate) fn groups(names: &[&str]) -> Groups {
    Groups::new(names.iter().map(|name| GroupName::parse(name).unwrap())).unwrap()
}

pub(crate) fn hash() -> StoredHash {
    PasswordHash::dummy(Cost::DEFAULT).into()
}

fn other_hash() -> StoredHash {
    PasswordHash::dummy(Cost::new(5).unwrap()).into()
}

/// Returns a hash that wraps one of this scheme.
pub(crate) fn wrapped_hash(scheme: LegacyScheme, salt: &str, rounds: Option<u32>) -> StoredHash {
    let params = LegacyParams::new(scheme, salt, rounds).unwrap();
    let imported = Timestamp::from_seconds(1_700_000_000).unwrap();
    StoredHash { wrapped: Some(WrappedHash { params, imported }), ..other_hash() }
}

pub(crate) fn account(of: &str) -> Account {
    let now = Timestamp::from_seconds(1_800_000_000).unwrap();
    Account {
        name: name(of),
        hash: Ok(hash()),
        credential_version: CredentialVersion::default(),
        groups: Groups::default(),
        locked: false,
        expires: None,
        created: now,
        changed: now,
    }
}

pub(crate) fn put(store: &dyn UserStore, account: &Account) -> Result<(), StoreError> {
    let mut transaction = store.begin()?;
    transaction.put(account)?;
    transaction.commit().wait()
}

pub(crate) fn add(store: &dyn UserStore, of: &str) -> Result<(), StoreError> {
    put(store, &account(of))
}

pub(crate) fn remove(store: &dyn UserStore, of: &str) -> Result<bool, StoreError> {
    let mut transaction = store.begin()?;
    let removed = transaction.remove(&name(of))?;
    let ended = if removed { transaction.commit() } else { transaction.rollback() };
    ended.wait().map(|()| removed)
}

pub(crate) fn user_exists_from_put_to_remove(backend: &impl Backend) {
    let (one, other) = (backend.open(), backend.open());
    let roy = name("roy");
    assert!(other.is_empty().unwrap());
    add(&*one, "roy").unwrap();
    let credential_version = CredentialVersion::default();
    let user = User { hash: hash(), credential_version, locked: false, expires: None };
    assert_eq!(other.find(&roy).unwrap(), Some(user));
    assert!(other.contains(&roy).unwrap() && !other.is_empty().unwrap());
    assert_eq!(other.count().unwrap(), 1);
    assert_eq!(other.find(&name("Roy")).unwrap(), None, "case matters");
    assert!(remove(&*other, "roy").unwrap());
    assert_eq!(one.find(&roy).unwrap(), None);
    assert!(!one.contains(&roy).unwrap());
    assert!(!remove(&*one, "roy").unwrap());
    one.checkpoint().unwrap();
}

pub(crate) fn record_is_read_as_it_was_put(backend: &impl Backend) {
    let (one, other) = (backend.open(), backend.open());
    let roy = Account {
        groups: groups(&["admin", "staff"]),
        locked: true,
        expires: Timestamp::from_seconds(1000),
        created: Timestamp::from_seconds(1).unwrap(),
        ..account("roy")
    };
    let changed = Account {
        hash: Ok(other_hash()),
        credential_version: CredentialVersion::from_number(i64::MIN),
        groups: groups(&["staff"]),
        locked: false,
        expires: None,
        ..roy.clone()
    };
    // H-09: the parameters of a wrapped hash come and go with it.
    let with_hash = |hash| Account { hash: Ok(hash), ..roy.clone() };
    let apr1 = with_hash(wrapped_hash(LegacyScheme::Apr1, "salt", None));
    let ssha = with_hash(wrapped_hash(LegacyScheme::Ssha, "c2FsdA==", None));
    let sha512 = with_hash(wrapped_hash(LegacyScheme::Sha512Crypt, "salt", Some(9999)));
    for expected in [roy.clone(), changed, apr1, ssha, sha512, roy] {
        let mut transaction = one.begin().unwrap();
        transaction.put(&expected).unwrap();
        assert_eq!(transaction.find(&name("roy")).unwrap().as_ref(), Some(&expected));
        assert!(!all(&*other).contains(&expected), "not visible before the commit");
        transaction.commit().wait().unwrap();
        assert_eq!(all(&*other), [expected]);
    }
}

pub(crate) fn changes_take_effect_together_or_not_at_all(backend: &impl Backend) {
    let (store, other) = (backend.open(), backend.open());
    add(&*store, "ann").unwrap();
    let begin = || {
        let mut transaction = store.begin().unwrap();
        transaction.put(&account("roy")).unwrap();
        transaction.put(&Account { groups: groups(&["staff"]), ..account("ann") }).unwrap();
        transaction.rename(&name("ann"), &name("eve")).unwrap();
        assert_eq!(transaction.names().unwrap(), [name("eve"), name("roy")]);
        transaction
    };
    drop(begin());
    assert_eq!(all(&*other), [account("ann")]);
    begin().rollback().wait().unwrap();
    assert_eq!(all(&*other), [account("ann")]);
    begin().commit().wait().unwrap();
    let eve = Account { groups: groups(&["staff"]), ..account("eve") };
    assert_eq!(all(&*other), [eve, account("roy")], "groups move with the name");
    remove(&*store, "eve").unwrap();
    add(&*store, "eve").unwrap();
    assert_eq!(all(&*other), [account("eve"), account("roy")], "groups are removed with the user");
}

pub(crate) fn name_that_is_taken_or_unknown_cannot_be_changed(backend: &impl Backend) {
    let store = backend.open();
    add(&*store, "ann").unwrap();
    add(&*store, "roy").unwrap();
    let rename = |from, to| store.begin().unwrap().rename(&name(from), &name(to)).unwrap_err();
    assert!(matches!(rename("ann", "roy"), StoreError::UserExists));
    assert!(matches!(rename("joe", "eve"), StoreError::NoSuchUser));
}

pub(crate) fn removal_of_many_users_is_seen_within_its_transaction(backend: &impl Backend) {
    let store = backend.open();
    let with_group = |of: &str| Account { groups: groups(&["wine"]), ..account(of) };
    for of in ["ann", "bob", "cid", "dan", "eve", "fay"] {
        put(&*store, &with_group(of)).unwrap();
    }
    let mut transaction = store.begin().unwrap();
    transaction.prefetch(&["ann", "bob", "cid", "dan", "eve", "joe"].map(name)).unwrap();
    for (of, removed) in [("ann", true), ("ann", false), ("joe", false), ("bob", true)] {
        assert_eq!(transaction.remove(&name(of)).unwrap(), removed, "{of}");
        assert_eq!(transaction.find(&name(of)).unwrap(), None);
    }
    // A removed user comes back without groups.
    transaction.put(&account("ann")).unwrap();
    assert_eq!(transaction.find(&name("ann")).unwrap(), Some(account("ann")));
    assert_eq!(transaction.names().unwrap(), ["ann", "cid", "dan", "eve", "fay"].map(name));
    // A changed, a new and an unread user are removed.
    transaction.put(&account("cid")).unwrap();
    transaction.put(&account("joe")).unwrap();
    for of in ["cid", "joe", "fay"] {
        assert!(transaction.remove(&name(of)).unwrap(), "{of}");
        assert!(!transaction.remove(&name(of)).unwrap(), "{of}");
    }
    assert!(transaction.remove(&name("dan")).unwrap());
    transaction.rename(&name("eve"), &name("dan")).unwrap();
    assert!(matches!(transaction.rename(&name("bob"), &name("cid")), Err(StoreError::NoSuchUser)));
    transaction.commit().wait().unwrap();
    assert_eq!(all(&*store), [account("ann"), with_group("dan")]);
}

pub(crate) fn visiting_all_users_can_be_broken_off(backend: &impl Backend) {
    let store = backend.open();
    for of in ["cid", "ann", "bob"] {
        add(&*store, of).unwrap();
    }
    let mut seen = Vec::new();
    store
        .each(&mut |account| {
            seen.push(account.name);
            if seen.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(seen, [name("ann"), name("bob")], "in the order of their names");
}

pub(crate) fn first_user_and_members_of_groups_are_found(backend: &impl Backend) {
    let store = backend.open();
    let has_member = |group| store.has_member(&GroupName::parse(group).unwrap()).unwrap();
    assert_eq!((store.first().unwrap(), has_member("wine")), (None, false));
    // In the order of their bytes, as the other methods.
    for of in ["ärger", "cid", "ann", "Zoe"] {
        add(&*store, of).unwrap();
    }
    assert_eq!(store.first().unwrap(), Some(name("Zoe")));
    put(&*store, &Account { groups: groups(&["beer", "wine"]), ..account("cid") }).unwrap();
    assert_eq!(["beer", "wine", "win", "Wine"].map(has_member), [true, true, false, false]);
    assert!(remove(&*store, "cid").unwrap());
    assert!(!has_member("wine"));
}

pub(crate) fn lookup_with_groups_reads_both(backend: &impl Backend) {
    let store = backend.open();
    let many: Vec<_> = (0..60).map(|n| format!("group-{n:02}")).collect();
    let many = groups(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let expires = Timestamp::from_seconds(1000);
    let credential_version = CredentialVersion::from_number(-7);
    let roy = Account {
        credential_version,
        groups: many.clone(),
        locked: true,
        expires,
        ..account("roy")
    };
    put(&*store, &roy).unwrap();
    let user = User { hash: hash(), credential_version, locked: true, expires };
    assert_eq!(store.find(&name("roy")).unwrap(), Some(user.clone()));
    let found = store.find_with_groups(&name("roy")).unwrap();
    let found = found.map(|found| (found.user, found.groups));
    assert_eq!(found, Some((user, Arc::new(many))));
    assert_eq!(store.find_with_groups(&name("ann")).unwrap(), None);
}

pub(crate) fn several_users_are_found_in_their_order(backend: &impl Backend) {
    let (store, server) = (backend.open(), backend.serve());
    let ann = Account { groups: groups(&["staff"]), locked: true, ..account("ann") };
    put(&*store, &ann).unwrap();
    add(&*store, "bob").unwrap();
    // A server may not be connected yet.
    store.visibility().wait().unwrap();
    revision(&*server);
    for reader in [&*store as &dyn UserReader, &*server] {
        assert!(reader.find_all(&[]).is_empty());
        let names = ["bob", "roy", "ann", "bob"].map(name);
        let names = names.iter().collect::<Vec<_>>();
        let one_by_one = |name: &&UserName| reader.find(name).unwrap();
        let expected: Vec<_> = names.iter().map(one_by_one).collect();
        assert_eq!(expected.iter().filter(|found| found.is_some()).count(), 3);
        let found = reader.find_all(&names).into_iter().map(Result::unwrap);
        assert_eq!(found.collect::<Vec<_>>(), expected);
        let one_by_one = |name: &&UserName| reader.find_with_groups(name).unwrap();
        let expected: Vec<_> = names.iter().map(one_by_one).collect();
        let found = reader.find_all_with_groups(&names).into_iter().map(Result::unwrap);
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }
}

pub(crate) fn hash_is_replaced_only_if_it_is_still_the_old_one(backend: &impl Backend) {
    let store = backend.open();
    let replace = |old, new| store.replace_hash(&name("roy"), &old, new).unwrap();
    assert!(!replace(hash(), other_hash()), "a missing user is not brought back");
    assert!(store.is_empty().unwrap());
    let roy = Account { locked: true, groups: groups(&["staff"]), ..account("roy") };
    put(&*store, &roy).unwrap();
    assert!(!replace(other_hash(), other_hash()));
    assert_eq!(all(&*store), std::slice::from_ref(&roy));
    assert!(replace(hash(), other_hash()));
    assert_eq!(all(&*store), [Account { hash: Ok(other_hash()), ..roy.clone() }]);
    // H-04: the same bcrypt hash under other parameters is another hash.
    let [old, new] = ["salt", "pepper"].map(|salt| wrapped_hash(LegacyScheme::Apr1, salt, None));
    let wrapped = Account { hash: Ok(new.clone()), ..roy.clone() };
    put(&*store, &wrapped).unwrap();
    assert!(!replace(old, hash()));
    assert!(!replace(other_hash(), hash()));
    assert_eq!(all(&*store), [wrapped]);
    assert!(replace(new, hash()));
    assert_eq!(all(&*store), [roy]);
}

/// Returns the deadline of a request that has come now.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(2)
}

/// Returns the revision for a request of now, like a server: it waits for a reading if no lease covers
/// the request.
fn revision(server: &dyn UserReader) -> Revision {
    match server.revision(Instant::now()) {
        Ok(revision) => revision,
        Err(_) => block_on(server.next_revision(soon())).unwrap(),
    }
}

pub(crate) fn revision_changes_with_every_change_and_only_then(backend: &impl Backend) {
    let (one, other, server) = (backend.open(), backend.open(), backend.serve());
    // With the same reader, after the lease has ended.
    let read = || {
        one.visibility().wait().unwrap();
        revision(&*server)
    };
    let mut seen = vec![read()];
    let mut look = |changed| {
        let now = read();
        assert_eq!(!seen.contains(&now), changed, "{seen:?}, {now:?}");
        seen.push(now);
    };
    look(false);
    other.find(&name("roy")).unwrap();
    revision(&*backend.serve());
    look(false);
    add(&*other, "roy").unwrap();
    look(true);
    remove(&*one, "roy").unwrap();
    look(true);
    assert!(!remove(&*other, "roy").unwrap());
    look(false);
}

/// B-06, F-02: a reading may be as old as the lease, and the end of every transaction that revokes
/// anything waits for the lease.
pub(crate) fn change_is_in_every_revision_read_after_its_wait(backend: &impl Backend) {
    let (server, other) = (backend.serve(), backend.open());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Another thread reads all the time, so that the last reading is from just before the
        // change.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                revision(&*server);
            }
        });
        let _stop = Stop(&done);
        let now = || revision(&*server);
        for n in 0..backend.rounds() {
            let user = format!("user-{n}");
            add(&*other, &user).unwrap();
            let before = now();
            remove(&*other, &user).unwrap();
            assert_ne!(now(), before);
            // A name that was removed may be added again with another password.
            let before = now();
            add(&*other, &user).unwrap();
            assert_ne!(now(), before);
            // Another process has just committed, and this one finds nothing to change.
            let before = now();
            let mut theirs = other.begin().unwrap();
            theirs.remove(&name(&user)).unwrap();
            drop(theirs.commit());
            assert!(!remove(&*other, &user).unwrap());
            assert_ne!(now(), before);
        }
    });
}

/// A guard that ends a thread, also if an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A writer waits for the open transaction, or is refused as busy. It never overwrites its changes.
pub(crate) fn second_writer_does_not_see_or_lose_changes(backend: &impl Backend) {
    let store = backend.open();
    let mut first = store.begin().unwrap();
    first.put(&account("ann")).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            loop {
                match add(&*store, "bob") {
                    Err(StoreError::Busy) => std::thread::yield_now(),
                    other => return other,
                }
            }
        });
        first.commit().wait().unwrap();
        second.join().unwrap().unwrap();
    });
    assert_eq!(all(&*store), [account("ann"), account("bob")]);
}

struct Mock(super::mock::MockStore);

impl Backend for Mock {
    fn new() -> Self {
        Self(super::mock::MockStore::default())
    }

    fn open(&self) -> Box<dyn UserStore> {
        Box::new(self.0.clone())
    }
}

mod mock {
    crate::store::contract::contract!(super::Mock);
}
