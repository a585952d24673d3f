//! How a server follows the changes of a store that it reads by a timer.
//!
//! Decides which readings of the state can be relied on, how long, and which users have changed.
//! Knows no connection. Time is a parameter, and has to be that of a clock that runs on while the
//! machine sleeps.

use std::time::Duration;

use super::Reading;
use crate::store::Revision;

/// The tag of a state of the store: random, and new with each change. So states with equal tags are
/// equal, also after a failover that has lost commits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct StateTag(pub(crate) i64);

/// The changes since a state.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Changes {
    /// The users with these names were changed or removed.
    Names(Vec<Box<str>>),
    /// Any user may have changed.
    Unknown,
}

/// The answer of the store to a reading.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Answer {
    pub(crate) tag: StateTag,
    /// The changes since [`Follower::last`].
    pub(crate) changes: Changes,
    /// The length of the lease, for which every change waits.
    pub(crate) length: Duration,
    /// The server of the database takes no changes, so it may lack the last ones.
    pub(crate) read_only: bool,
}

/// The reason why an answer cannot be relied on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Rejected {
    #[error("the answer took longer than half of the lease")]
    Late,
    #[error("the server of the database takes no changes")]
    ReadOnly,
}

/// The result of an answer. The changes have to be recorded before the reading is published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    pub(crate) changes: Option<Changes>,
    pub(crate) reading: Reading,
}

/// The state of a server that follows a store. Its revisions count the states that it has seen.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub(crate) struct Follower {
    last: Option<StateTag>,
    revision: u64,
}

impl Follower {
    /// Returns the tag of the last state that was seen.
    pub(crate) fn last(&self) -> Option<StateTag> {
        self.last
    }

    /// Returns the revision of this state, if it is the last one that was seen.
    pub(crate) fn revision_of(&self, tag: StateTag) -> Option<Revision> {
        (self.last == Some(tag)).then_some(Revision(self.revision))
    }

    /// Takes the answer to a reading that was sent at `sent`, and came at `now`.
    ///
    /// # Errors
    /// See [`Rejected`]. The lease of the reading before runs to its own end.
    pub(crate) fn answered(
        &mut self,
        sent: Duration,
        now: Duration,
        answer: Answer,
    ) -> Result<Step, Rejected> {
        let Answer { tag, changes, length, read_only } = answer;
        if now.saturating_sub(sent) > length / 2 {
            return Err(Rejected::Late);
        }
        if read_only {
            return Err(Rejected::ReadOnly);
        }
        let changes = (self.last != Some(tag)).then_some(changes);
        if changes.is_some() {
            self.last = Some(tag);
            self.revision += 1;
        }
        Ok(Step { changes, reading: Reading::new(Revision(self.revision), sent, length) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn answer(tag: i64) -> Answer {
        let changes = Changes::Names(vec!["roy".into()]);
        Answer { tag: StateTag(tag), changes, length: SECOND, read_only: false }
    }

    #[test]
    fn new_tag_is_a_new_revision_with_its_changes() {
        let mut follower = Follower::default();
        let mut at = |seconds: u32, tag| {
            let sent = SECOND * seconds;
            let step = follower.answered(sent, sent, answer(tag)).unwrap();
            assert_eq!(step.reading.until(), sent + SECOND);
            (step.reading.revision.0, step.changes.is_some())
        };
        assert_eq!(at(1, 7), (1, true));
        assert_eq!(at(2, 7), (1, false));
        assert_eq!(at(3, 8), (2, true));
        // The state of an earlier time, after a failover that has lost a change.
        assert_eq!(at(4, 7), (3, true));
        assert_eq!(follower.last(), Some(StateTag(7)));
    }

    /// F-03
    #[test]
    fn reading_is_dated_before_it_is_sent() {
        let mut follower = Follower::default();
        let step = follower.answered(SECOND, SECOND + SECOND / 2, answer(7)).unwrap();
        assert_eq!(step.reading.until(), SECOND * 2);
        let late = SECOND + SECOND / 2 + Duration::from_nanos(1);
        assert_eq!(follower.answered(SECOND, late, answer(8)), Err(Rejected::Late));
        assert_eq!(follower.last(), Some(StateTag(7)), "a rejected answer changes nothing");
    }

    #[test]
    fn answer_of_a_read_only_server_is_rejected() {
        let mut follower = Follower::default();
        let read_only = Answer { read_only: true, ..answer(7) };
        assert_eq!(follower.answered(SECOND, SECOND, read_only), Err(Rejected::ReadOnly));
        assert_eq!(follower, Follower::default());
    }
}
