//! Reconciles users with a desired state in one transaction.
//!
//! Planning and changing happen in the same transaction. Hashes take long, so they are computed
//! between two transactions, and the plan is made anew until no hash is missing. So no other writer
//! waits for hashes, and concurrent changes are taken into account.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::change::{Change, ChangeKind, FieldChange, compare};
use super::desired::{
    DesiredPassword, DesiredUser, GroupsEdit, IfExists, IfGone, IfMissing, ReconcileOptions,
};
use crate::domain::{Account, Groups, Password, PasswordHash, TooManyGroups, UserName};
use crate::hashing::{self, BcryptKey, HashingError, pool};
use crate::store::{StoreError, Transaction, UserStore};
use crate::time::Timestamp;

/// The maximum number of plans. After as many concurrent changes of hashes, reconciling fails with
/// [`StoreError::Busy`].
const MAX_PLANS: usize = 10;

/// Calls `progress` after this many users that need no hash.
const PROGRESS_STEP: usize = 1024;

/// An error of [`reconcile`]. Nothing was changed, except after [`StoreError::Unconfirmed`].
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// One user cannot be reconciled.
    #[error("user {}: {why}", index + 1)]
    User {
        /// The index in the desired state.
        index: usize,
        /// The reason.
        #[source]
        why: StoreError,
    },
    /// One user would have too many groups.
    #[error("user {}: {why}", index + 1)]
    Groups {
        /// The index in the desired state.
        index: usize,
        /// The reason.
        #[source]
        why: TooManyGroups,
    },
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A hash cannot be computed.
    #[error("no hash could be made: {0}")]
    Hash(#[from] HashingError),
}

