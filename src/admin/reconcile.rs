//! Reconciles users with a desired state in one transaction.
//!
//! Planning and changing happen in the same transaction. Hashes take long, so they are computed
//! between two transactions, and the plan is made anew until no hash is missing. So no other writer
//! waits for hashes, and concurrent changes are taken into account.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use super::change::{Change, ChangeKind, ChangeSink, FieldChange, compare};
use super::desired::{
    DesiredPassword, DesiredUser, DesiredUsers, GroupsEdit, IfExists, IfGone, IfMissing,
    ReconcileOptions,
};
use crate::domain::{
    Account, CredentialVersion, Groups, LegacyHash, Password, PasswordHash, StoredHash,
    TooManyGroups, UserName, WrappedHash,
};
use crate::hashing::{self, BcryptKey, HashingError, pool};
use crate::store::{StoreError, Transaction, UserStore};
use crate::time::Timestamp;

/// The maximum number of plans. After as many concurrent changes of hashes, reconciling fails with
/// [`StoreError::Busy`].
const MAX_PLANS: usize = 10;

/// Calls `progress` after this many users that need no hash.
const PROGRESS_STEP: usize = 1024;

/// An error of [`reconcile()`]. Nothing was changed, except after [`StoreError::Unconfirmed`].
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// One user cannot be reconciled.
    #[error("user {name}: {why}")]
    User {
        /// The position that [`DesiredUsers`] gives the user.
        position: usize,
        /// The user.
        name: Box<UserName>,
        /// The reason.
        #[source]
        why: StoreError,
    },
    /// One user would have too many groups.
    #[error("user {name}: {why}")]
    Groups {
        /// The position that [`DesiredUsers`] gives the user.
        position: usize,
        /// The user.
        name: Box<UserName>,
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
    /// [`DesiredUsers`] cannot be read again.
    #[error("cannot read the desired users again: {0}")]
    Desired(#[source] io::Error),
    /// [`ChangeSink`] does not take a change.
    #[error("cannot record the changes: {0}")]
    Record(#[source] io::Error),
}

/// Reconciles users as [`reconcile_into`] does, and returns the changes.
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
    let mut changes = Vec::new();
    reconcile_into(store, &desired, &mut changes, options, now, progress)?;
    Ok(changes)
}

/// Reconciles users with the desired state. The sink gets the changes in the order of `desired`, and
/// then those of pruned users. They are made when this function has returned without an error. Of
/// two entries for one user, the second one is applied to the result of the first.
///
/// Calls `progress` from several threads with the number of finished hashes or users, and the
/// number of all.
///
/// # Errors
/// See [`ReconcileError`].
pub fn reconcile_into(
    store: &dyn UserStore,
    desired: &dyn DesiredUsers,
    changes: &mut dyn ChangeSink,
    options: &ReconcileOptions,
    now: Timestamp,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<(), ReconcileError> {
    let mut computed = HashMap::new();
    for _ in 0..MAX_PLANS {
        let mut transaction = match store.begin() {
            Err(StoreError::Conflict) => continue,
            begun => begun?,
        };
        match plan(&mut *transaction, desired, changes, &computed, options, now, progress) {
            Ok(Plan::NeedsHashes(jobs)) => {
                drop(transaction);
                let run = |jobs: &[HashJob]| run_batch(jobs, options, now);
                computed.extend(pool::run(&jobs, options.threads, run, progress)?);
            }
            Ok(Plan::Complete { changed }) => {
                let ended = if changed && !options.dry_run {
                    transaction.commit()
                } else {
                    transaction.rollback()
                };
                match ended.wait() {
                    Err(StoreError::Conflict) => {}
                    ended => return Ok(ended?),
                }
            }
            Err(e) if e.is_conflict() => {}
            Err(e) => {
                transaction.rollback().wait()?;
                return Err(e);
            }
        }
    }
    Err(StoreError::Busy.into())
}

impl ReconcileError {
    /// Returns true if a concurrent change came first, so that a new plan may succeed.
    fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::Conflict) | Self::User { why: StoreError::Conflict, .. }
        )
    }
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
    for _ in 0..MAX_PLANS {
        match remove_once(store, names, missing) {
            Err(RemoveError::Store(StoreError::Conflict)) => {}
            removed => return removed,
        }
    }
    Err(StoreError::Busy.into())
}

