//! The users that have changed lately, by name, so that only their cache entries become outdated.
//!
//! Knows nothing of the change itself: a name in doubt counts as changed.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::Changes;
use crate::store::Revision;

/// The revisions of the last changes by name. At most [`ChangedNames::LIMIT`] names are kept.
#[derive(Default)]
pub(crate) struct ChangedNames(RwLock<Log>);

#[derive(Default)]
struct Log {
    names: HashMap<Box<str>, Revision>,
    /// Every name may have changed at this revision, or before it.
    all: Revision,
}

impl ChangedNames {
    const LIMIT: usize = 10_000;

    /// Records the changes that led to this revision. They have to be recorded before a reading of
    /// the revision is published.
    pub(crate) fn record(&self, changes: Changes, at: Revision) {
        let mut log = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match changes {
            Changes::Names(names) if log.names.len() + names.len() <= Self::LIMIT => {
                log.names.extend(names.into_iter().map(|name| (name, at)));
            }
            Changes::Names(_) | Changes::Unknown => *log = Log { names: HashMap::new(), all: at },
        }
    }

    /// Returns true if the user has not changed since this revision, as far as is recorded.
    pub(crate) fn is_unchanged(&self, name: &str, since: Revision) -> bool {
        let log = self.0.read().unwrap_or_else(PoisonError::into_inner);
        log.all.0 <= since.0 && log.names.get(name).is_none_or(|changed| changed.0 <= since.0)
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
        let many: Vec<Box<str>> = (1..=ChangedNames::LIMIT).map(|n| n.to_string().into()).collect();
        log.record(Changes::Names(many), Revision(1));
        assert!(log.is_unchanged("roy", Revision(0)));
        log.record(names(&["ann"]), Revision(2));
        assert!(!log.is_unchanged("roy", Revision(1)) && log.is_unchanged("roy", Revision(2)));
    }
}
