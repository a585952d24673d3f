//! The queries of a server: the state of the database, and the records of users.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::{Job, QUERY_TIMEOUT, Reply};
use crate::domain::UserName;
use crate::store::lease::{Answer, Changes, Follower, StateTag};
use crate::store::postgres::boot_clock::boot_time;
use crate::store::postgres::connect::describe;
use crate::store::postgres::rows::{self, FoundRow};
use crate::store::postgres::session::store_error;
use crate::store::{FoundUser, RecordState, StoreError};

/// The state, whether the state with the tag `$1` is known, and the names of the users that have
/// changed since, or NULL if any may have changed. One statement sees one state.
///
/// The planner takes a table that was never analyzed for one of a thousand rows, and compiles a plan
/// for so many (JIT), for 20 ms at each reading. The condition on the key tells it that there is one.
pub(in crate::store::postgres) const STATE: &str = "SELECT tag, lease_ms, version,
        pg_catalog.current_setting('transaction_read_only')::bool,
        since.revision IS NOT NULL AND NOT EXISTS (
            SELECT FROM resttool.changes
            WHERE revision > since.revision AND names IS NULL
        ),
        ARRAY(
            SELECT DISTINCT name FROM resttool.changes, unnest(names) AS name
            WHERE changes.revision > since.revision
        )
    FROM resttool.state
    LEFT JOIN (SELECT revision FROM resttool.changes WHERE tag = $1) AS since ON true
    WHERE state.id = 1";

/// A reading of the state, before it counts.
pub(super) struct StateReading {
    /// The time before it was sent.
    pub(super) sent: Duration,
    /// The version of the schema.
    pub(super) version: i32,
    pub(super) answer: Answer,
}

/// Reads the state, and the changes since the one with this tag.
///
/// # Errors
/// Returns the reason why the connection has to be given up.
pub(super) async fn read_state(
    client: &Client,
    last: Option<StateTag>,
) -> Result<StateReading, String> {
    let sent = boot_time();
    let last = last.map(|tag| tag.0);
    let values: [(&(dyn ToSql + Sync), Type); 1] = [(&last, Type::INT8)];
    let row = client.query_typed_one(STATE, &values).await.map_err(|e| describe(&e))?;
    let (version, answer) = answer(&row).map_err(|e| describe(&e))?;
    Ok(StateReading { sent, version, answer })
}

fn answer(row: &Row) -> Result<(i32, Answer), tokio_postgres::Error> {
    let length: i32 = row.try_get(1)?;
    let is_known: bool = row.try_get(4)?;
    let names: Vec<&str> = row.try_get(5)?;
    let names = names.into_iter().map(Box::from).collect();
    let changes = if is_known { Changes::Names(names) } else { Changes::Unknown };
    let answer = Answer {
        tag: StateTag(row.try_get(0)?),
        changes,
        length: Duration::from_millis(u64::from(length.unsigned_abs())),
        read_only: row.try_get(3)?,
    };
    Ok((row.try_get(2)?, answer))
}

/// The look-ups that are under way, without groups and with them.
#[derive(Default)]
pub(super) struct Lookups {
    users: QueryLine,
    users_with_groups: QueryLine,
}

/// Look-ups that share queries, one at a time. Those that come while a query is under way share the
/// next one: it may have read records that are outdated for a later request.
#[derive(Default)]
struct QueryLine {
    /// Answered by the query that has begun.
    begun: Option<Waiting>,
    /// Answered by the next one.
    next: Waiting,
    /// The look-ups of `begun`, or else of `next`, were left by an earlier connection.
    repeats: bool,
}

type Waiting = HashMap<UserName, Vec<Reply>>;

/// The users that a query reads.
pub(super) struct Wanted {
    names: Vec<UserName>,
    with_groups: bool,
}

impl Lookups {
    /// Adds a look-up. Returns the query to begin, if none is under way.
    pub(super) fn add(&mut self, job: Job) -> Option<Wanted> {
        let with_groups = job.with_groups;
        self.keep(job);
        self.line(with_groups).begin(with_groups)
    }

    /// Adds a look-up for the next connection.
    pub(super) fn keep(&mut self, job: Job) {
        self.line(job.with_groups).next.entry(job.name).or_default().push(job.reply);
    }

    /// Keeps the look-ups that a connection has left, for the next one. Refuses those that it had
    /// from another one: no look-up waits for a third connection.
    pub(super) fn keep_left(&mut self) {
        self.users.keep_left();
        self.users_with_groups.keep_left();
    }

    /// Returns the queries to begin on a new connection.
    pub(super) fn begin(&mut self) -> impl Iterator<Item = Wanted> {
        [self.users.begin(false), self.users_with_groups.begin(true)].into_iter().flatten()
    }

