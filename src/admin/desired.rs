//! The desired state of users.

use std::num::NonZeroUsize;
use std::thread;

use super::reconcile::ReconcileError;
use crate::domain::{Cost, Groups, LegacyHash, Password, StoredHash, UserName};
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

/// Desired users that can be visited again: once for each plan. Each visit gives the same users in
/// the same order.
pub trait DesiredUsers {
    /// Returns the number of users.
    fn count(&self) -> usize;

    /// Calls `visit` for each user and its position, until it fails. Two users have different
    /// positions, e.g. their indices or line numbers.
    ///
    /// # Errors
    /// The error of `visit`, or [`ReconcileError::Desired`] if the users cannot be read again.
    fn visit(&self, visit: &mut Visit<'_>) -> Result<(), ReconcileError>;
}

/// The function that [`DesiredUsers::visit`] calls.
pub type Visit<'a> = dyn FnMut(usize, &DesiredUser) -> Result<(), ReconcileError> + 'a;

/// The positions are the indices.
impl DesiredUsers for &[DesiredUser] {
    fn count(&self) -> usize {
        self.len()
    }

    fn visit(&self, visit: &mut Visit<'_>) -> Result<(), ReconcileError> {
        self.iter().enumerate().try_for_each(|(index, user)| visit(index, user))
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
    Hash(StoredHash),
    /// The one with this hash of a legacy scheme, which is wrapped in bcrypt.
    Legacy(LegacyHash),
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

/// Options of [`reconcile_into`](super::reconcile_into).
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
