//! The desired state of users.

use std::num::NonZeroUsize;
use std::thread;

use crate::domain::{Cost, Groups, Password, PasswordHash, UserName};
use crate::time::Timestamp;

/// The desired state of one user.
#[derive(Clone, Debug)]
pub struct DesiredUser {
    /// The name, before a rename.
    pub name: UserName,
    /// The desired password.
    pub password: DesiredPassword,
    /// The change of the groups.
    pub groups: GroupsEdit,
    /// Locked or unlocked. `None` keeps it.
    pub locked: Option<bool>,
    /// The expiry, `Some(None)` for none. `None` keeps it.
    pub expires: Option<Option<Timestamp>>,
    /// The new name.
    pub rename: Option<UserName>,
    /// The times of creation and change, instead of now.
    pub times: Option<(Timestamp, Timestamp)>,
}

impl DesiredUser {
    /// Desires this password, and keeps everything else.
    #[must_use]
    pub fn new(name: UserName, password: DesiredPassword) -> Self {
        let groups = GroupsEdit::Keep;
        Self { name, password, groups, locked: None, expires: None, rename: None, times: None }
    }
}

/// The desired password of a user.
#[derive(Clone, Debug)]
pub enum DesiredPassword {
    /// The current one.
    Keep,
    /// This one.
    Password(Password),
    /// This one for a new user, the current one for an existing user.
    Initial(Password),
    /// The one with this hash.
    Hash(PasswordHash),
}

/// A change of the groups of a user.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum GroupsEdit {
    Keep,
    Set(Groups),
    Add(Groups),
    Remove(Groups),
}

/// The treatment of a user that does not exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum IfMissing {
    Refuse,
    Add,
}

/// The treatment of a user to remove that does not exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum IfGone {
    Refuse,
    Skip,
}

/// The treatment of a user that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IfExists {
    /// Fail.
    Refuse,
    /// Keep the user unchanged.
    Skip,
    /// Change the user. A password gets a new hash.
    Replace,
    /// Change the user. A password that matches the stored hash keeps it.
    Compare,
}

/// Options of [`reconcile`](super::reconcile()).
#[derive(Clone, Debug)]
pub struct ReconcileOptions {
    /// For users that do not exist.
    pub missing: IfMissing,
    /// For users that exist.
    pub existing: IfExists,
    /// Remove users that are not in the desired state.
    pub prune: bool,
    /// Change nothing.
    pub dry_run: bool,
    /// The cost of new hashes.
    pub cost: Cost,
    /// The number of threads that compute hashes.
    pub threads: NonZeroUsize,
}

impl ReconcileOptions {
    /// Reconciles on all cores, without pruning. A desired state without passwords needs no cost
    /// and ignores it.
    #[must_use]
    pub fn new(missing: IfMissing, existing: IfExists) -> Self {
        let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let cost = Cost::DEFAULT;
        Self { missing, existing, prune: false, dry_run: false, cost, threads }
    }
}