fn remove_once(
    store: &dyn UserStore,
    names: &[UserName],
    missing: IfGone,
) -> Result<Vec<Change>, RemoveError> {
    let mut transaction = store.begin()?;
    let mut changes = Vec::with_capacity(names.len());
    let removed = remove_all(&mut *transaction, names, |name, removed| {
        let change = if removed { Change::removed } else { Change::none };
        changes.push(change(name.clone()));
        Ok(())
    });
    let changes = match removed {
        Ok(()) => changes,
        Err(StoreError::Conflict) => return Err(StoreError::Conflict.into()),
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

/// Removes users, with their records read ahead if that is faster. Calls `removed` for each name in
/// order, with true if there was such a user.
fn remove_all<E: From<StoreError>>(
    transaction: &mut dyn Transaction,
    names: &[UserName],
    mut removed: impl FnMut(&UserName, bool) -> Result<(), E>,
) -> Result<(), E> {
    let size = transaction.prefetch_size().max(1);
    for names in names.chunks(size) {
        if names.len() > 1 {
            transaction.prefetch(names)?;
        }
        for name in names {
            removed(name, transaction.remove(name)?)?;
        }
    }
    Ok(())
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
    Complete { changed: bool },
    /// These hashes have to be computed first.
    NeedsHashes(Vec<HashJob>),
}

fn plan(
    transaction: &mut dyn Transaction,
    desired: &dyn DesiredUsers,
    changes: &mut dyn ChangeSink,
    computed: &HashMap<usize, Computed>,
    options: &ReconcileOptions,
    now: Timestamp,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Plan, ReconcileError> {
    let (mut jobs, mut done, mut changed) = (Vec::new(), 0, false);
    let of = desired.count();
    changes.restart().map_err(ReconcileError::Record)?;
    let mut step = |transaction: &mut dyn Transaction, position: usize, user: &DesiredUser| {
        match user.reconcile(transaction, computed.get(&position), options, now) {
            // The changes of an incomplete plan are dropped.
            Ok(_) if !jobs.is_empty() => {}
            Ok(change) => {
                changed |= change.kind != ChangeKind::Unchanged;
                changes.push(change).map_err(ReconcileError::Record)?;
                done += 1;
                if done % PROGRESS_STEP == 0 {
                    progress(done, of);
                }
            }
            Err(Blocked::NeedsHash(needed)) => jobs.push(HashJob { position, needed: *needed }),
            Err(Blocked::Groups(why)) => {
                let name = Box::new(user.name.clone());
                return Err(ReconcileError::Groups { position, name, why });
            }
            Err(Blocked::Store(why)) => {
                let name = Box::new(user.name.clone());
                return Err(ReconcileError::User { position, name, why });
            }
        }
        Ok(())
    };
    visit_ahead(transaction, desired, &mut step)?;
    if !jobs.is_empty() {
        return Ok(Plan::NeedsHashes(jobs));
    }
    if options.prune {
        changed |= prune(transaction, desired, changes)?;
    }
    changes.finish().map_err(ReconcileError::Record)?;
    Ok(Plan::Complete { changed })
}

/// Plans one user, which has this position.
type PlanStep<'a> =
    dyn FnMut(&mut dyn Transaction, usize, &DesiredUser) -> Result<(), ReconcileError> + 'a;

/// Visits the desired users, with their records read ahead if that is faster.
fn visit_ahead(
    transaction: &mut dyn Transaction,
    desired: &dyn DesiredUsers,
    step: &mut PlanStep<'_>,
) -> Result<(), ReconcileError> {
    let size = transaction.prefetch_size().min(desired.count());
    if size <= 1 {
        return desired.visit(&mut |position, user| step(transaction, position, user));
    }
    let mut ahead: Vec<(usize, DesiredUser)> = Vec::with_capacity(size);
    let mut run = |ahead: &mut Vec<(usize, DesiredUser)>| {
        let names: Vec<_> = ahead.iter().map(|(_, user)| user.name.clone()).collect();
        transaction.prefetch(&names)?;
        ahead.drain(..).try_for_each(|(position, user)| step(transaction, position, &user))
    };
    desired.visit(&mut |position, user| {
        ahead.push((position, user.clone()));
        if ahead.len() == size { run(&mut ahead) } else { Ok(()) }
    })?;
    run(&mut ahead)
}

/// Removes users that are not desired. Returns true if there were any.
fn prune(
    transaction: &mut dyn Transaction,
    desired: &dyn DesiredUsers,
    changes: &mut dyn ChangeSink,
) -> Result<bool, ReconcileError> {
    let mut named = BTreeSet::new();
    desired.visit(&mut |_, user| {
        named.insert(user.name.clone());
        Ok(())
    })?;
    let mut surplus = transaction.names()?;
    surplus.retain(|name| !named.contains(name));
    remove_all(transaction, &surplus, |name, _| {
        changes.push(Change::removed(name.clone())).map_err(ReconcileError::Record)
    })?;
    Ok(!surplus.is_empty())
}

/// The reason why a user cannot be reconciled in this transaction.
enum Blocked {
    /// A hash has to be computed first.
    NeedsHash(Box<NeededHash>),
    Groups(TooManyGroups),
    Store(StoreError),
}

/// A hash that a plan needs.
struct NeededHash {
    source: HashSource,
    /// Hash only if the source does not match this one.
    compare: Option<StoredHash>,
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
    compared: Option<(StoredHash, bool)>,
    /// A new hash of the password.
    fresh: Option<StoredHash>,
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
            (DesiredPassword::Password(password) | DesiredPassword::Initial(password), _) => {
                let compare = options.existing == IfExists::Compare;
                let old = before.filter(|_| compare).and_then(|before| before.hash.as_ref().ok());
                Ok(hash_of(&HashSource::Password(password.clone()), old, computed)?)
            }
            (DesiredPassword::Legacy(hash), _) => {
                Ok(hash_of(&HashSource::Legacy(hash.clone()), None, computed)?)
            }
        };
        let version = before.filter(|before| before.hash == hash);
        let credential_version = version
            .map_or_else(CredentialVersion::generate, |before| Ok(before.credential_version))
            .map_err(|e| StoreError::failed_by(format!("there are no random numbers: {e}"), e))?;
        let (created, changed) = self.times.unwrap_or_else(|| {
            before.map_or((now, now), |before| (before.created, before.changed))
        });
        Ok(Account {
            name: self.name.clone(),
            hash,
            credential_version,
            groups,
            locked: self.locked.unwrap_or(before.is_some_and(|before| before.locked)),
            expires: self.expires.unwrap_or(before.and_then(|before| before.expires)),
            created,
            changed,
        })
    }
}

/// The source of a new hash.
#[derive(Clone)]
enum HashSource {
    Password(Password),
    Legacy(LegacyHash),
}

impl HashSource {
    fn key(&self) -> BcryptKey {
        match self {
            Self::Password(password) => password.into(),
            Self::Legacy(hash) => BcryptKey::of_legacy(hash),
        }
    }

    /// Returns the key to compare with a stored hash.
    fn key_for(&self, hash: &StoredHash) -> BcryptKey {
        match self {
            Self::Password(password) => {
                let key = BcryptKey::of_candidate(password.reveal().as_bytes(), hash);
                key.unwrap_or_else(BcryptKey::dummy)
            }
            Self::Legacy(legacy) => BcryptKey::of_legacy(legacy),
        }
    }

    fn stored(&self, bcrypt: PasswordHash, now: Timestamp) -> StoredHash {
        let wrapped = match self {
            Self::Password(_) => None,
            Self::Legacy(hash) => {
                Some(WrappedHash { params: hash.params().clone(), imported: now })
            }
        };
        StoredHash { bcrypt, wrapped }
    }
}

/// Returns the hash to store: `old` if the password matches it, or the fresh one.
fn hash_of(
    source: &HashSource,
    old: Option<&StoredHash>,
    computed: Option<&Computed>,
) -> Result<StoredHash, Blocked> {
    let blocked =
        |compare| Err(Blocked::NeedsHash(Box::new(NeededHash { source: source.clone(), compare })));
    if let Some(old) = old {
        let compared = computed.and_then(|computed| computed.compared.as_ref());
        match compared.filter(|(hash, _)| hash == old) {
            None => return blocked(Some(old.clone())),
            Some((_, true)) => return Ok(old.clone()),
            Some((_, false)) => {}
        }
    }
    computed.and_then(|computed| computed.fresh.clone()).map_or_else(|| blocked(None), Ok)
}

/// A hash to compute for a user. It owns its source, since the desired users are read again and not
/// kept.
struct HashJob {
    position: usize,
    needed: NeededHash,
}

/// Computes the hashes of some users at once: first the comparisons, and then new hashes for the
/// passwords that do not match.
fn run_batch(
    jobs: &[HashJob],
    options: &ReconcileOptions,
    now: Timestamp,
) -> Result<Vec<(usize, Computed)>, HashingError> {
    let mut computed: BTreeMap<usize, Computed> = BTreeMap::new();
    let to_compare = jobs.iter().filter_map(|job| {
        let hash = job.needed.compare.as_ref()?;
        Some(((job.position, hash), (job.needed.source.key_for(hash), &hash.bcrypt)))
    });
    let (to_compare, pairs): (Vec<_>, Vec<_>) = to_compare.unzip();
    for ((position, hash), matches) in to_compare.into_iter().zip(hashing::verify_all(&pairs)?) {
        let compared = Some((hash.clone(), matches));
        computed.insert(position, Computed { compared, fresh: None });
    }
    let to_hash = jobs.iter().filter(|job| {
        let compared = computed.get(&job.position).and_then(|computed| computed.compared.as_ref());
        !compared.is_some_and(|(_, matches)| *matches)
    });
    let (to_hash, keys): (Vec<_>, Vec<_>) =
        to_hash.map(|job| (job, job.needed.source.key())).unzip();
    let fresh = if options.dry_run {
        vec![PasswordHash::dummy(options.cost); keys.len()]
    } else {
        hashing::hash_all(&keys, options.cost)?
    };
    for (job, hash) in to_hash.into_iter().zip(fresh) {
        computed.entry(job.position).or_default().fresh = Some(job.needed.source.stored(hash, now));
    }
    Ok(computed.into_iter().collect())
}
