//! The users that have changed lately, by name, so that only their cache entries become outdated.
//!
//! Knows nothing of the change itself: a name in doubt counts as changed.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use super::Changes;
use crate::store::Revision;

/// The revisions of the last changes by name. All requests share it.
#[derive(Default)]
pub(crate) struct ChangedNames(RwLock<ChangeLog>);

/// The revisions of the last changes by name. At most [`ChangeLog::LIMIT`] names are kept.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct ChangeLog {
    names: BTreeMap<Box<str>, Revision>,
    /// Every name may have changed at this revision, or before it.
    all: Revision,
}

impl ChangedNames {
    /// Records the changes that led to this revision. They have to be recorded before a reading of
    /// the revision is published.
    pub(crate) fn record(&self, changes: Changes, at: Revision) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).record(changes, at);
    }

    /// Returns true if the user has not changed since this revision, as far as is recorded.
    pub(crate) fn is_unchanged(&self, name: &str, since: Revision) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_unchanged(name, since)
    }
}

impl ChangeLog {
    const LIMIT: usize = 10_000;

    pub(super) fn record(&mut self, changes: Changes, at: Revision) {
        match changes {
            Changes::Names(names) if self.names.len() + names.len() <= Self::LIMIT => {
                self.names.extend(names.into_iter().map(|name| (name, at)));
            }
            Changes::Names(_) | Changes::Unknown => {
                *self = Self { names: BTreeMap::new(), all: at }
            }
        }
    }

    pub(super) fn is_unchanged(&self, name: &str, since: Revision) -> bool {
        self.all.0 <= since.0 && self.names.get(name).is_none_or(|changed| changed.0 <= since.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Changes {
        Changes::Names(names.iter().map(|name| (*name).into()).collect())
    }

    /// F-06
    #[test]
    fn name_is_changed_until_the_revision_of_its_change() {
        let log = ChangedNames::default();
        let unchanged = |name, since| log.is_unchanged(name, Revision(since));
        assert!(unchanged("roy", 0));
        log.record(names(&["roy", "ann"]), Revision(2));
        assert!(!unchanged("roy", 1) && !unchanged("ann", 1));
        assert!(unchanged("roy", 2) && unchanged("bob", 1));
        log.record(names(&["ann"]), Revision(3));
        assert!(unchanged("roy", 2) && !unchanged("ann", 2));
    }

    /// F-06
    #[test]
    fn unknown_changes_are_those_of_every_name() {
        let log = ChangedNames::default();
        log.record(names(&["roy"]), Revision(1));
        log.record(Changes::Unknown, Revision(3));
        for name in ["roy", "bob"] {
            assert!(!log.is_unchanged(name, Revision(2)) && log.is_unchanged(name, Revision(3)));
        }
    }

    #[test]
    fn more_names_than_the_limit_are_unknown_changes() {
        let log = ChangedNames::default();
        let many: Vec<Box<str>> = (1..=ChangeLog::LIMIT).map(|n| n.to_string().into()).collect();
        log.record(Changes::Names(many), Revision(1));
        assert!(log.is_unchanged("roy", Revision(0)));
        log.record(names(&["ann"]), Revision(2));
        assert!(!log.is_unchanged("roy", Revision(1)) && log.is_unchanged("roy", Revision(2)));
    }
}
