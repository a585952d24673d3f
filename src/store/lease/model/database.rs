//! The servers of the database, as far as the lease depends on them.

use super::{LENGTH, Rules};
use crate::store::lease::{Answer, Changes, StateTag};

/// The record of roy. His passwords are the old one, which every request shows, and a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Row {
    None,
    /// The old password, by the number of its hash. A rehash stores another one.
    Old(u8),
    New,
}

/// A change of one user. A change that finds another state than it needs is none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Change {
    Remove,
    SetPassword,
    /// Inserts roy with his old password.
    Restore,
    /// Inserts roy with a new password.
    Insert,
    Rehash,
    /// Changes another user.
    Other,
}

impl Change {
    pub(super) fn is_insert(self) -> bool {
        matches!(self, Self::Insert | Self::Restore)
    }

    fn user(self) -> &'static str {
        if self == Self::Other { "ann" } else { "roy" }
    }

    /// Returns the row after this change, or `None` if there is nothing to change.
    fn of(self, row: Row) -> Option<Row> {
        match (self, row) {
            (Self::Remove, Row::Old(_) | Row::New) => Some(Row::None),
            (Self::SetPassword, Row::Old(_)) => Some(Row::New),
            (Self::Restore, Row::None) => Some(Row::Old(0)),
            (Self::Insert, Row::None) => Some(Row::New),
            (Self::Rehash, Row::Old(0)) => Some(Row::Old(1)),
            (Self::Other, row) => Some(row),
            _ => None,
        }
    }
}

/// A server of the database.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Node {
    pub(super) row: Row,
    revision: i64,
    pub(super) tag: StateTag,
    /// The last changes, the oldest first: the tag that each led to, and its user.
    log: Vec<(StateTag, &'static str)>,
    /// Older changes are no longer in the log.
    is_cut: bool,
    pub(super) read_only: bool,
}

impl Node {
    pub(super) fn new() -> Self {
        let tag = StateTag(0);
        let log = vec![(tag, "roy")];
        Self { row: Row::Old(0), revision: 0, tag, log, is_cut: false, read_only: false }
    }

    /// Commits a change, with the next of the unique tags. Returns `None` if there is nothing to
    /// change.
    pub(super) fn changed(
        &self,
        change: Change,
        unique: u8,
        limit: usize,
        rules: Rules,
    ) -> Option<Self> {
        let row = change.of(self.row)?;
        let revision = self.revision + 1;
        let tag = StateTag(if rules.tags_are_unique { unique.into() } else { revision });
        let mut log = self.log.clone();
        log.push((tag, change.user()));
        let mut is_cut = self.is_cut;
        if log.len() > limit {
            log.remove(0);
            is_cut = true;
        }
        Some(Self { row, revision, tag, log, is_cut, read_only: self.read_only })
    }

    pub(super) fn with_read_only(&self, read_only: bool) -> Self {
        Self { read_only, ..self.clone() }
    }

    /// Returns true if roy is in the log.
    pub(super) fn is_logged(&self) -> bool {
        self.log.iter().any(|(_, user)| *user == "roy")
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Returns the number of changes, as SQLite's `data_version` counts them.
    pub(super) fn data_version(&self) -> u64 {
        self.revision.unsigned_abs()
    }

    /// Answers a reading of a server that has seen the state `last`.
    pub(super) fn answer(&self, last: Option<StateTag>, rules: Rules) -> Answer {
        let read_only = self.read_only && rules.rejects_read_only_answers;
        Answer {
            tag: self.tag,
            changes: self.changes_since(last, rules),
            length: LENGTH,
            read_only,
        }
    }

    fn changes_since(&self, last: Option<StateTag>, rules: Rules) -> Changes {
        let seen = last.and_then(|last| self.log.iter().rposition(|(tag, _)| *tag == last));
        let later = match (seen, last) {
            (Some(seen), _) => seen + 1,
            (None, Some(_)) if !rules.gap_is_unknown => 0,
            (None, _) => return Changes::Unknown,
        };
        Changes::Names(self.log.iter().skip(later).map(|(_, user)| (*user).into()).collect())
    }
}