    /// Answers the look-ups of a query. Returns the next query to begin, if there are more.
    pub(super) fn answer(
        &mut self,
        mut read: Result<ReadUsers, StoreError>,
        with_groups: bool,
        follower: &Follower,
    ) -> Option<Wanted> {
        let line = self.line(with_groups);
        line.repeats = false;
        for (name, replies) in line.begun.take().into_iter().flatten() {
            let found = match &mut read {
                Ok(read) => read.take(&name, follower),
                Err(e) => Err(e.repeat()),
            };
            for reply in replies {
                reply.send(match &found {
                    Ok(found) => Ok(found.clone()),
                    Err(e) => Err(e.repeat()),
                });
            }
        }
        line.begin(with_groups)
    }

    fn line(&mut self, with_groups: bool) -> &mut QueryLine {
        if with_groups { &mut self.users_with_groups } else { &mut self.users }
    }
}

impl QueryLine {
    fn begin(&mut self, with_groups: bool) -> Option<Wanted> {
        if self.begun.is_some() || self.next.is_empty() {
            return None;
        }
        let begun = self.begun.insert(std::mem::take(&mut self.next));
        Some(Wanted { names: begun.keys().cloned().collect(), with_groups })
    }

    fn keep_left(&mut self) {
        let begun = self.begun.take().unwrap_or_default();
        if self.repeats {
            refuse(begun);
        } else {
            for (name, replies) in begun {
                self.next.entry(name).or_default().extend(replies);
            }
        }
        self.repeats = !self.next.is_empty();
    }
}

/// Refuses the look-ups that are left.
impl Drop for QueryLine {
    fn drop(&mut self) {
        refuse(self.begun.take().unwrap_or_default());
        refuse(std::mem::take(&mut self.next));
    }
}

fn refuse(lookups: Waiting) {
    for reply in lookups.into_values().flatten() {
        reply.send(Err(StoreError::Unreachable("the connection was lost".to_owned())));
    }
}

/// The users that a query has found, and the tag of the state that has them.
pub(super) struct ReadUsers {
    users: HashMap<UserName, FoundRow>,
    tag: StateTag,
}

impl ReadUsers {
    /// Returns the record with the revision of its state. The server may not have read that state
    /// yet, and a failover may lose it.
    fn take(
        &mut self,
        name: &UserName,
        follower: &Follower,
    ) -> Result<Option<FoundUser>, StoreError> {
        let Some(row) = self.users.remove(name) else { return Ok(None) };
        let (user, groups) =
            row.map_err(|why| StoreError::BadRecord { user: name.clone(), why })?;
        let state = follower.revision_of(self.tag);
        let state = state.map_or(RecordState::Unknown, RecordState::Revision);
        Ok(Some(FoundUser { user, groups: Arc::new(groups), state }))
    }
}

/// Reads the records of users. Returns them, and whether with groups.
pub(super) async fn run(client: &Client, wanted: Wanted) -> (bool, Result<ReadUsers, StoreError>) {
    let found = tokio::time::timeout(QUERY_TIMEOUT, find(client, &wanted)).await;
    let timed_out = || Err(StoreError::Unreachable("no answer in time".to_owned()));
    (wanted.with_groups, found.unwrap_or_else(|_| timed_out()))
}