/// Reconciles users with the desired state. Returns the changes in the order of `desired`, and then
/// those of pruned users. Of two entries for one user, the second one is applied to the result of
/// the first.
///
/// Calls `progress` from several threads with the number of finished hashes or users, and the
/// number of all.
///
/// # Errors
/// See [`ReconcileError`].
pub fn reconcile(
    store: &dyn UserStore,
    desired: &[DesiredUser],
    options: &ReconcileOptions,
    now: Timestamp,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Change>, ReconcileError> {
    let mut computed = HashMap::new();
    for _ in 0..MAX_PLANS {
        let mut transaction = store.begin()?;
        match plan(&mut *transaction, desired, &computed, options, now, progress) {
            Ok(Plan::NeedsHashes(jobs)) => {
                drop(transaction);
                let run = |jobs: &[HashJob]| run_batch(jobs, desired, options);
                computed.extend(pool::run(&jobs, options.threads, run, progress)?);
            }
            Ok(Plan::Complete(changes)) => {
                let changed = changes.iter().any(|change| change.kind != ChangeKind::Unchanged);
                let ended = if changed && !options.dry_run {
                    transaction.commit()
                } else {
                    transaction.rollback()
                };
                ended.wait()?;
                return Ok(changes);
            }
            Err(e) => {
                transaction.rollback().wait()?;
                return Err(e);
            }
        }
    }
    Err(StoreError::Busy.into())
}

/// Removes users in one transaction. The next request with one of their passwords is refused. A
/// user that does not exist is unchanged.
///
/// # Errors
/// [`RemoveError::Missing`] if users do not exist and `missing` refuses that, or the error of the
/// store. Nothing was changed, except after [`StoreError::Unconfirmed`].
pub fn remove(
    store: &dyn UserStore,
    names: &[UserName],
    missing: IfGone,
) -> Result<Vec<Change>, RemoveError> {
    let mut transaction = store.begin()?;
    let removed = names.iter().map(|name| match transaction.remove(name)? {
        true => Ok(Change::removed(name.clone())),
        false => Ok(Change::none(name.clone())),
    });
    let changes = match removed.collect::<Result<Vec<_>, StoreError>>() {
        Ok(changes) => changes,
        Err(e) => {
            transaction.rollback().wait()?;
            return Err(e.into());
        }
    };
    let is_gone = |change: &&Change| change.kind == ChangeKind::Unchanged;
    let gone: Vec<_> = changes.iter().filter(is_gone).map(|change| change.name.clone()).collect();
    let refused = missing == IfGone::Refuse && !gone.is_empty();
    let ended = if refused || gone.len() == names.len() {
        transaction.rollback()
    } else {
        transaction.commit()
    };
    ended.wait()?;
    if refused { Err(RemoveError::Missing(gone)) } else { Ok(changes) }
}

/// An error of [`remove`].
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// These users do not exist.
    #[error("{} of the users do not exist", .0.len())]
    Missing(Vec<UserName>),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

enum Plan {
    /// All changes are made in the transaction.
    Complete(Vec<Change>),
    /// These hashes have to be computed first.
    NeedsHashes(Vec<HashJob>),
}

fn plan(
    transaction: &mut dyn Transaction,
    desired: &[DesiredUser],
    computed: &HashMap<usize, Computed>,
    options: &ReconcileOptions,
    now: Timestamp,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Plan, ReconcileError> {
    let mut jobs = Vec::new();
    let mut changes = Vec::with_capacity(desired.len());
    for (index, user) in desired.iter().enumerate() {
        match user.reconcile(transaction, computed.get(&index), options, now) {
            Ok(change) => {
                changes.push(change);
                if jobs.is_empty() && changes.len() % PROGRESS_STEP == 0 {
                    progress(changes.len(), desired.len());
                }
            }
            Err(Blocked::NeedsHash { compare }) => jobs.push(HashJob { index, compare }),
            Err(Blocked::Groups(why)) => return Err(ReconcileError::Groups { index, why }),
            Err(Blocked::Store(why)) => return Err(ReconcileError::User { index, why }),
        }
    }
    if !jobs.is_empty() {
        return Ok(Plan::NeedsHashes(jobs));
    }
    if options.prune {
        prune(transaction, desired, &mut changes)?;
    }
    Ok(Plan::Complete(changes))
}

fn prune(
    transaction: &mut dyn Transaction,
    desired: &[DesiredUser],
    changes: &mut Vec<Change>,
) -> Result<(), StoreError> {
    let named: BTreeSet<_> = desired.iter().map(|user| &user.name).collect();
    for name in transaction.names()? {
        if !named.contains(&name) {
            transaction.remove(&name)?;
            changes.push(Change::removed(name));
        }
    }
    Ok(())
}

/// The reason why a user cannot be reconciled in this transaction.
enum Blocked {
    /// The password has to be hashed first, unless it matches the hash `compare`.
    NeedsHash {
        compare: Option<PasswordHash>,
    },
    Groups(TooManyGroups),
    Store(StoreError),
}

impl From<StoreError> for Blocked {
    fn from(e: StoreError) -> Self {
        Self::Store(e)
    }
}

/// The computed hashes of the password of one user.
#[derive(Default)]
struct Computed {
    /// A stored hash, and true if the password matches it.
    compared: Option<(PasswordHash, bool)>,
    /// A new hash of the password.
    fresh: Option<PasswordHash>,
}

impl DesiredUser {
    fn reconcile(
        &self,
        transaction: &mut dyn Transaction,
        computed: Option<&Computed>,
        options: &ReconcileOptions,
        now: Timestamp,
    ) -> Result<Change, Blocked> {
        let unchanged = Change::none(self.name.clone());
        let before = match transaction.find(&self.name) {
            // A user with an unusable record exists all the same.
            Err(StoreError::BadRecord { .. }) if options.existing == IfExists::Skip => {
                return Ok(unchanged);
            }
            before => before?,
        };
        match (&before, options.missing, options.existing) {
            (None, IfMissing::Refuse, _) => return Err(StoreError::NoSuchUser.into()),
            (Some(_), _, IfExists::Refuse) => return Err(StoreError::UserExists.into()),
            (Some(_), _, IfExists::Skip) => return Ok(unchanged),
            (None, IfMissing::Add, _) | (Some(_), _, IfExists::Replace | IfExists::Compare) => {}
        }
        let mut after = self.apply_to(before.as_ref(), computed, options, now)?;
        let mut fields = compare(before.as_ref(), &after);
        let kind = if before.is_some() { ChangeKind::Changed } else { ChangeKind::Added };
        if let Some(name) = self.rename.as_ref().filter(|name| **name != self.name) {
            transaction.rename(&self.name, name)?;
            after.name = name.clone();
            fields.push(FieldChange::Renamed(name.clone()));
        }
        if kind == ChangeKind::Changed && fields.is_empty() {
            return Ok(unchanged);
        }
        after.changed = self.times.map_or(now, |(_, changed)| changed);
        transaction.put(&after)?;
        Ok(Change { name: self.name.clone(), kind, fields })
    }

    /// Returns the record after the change of `before`.
    fn apply_to(
        &self,
        before: Option<&Account>,
        computed: Option<&Computed>,
        options: &ReconcileOptions,
        now: Timestamp,
    ) -> Result<Account, Blocked> {
        let none = Groups::default();
        let had = before.map_or(&none, |before| &before.groups);
        let groups = match &self.groups {
            GroupsEdit::Keep => had.clone(),
            GroupsEdit::Set(groups) => groups.clone(),
            GroupsEdit::Add(groups) => had.with(groups).map_err(Blocked::Groups)?,
            GroupsEdit::Remove(groups) => had.without(groups),
        };
        let hash = match (&self.password, before) {
            (DesiredPassword::Hash(hash), _) => Ok(hash.clone()),
            (DesiredPassword::Keep | DesiredPassword::Initial(_), Some(before)) => {
                before.hash.clone()
            }
            (DesiredPassword::Keep, None) => return Err(StoreError::NoSuchUser.into()),
            (DesiredPassword::Password(_) | DesiredPassword::Initial(_), _) => {
                let compare = options.existing == IfExists::Compare;
                let old = before.filter(|_| compare).and_then(|before| before.hash.as_ref().ok());
                Ok(hash_of(old, computed)?)
            }
        };
        let (created, changed) = self.times.unwrap_or_else(|| {
            before.map_or((now, now), |before| (before.created, before.changed))
        });
        Ok(Account {
            name: self.name.clone(),
            hash,
            groups,
            locked: self.locked.unwrap_or(before.is_some_and(|before| before.locked)),
            expires: self.expires.unwrap_or(before.and_then(|before| before.expires)),
            created,
            changed,
        })
    }
}

/// Returns the hash for a password: `old` if the password matches it, or the fresh one.
fn hash_of(
    old: Option<&PasswordHash>,
    computed: Option<&Computed>,
) -> Result<PasswordHash, Blocked> {
    if let Some(old) = old {
        let compared = computed.and_then(|computed| computed.compared.as_ref());
        match compared.filter(|(hash, _)| hash == old) {
            None => return Err(Blocked::NeedsHash { compare: Some(old.clone()) }),
            Some((_, true)) => return Ok(old.clone()),
            Some((_, false)) => {}
        }
    }
    let fresh = computed.and_then(|computed| computed.fresh.clone());
    fresh.ok_or(Blocked::NeedsHash { compare: None })
}

/// A hash to compute for the password of a user.
struct HashJob {
    index: usize,
    /// Hash only if the password does not match this one.
    compare: Option<PasswordHash>,
}

impl HashJob {
    /// Returns the password, which every user with a job has.
    fn password<'a>(&self, desired: &'a [DesiredUser]) -> Option<&'a Password> {
        match desired.get(self.index).map(|user| &user.password) {
            Some(DesiredPassword::Password(password) | DesiredPassword::Initial(password)) => {
                Some(password)
            }
            _ => None,
        }
    }
}

