//! The queries of a server: the state of the database, and the records of users.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::{Job, QUERY_TIMEOUT, Reply};
use crate::domain::{Groups, User, UserName};
use crate::store::lease::{Answer, Changes, Follower, StateTag};
use crate::store::postgres::boot_clock::boot_time;
use crate::store::postgres::connect::describe;
use crate::store::postgres::rows;
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
    limit: Duration,
) -> Result<StateReading, String> {
    let sent = boot_time();
    let last = last.map(|tag| tag.0);
    let values: [(&(dyn ToSql + Sync), Type); 1] = [(&last, Type::INT8)];
    let row = tokio::time::timeout(limit, client.query_typed_one(STATE, &values)).await;
    let row = row
        .map_err(|_| format!("no answer within {} ms", limit.as_millis()))?
        .map_err(|e| describe(&e))?;
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

/// A look-up, by name and whether it reads the groups.
pub(super) type LookupKey = (UserName, bool);

/// The look-ups that are under way. Look-ups of the same user share the next query, not one that has
/// begun: it may have read a record that is outdated for a later request.
#[derive(Default)]
pub(super) struct Lookups(HashMap<LookupKey, Shares>);

#[derive(Default)]
struct Shares {
    /// Answered by the query that has begun.
    begun: Vec<Reply>,
    /// Answered by the next one.
    next: Vec<Reply>,
}

impl Lookups {
    /// Adds a look-up. Returns the query to begin, if none of this user is under way.
    pub(super) fn add(&mut self, job: Job) -> Option<LookupKey> {
        let key = (job.name, job.with_groups);
        match self.0.get_mut(&key) {
            Some(shares) => {
                shares.next.push(job.reply);
                None
            }
            None => {
                self.0.insert(key.clone(), Shares { begun: vec![job.reply], next: Vec::new() });
                Some(key)
            }
        }
    }

    /// Answers the look-ups of a query. Returns the next query to begin, if there are more.
    pub(super) fn answer(
        &mut self,
        key: &LookupKey,
        found: &Result<Option<FoundUser>, StoreError>,
    ) -> Option<LookupKey> {
        let Shares { begun, next } = self.0.remove(key)?;
        for reply in begun {
            reply.send(match found {
                Ok(found) => Ok(found.clone()),
                Err(e) => Err(e.repeat()),
            });
        }
        if next.is_empty() {
            return None;
        }
        self.0.insert(key.clone(), Shares { begun: next, next: Vec::new() });
        Some(key.clone())
    }
}

/// Refuses the look-ups that are under way when the connection ends.
impl Drop for Lookups {
    fn drop(&mut self) {
        for (_, Shares { begun, next }) in self.0.drain() {
            for reply in begun.into_iter().chain(next) {
                reply.send(Err(StoreError::Unreachable("the connection was lost".to_owned())));
            }
        }
    }
}

/// A record, and the tag of the state that has it.
pub(super) struct ReadRecord {
    user: User,
    groups: Groups,
    tag: StateTag,
}

impl ReadRecord {
    /// Returns the record with the revision of its state. The server may not have read that state
    /// yet, and a failover may lose it.
    pub(super) fn found(self, follower: &Follower) -> FoundUser {
        let state = follower.revision_of(self.tag);
        let state = state.map_or(RecordState::Unknown, RecordState::Revision);
        FoundUser { user: self.user, groups: Arc::new(self.groups), state }
    }
}

type ReadResult = Result<Option<ReadRecord>, StoreError>;

/// Reads the record of a user.
pub(super) async fn run(client: &Client, key: LookupKey) -> (LookupKey, ReadResult) {
    let found = tokio::time::timeout(QUERY_TIMEOUT, find(client, &key)).await;
    let timed_out = || Err(StoreError::Unreachable("no answer in time".to_owned()));
    (key, found.unwrap_or_else(|_| timed_out()))
}

async fn find(client: &Client, (name, with_groups): &LookupKey) -> ReadResult {
    let sql = if *with_groups { rows::ONE_USER_WITH_GROUPS } else { rows::ONE_USER };
    let row = client.query_typed_one(sql, &[(&name.as_str(), Type::TEXT)]).await;
    let row = row.map_err(store_error)?;
    let read_only: bool = row.try_get(0).map_err(store_error)?;
    if read_only {
        return Err(StoreError::Unreachable("the server takes no changes".to_owned()));
    }
    let tag = StateTag(row.try_get(rows::TAG).map_err(store_error)?);
    let found = rows::found(&row, name, *with_groups)?;
    Ok(found.map(|(user, groups)| ReadRecord { user, groups, tag }))
}
