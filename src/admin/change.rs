//! The changes that were made.

use std::fmt;
use std::io;

use crate::domain::{Account, GroupName, Groups, UserName};
use crate::time::Timestamp;

/// The change of one user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The name, before a rename.
    pub name: UserName,
    /// The kind of the change.
    pub kind: ChangeKind,
    /// The changed fields. Of a new user, those that differ from the defaults.
    pub fields: Vec<FieldChange>,
}

impl Change {
    /// Returns the change of a user that stays as it is.
    #[must_use]
    pub fn none(name: UserName) -> Self {
        Self { name, kind: ChangeKind::Unchanged, fields: Vec::new() }
    }

    pub(super) fn removed(name: UserName) -> Self {
        Self { name, kind: ChangeKind::Removed, fields: Vec::new() }
    }
}

/// A destination of planned changes. They are made when the transaction is committed, so the sink
/// reports none of them before that.
pub trait ChangeSink {
    /// Begins a plan. Forgets the changes of an earlier plan, which was abandoned.
    ///
    /// # Errors
    /// Fails if the sink cannot take changes. The transaction is rolled back.
    fn restart(&mut self) -> io::Result<()>;

    /// Adds a change.
    ///
    /// # Errors
    /// Fails if the sink cannot take the change. The transaction is rolled back.
    fn push(&mut self, change: Change) -> io::Result<()>;

    /// Ends a plan before its commit.
    ///
    /// # Errors
    /// Fails if the sink would lose changes. The transaction is rolled back.
    fn finish(&mut self) -> io::Result<()>;
}

impl ChangeSink for Vec<Change> {
    fn restart(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }

    fn push(&mut self, change: Change) -> io::Result<()> {
        Vec::push(self, change);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The kind of a [`Change`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ChangeKind {
    Added,
    Changed,
    Removed,
    Unchanged,
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Unchanged => "unchanged",
        })
    }
}

/// The change of a field of a record.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum FieldChange {
    Password,
    Joined(GroupName),
    Left(GroupName),
    Locked,
    Unlocked,
    Expires(Option<Timestamp>),
    Renamed(UserName),
    /// The times of creation and change.
    Times,
}

/// Writes the form of JSON and of the audit log, e.g. `joined:admin`.
impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password => f.write_str("password"),
            Self::Joined(group) => write!(f, "joined:{group}"),
            Self::Left(group) => write!(f, "left:{group}"),
            Self::Locked => f.write_str("locked"),
            Self::Unlocked => f.write_str("unlocked"),
            Self::Expires(None) => f.write_str("expires:never"),
            Self::Expires(Some(time)) => write!(f, "expires:{time}"),
            Self::Renamed(name) => write!(f, "renamed:{name}"),
            Self::Times => f.write_str("times"),
        }
    }
}

/// Compares a record with the one before, `None` for a new user.
pub(super) fn compare(before: Option<&Account>, after: &Account) -> Vec<FieldChange> {
    let none = Groups::default();
    let had = before.map_or(&none, |before| &before.groups);
    let mut changes = Vec::new();
    if before.is_some_and(|before| before.hash != after.hash) {
        changes.push(FieldChange::Password);
    }
    changes.extend(after.groups.without(had).iter().cloned().map(FieldChange::Joined));
    changes.extend(had.without(&after.groups).iter().cloned().map(FieldChange::Left));
    match (before.is_some_and(|before| before.locked), after.locked) {
        (false, true) => changes.push(FieldChange::Locked),
        (true, false) => changes.push(FieldChange::Unlocked),
        (true, true) | (false, false) => {}
    }
    if before.and_then(|before| before.expires) != after.expires {
        changes.push(FieldChange::Expires(after.expires));
    }
    if before.is_some_and(|b| (b.created, b.changed) != (after.created, after.changed)) {
        changes.push(FieldChange::Times);
    }
    changes
}