/// Computes the hashes of some users at once: first the comparisons, and then new hashes for the
/// passwords that do not match.
fn run_batch(
    jobs: &[HashJob],
    desired: &[DesiredUser],
    options: &ReconcileOptions,
) -> Result<Vec<(usize, Computed)>, HashingError> {
    let mut computed: BTreeMap<usize, Computed> = BTreeMap::new();
    let with_password = || jobs.iter().filter_map(|job| Some((job, job.password(desired)?)));
    let (to_compare, pairs): (Vec<_>, Vec<_>) = with_password()
        .filter_map(|(job, password)| {
            Some((job, (BcryptKey::from(password), job.compare.as_ref()?)))
        })
        .unzip();
    for (job, matches) in to_compare.into_iter().zip(hashing::verify_all(&pairs)?) {
        let compared = job.compare.clone().map(|hash| (hash, matches));
        computed.insert(job.index, Computed { compared, fresh: None });
    }
    let (to_hash, keys): (Vec<_>, Vec<_>) = with_password()
        .filter(|(job, _)| {
            let compared = computed.get(&job.index).and_then(|computed| computed.compared.as_ref());
            !compared.is_some_and(|(_, matches)| *matches)
        })
        .map(|(job, password)| (job, BcryptKey::from(password)))
        .unzip();
    let fresh = if options.dry_run {
        vec![PasswordHash::dummy(options.cost); keys.len()]
    } else {
        hashing::hash_all(&keys, options.cost)?
    };
    for (job, hash) in to_hash.into_iter().zip(fresh) {
        computed.entry(job.index).or_default().fresh = Some(hash);
    }
    Ok(computed.into_iter().collect())
}