async fn find(client: &Client, wanted: &Wanted) -> Result<ReadUsers, StoreError> {
    let Wanted { names, with_groups } = wanted;
    let sql = if *with_groups { rows::USERS_WITH_GROUPS } else { rows::USERS };
    let names: Vec<_> = names.iter().map(UserName::as_str).collect();
    let rows = client.query_typed(sql, &[(&names, Type::TEXT_ARRAY)]).await.map_err(store_error)?;
    let mut read = ReadUsers { users: HashMap::new(), tag: StateTag(0) };
    for row in rows {
        let read_only: bool = row.try_get(0).map_err(store_error)?;
        if read_only {
            return Err(StoreError::Unreachable("the server takes no changes".to_owned()));
        }
        // One statement sees one state, so this is the same in every row.
        read.tag = StateTag(row.try_get(rows::TAG).map_err(store_error)?);
        read.users.extend(rows::found(&row, *with_groups)?);
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;
    use crate::domain::{CredentialVersion, Groups, User};
    use crate::store::contract::{hash, name};

    type Found = Receiver<Result<Option<FoundUser>, StoreError>>;

    fn job(of: &str, with_groups: bool) -> (Job, Found) {
        let (reply, found) = sync_channel(1);
        (Job { name: name(of), with_groups, reply: Reply::Blocking(reply) }, found)
    }

    fn names(wanted: Option<Wanted>) -> Vec<String> {
        let mut names: Vec<_> =
            wanted.unwrap().names.iter().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        names
    }

    fn read(of: &str) -> ReadUsers {
        let user = User {
            hash: hash(),
            credential_version: CredentialVersion::default(),
            locked: false,
            expires: None,
        };
        let users = HashMap::from([(name(of), Ok((user, Groups::default())))]);
        ReadUsers { users, tag: StateTag(1) }
    }

    /// F-07: a look-up takes one query, or waits for the one that has begun. No look-up is answered by
    /// a query that began before it came.
    #[test]
    fn lookups_that_wait_share_the_next_query() {
        let (mut lookups, follower) = (Lookups::default(), Follower::default());
        let (first, first_found) = job("ann", false);
        assert_eq!(names(lookups.add(first)), ["ann"]);
        let mut waiting = Vec::new();
        for of in ["ann", "bob", "bob"] {
            let (job, found) = job(of, false);
            assert!(lookups.add(job).is_none(), "{of}: a query is under way");
            waiting.push(found);
        }
        let (grouped, with_groups) = job("ann", true);
        assert_eq!(names(lookups.add(grouped)), ["ann"], "another query");
        assert_eq!(names(lookups.answer(Ok(read("ann")), false, &follower)), ["ann", "bob"]);
        assert!(first_found.try_recv().unwrap().unwrap().is_some());
        assert!(waiting.iter().all(|found| found.try_recv().is_err()));
        assert!(lookups.answer(Ok(read("bob")), false, &follower).is_none());
        let found = |found: &Found| found.try_recv().unwrap().unwrap().is_some();
        assert_eq!(waiting.iter().map(found).collect::<Vec<_>>(), [false, true, true]);
        assert!(with_groups.try_recv().is_err());
        let failed = StoreError::Unreachable("gone".to_owned());
        assert!(lookups.answer(Err(failed), true, &follower).is_none());
        let with_groups = with_groups.try_recv().unwrap();
        assert!(matches!(with_groups, Err(StoreError::Unreachable(_))), "{with_groups:?}");
    }

    /// F-05: a look-up outlives one connection, and waits for no third one. Later ones are not refused
    /// with it.
    #[test]
    fn lookup_waits_for_one_more_connection() {
        let (mut lookups, follower) = (Lookups::default(), Follower::default());
        let wanted = |lookups: &mut Lookups| {
            let wanted = lookups.begin().map(|wanted| (wanted.with_groups, names(Some(wanted))));
            wanted.map(|(groups, names)| (groups, names.join(" "))).collect::<Vec<_>>()
        };
        let add = |lookups: &mut Lookups, of: &str, with_groups| {
            let (job, found) = job(of, with_groups);
            (lookups.add(job).is_some(), found)
        };
        let (begun, ann) = add(&mut lookups, "ann", false);
        assert!(begun);
        let (begun, bob) = add(&mut lookups, "bob", false);
        assert!(!begun);
        lookups.keep_left();
        let (grouped, eve) = job("eve", true);
        lookups.keep(grouped);
        let second = [(false, "ann bob".to_owned()), (true, "eve".to_owned())];
        assert_eq!(wanted(&mut lookups), second);
        let (begun, joe) = add(&mut lookups, "joe", false);
        assert!(!begun, "a query is under way");
        lookups.keep_left();
        for found in [&ann, &bob] {
            let found = found.try_recv().unwrap();
            assert!(matches!(found, Err(StoreError::Unreachable(_))), "{found:?}");
        }
        // It came between connections, so it has waited for one.
        assert!(eve.try_recv().is_err());
        let third = [(false, "joe".to_owned()), (true, "eve".to_owned())];
        assert_eq!(wanted(&mut lookups), third);
        assert!(lookups.answer(Ok(read("joe")), false, &follower).is_none());
        assert!(joe.try_recv().unwrap().unwrap().is_some());
        let (begun, ann) = add(&mut lookups, "ann", false);
        assert!(begun);
        lookups.keep_left();
        assert!(ann.try_recv().is_err(), "an answer begins anew");
        assert_eq!(wanted(&mut lookups), [(false, "ann".to_owned())]);
        let eve = eve.try_recv().unwrap();
        assert!(matches!(eve, Err(StoreError::Unreachable(_))), "{eve:?}");
    }

    #[test]
    fn lookups_are_refused_at_the_end_of_the_connection() {
        let mut lookups = Lookups::default();
        let found = ["ann", "bob"].map(|of| {
            let (job, found) = job(of, false);
            lookups.add(job);
            found
        });
        drop(lookups);
        for found in found {
            let found = found.try_recv().unwrap();
            assert!(matches!(found, Err(StoreError::Unreachable(_))), "{found:?}");
        }
    }
}
