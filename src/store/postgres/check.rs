//! Checks the content and the settings of a database.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, pin_mut};

use super::connect::ConnectionParams;
use super::session::Session;
use super::url::PostgresUrl;
use super::{rows, schema, transaction};
use crate::domain::Cost;
use crate::store::{DatabaseProblem, Findings, Problem, StoreError};

/// A difference of the clocks in seconds that matters for the expiry of users.
const CLOCK_TOLERANCE: u64 = 5;

/// A transaction of this age is no usual change.
const LONG: Duration = Duration::from_secs(5);

/// The pause between two looks at a transaction.
const POLL: Duration = Duration::from_millis(100);

/// A longer lease surprises the operator.
const LONG_LEASE: Duration = Duration::from_secs(10);

/// The triggers that record changes, by table.
const TRIGGERS: [(&str, &str); 8] = [
    ("users", "note_insert"),
    ("users", "note_update"),
    ("users", "note_delete"),
    ("users", "note_truncate"),
    ("memberships", "note_join"),
    ("memberships", "note_move"),
    ("memberships", "note_leave"),
    ("memberships", "note_truncate"),
];

/// A row for each right that the role lacks: the role, the right, and true if servers need it.
const MISSING_RIGHTS: &str = "WITH schema AS (
        SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'resttool'
    )
    SELECT current_user::text, 'USAGE on the schema', true FROM schema
    WHERE NOT pg_catalog.has_schema_privilege(oid, 'USAGE')
    UNION ALL
    SELECT current_user::text, kind || ' on ' || name, kind = 'SELECT'
    FROM schema JOIN pg_catalog.pg_class AS tables ON relnamespace = schema.oid
    JOIN (VALUES ('users', 'SELECT'), ('users', 'INSERT'), ('users', 'UPDATE'), ('users', 'DELETE'),
            ('memberships', 'SELECT'), ('memberships', 'INSERT'), ('memberships', 'DELETE'),
            ('state', 'SELECT'), ('state', 'UPDATE'), ('changes', 'SELECT'))
        AS needed (name, kind) ON relname = name
    WHERE NOT pg_catalog.has_table_privilege(tables.oid, kind)
    ORDER BY 2";

/// The number of standbys for which no commit waits, a setting of commits, the clock, and the encoding.
const SETTINGS: &str = "SELECT
        CASE WHEN pg_catalog.current_setting('synchronous_standby_names') = '' THEN (
            SELECT count(*) FROM pg_catalog.pg_stat_replication
            WHERE state IS DISTINCT FROM 'backup'
        ) ELSE 0 END,
        pg_catalog.current_setting('synchronous_commit') = 'off',
        extract(epoch FROM pg_catalog.clock_timestamp())::bigint,
        pg_catalog.current_setting('server_encoding')";

/// The transaction that keeps others from the tables, with its age, and true if it keeps readers from
/// them too. The age is NULL if the role may not see sessions of other roles.
const BLOCKING: &str = "SELECT pid, locks.virtualtransaction, tables.relname::text,
        extract(epoch FROM pg_catalog.clock_timestamp() - activity.xact_start)::bigint,
        locks.mode = 'AccessExclusiveLock'
    FROM pg_catalog.pg_namespace AS schema
    JOIN pg_catalog.pg_class AS tables ON tables.relnamespace = schema.oid
    JOIN pg_catalog.pg_locks AS locks ON locks.relation = tables.oid
    JOIN pg_catalog.pg_database AS databases ON databases.oid = locks.database
    JOIN pg_catalog.pg_stat_activity AS activity USING (pid)
    WHERE schema.nspname = 'resttool' AND databases.datname = pg_catalog.current_database()
        AND tables.relname IN ('users', 'memberships', 'state', 'changes')
        AND locks.granted AND pid <> pg_catalog.pg_backend_pid()
        AND (
            locks.mode IN
                ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
            OR tables.relname = 'state' AND locks.mode IN ('RowShareLock', 'RowExclusiveLock')
        )
    ORDER BY 5 DESC, 4 DESC NULLS LAST LIMIT 1";

const TRIGGERS_OF_TABLES: &str = "SELECT relname::text, tgname::text, tgenabled IN ('O', 'A')
    FROM pg_catalog.pg_trigger JOIN pg_catalog.pg_class ON pg_class.oid = tgrelid
    WHERE relnamespace = 'resttool'::regnamespace";

/// Checks a database. Hashes that cost less than `minimum` are problems.
pub(in crate::store) fn check(url: &PostgresUrl, minimum: Cost) -> Result<Findings, StoreError> {
    let session = Session::open(&ConnectionParams::new(url)?)?;
    // Without a right to read, and behind an exclusive lock, there is nothing more to see.
    let rights = MissingRights::read(&session)?;
    if let Some(problem) = rights.for_servers() {
        return Ok(vec![Problem::Database(problem)].into());
    }
    let blocking = find_blocking(&session)?;
    if let Some(problem @ DatabaseProblem::TableLocked { blocks_readers: true, .. }) = blocking {
        return Ok(vec![Problem::Database(problem)].into());
    }
    match schema::check(url, schema::version(&session)?) {
        Err(StoreError::Refused { problem, .. }) => return Ok(vec![problem].into()),
        checked => checked?,
    }
    let mut findings = Findings::default();
    let mut add = |problem| findings.problems.push(Problem::Database(problem));
    rights.for_commands().map(&mut add);
    of_settings(&session)?.into_iter().for_each(&mut add);
    let lease = transaction::read_lease(&session)?;
    if lease > LONG_LEASE {
        add(DatabaseProblem::LongLease { lease });
    }
    blocking.map(&mut add);
    of_triggers(&session)?.into_iter().for_each(&mut add);
    session.stream(async |client| {
        let rows = client.query_typed_raw::<&str, _>(rows::ALL_ACCOUNTS, []).await?;
        pin_mut!(rows);
        while let Some(row) = rows.next().await {
            findings.record(rows::account(&row?), minimum);
        }
        Ok(())
    })?;
    Ok(findings)
}

/// The rights that the role lacks.
struct MissingRights {
    role: String,
    of_servers: Vec<String>,
    of_commands: Vec<String>,
}

impl MissingRights {
    fn read(session: &Session) -> Result<Self, StoreError> {
        session.run(async |client| {
            let mut missing =
                Self { role: String::new(), of_servers: Vec::new(), of_commands: Vec::new() };
            for row in client.query_typed(MISSING_RIGHTS, &[]).await? {
                missing.role = row.try_get(0)?;
                let of = match row.try_get(2)? {
                    true => &mut missing.of_servers,
                    false => &mut missing.of_commands,
                };
                of.push(row.try_get(1)?);
            }
            Ok(missing)
        })
    }

    fn for_servers(&self) -> Option<DatabaseProblem> {
        let (role, rights) = (self.role.clone(), self.of_servers.join(", "));
        (!rights.is_empty()).then_some(DatabaseProblem::BlindRole { role, rights })
    }

    fn for_commands(&self) -> Option<DatabaseProblem> {
        let (role, rights) = (self.role.clone(), self.of_commands.join(", "));
        (!rights.is_empty()).then_some(DatabaseProblem::ReadOnlyRole { role, rights })
    }
}

fn of_triggers(session: &Session) -> Result<Vec<DatabaseProblem>, StoreError> {
    let is_enabled: BTreeMap<(String, String), bool> = session.run(async |client| {
        let rows = client.query_typed(TRIGGERS_OF_TABLES, &[]).await?;
        rows.iter().map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?))).collect()
    })?;
    let problems = TRIGGERS.iter().filter_map(|(table, trigger)| {
        let (table, trigger) = ((*table).to_owned(), (*trigger).to_owned());
        match is_enabled.get(&(table.clone(), trigger.clone())) {
            Some(true) => None,
            Some(false) => Some(DatabaseProblem::DisabledTrigger { table, trigger }),
            None => Some(DatabaseProblem::MissingTrigger { table, trigger }),
        }
    });
    Ok(problems.collect())
}

fn of_settings(session: &Session) -> Result<Vec<DatabaseProblem>, StoreError> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let before = now();
    let (standbys, may_lose_commits, theirs, encoding) = session.run(async |client| {
        let row = client.query_typed_one(SETTINGS, &[]).await?;
        Ok((row.try_get::<_, i64>(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?))
    })?;
    let mut problems: Vec<_> = schema::check_encoding(encoding).err().into_iter().collect();
    if may_lose_commits {
        problems.push(DatabaseProblem::AsynchronousCommits);
    }
    if standbys > 0 {
        problems.push(DatabaseProblem::AsynchronousStandbys { count: standbys });
    }
    problems.extend(of_clocks(before, theirs, now()));
    Ok(problems)
}

/// Compares the clock of the database with this one, which was read before and after it.
fn of_clocks(before: u64, theirs: i64, after: u64) -> Option<DatabaseProblem> {
    let theirs = u64::try_from(theirs).unwrap_or(0);
    let seconds = before.saturating_sub(theirs).max(theirs.saturating_sub(after));
    (seconds > CLOCK_TOLERANCE).then_some(DatabaseProblem::ClockDiffers { seconds })
}

/// A transaction that keeps others from a table.
struct BlockingTransaction {
    pid: i32,
    id: String,
    table: String,
    age: Option<i64>,
    blocks_readers: bool,
}

impl BlockingTransaction {
    fn read(session: &Session) -> Result<Option<Self>, StoreError> {
        session.run(async |client| {
            let Some(row) = client.query_typed_opt(BLOCKING, &[]).await? else { return Ok(None) };
            Ok(Some(Self {
                pid: row.try_get(0)?,
                id: row.try_get(1)?,
                table: row.try_get(2)?,
                age: row.try_get(3)?,
                blocks_readers: row.try_get(4)?,
            }))
        })
    }
}

/// Looks for a transaction that has kept others from a table for [`LONG`]. Watches one for as long if
/// its age is hidden, or if the check would have to wait for it anyway.
fn find_blocking(session: &Session) -> Result<Option<DatabaseProblem>, StoreError> {
    let (start, mut seen) = (Instant::now(), None);
    while let Some(found) = BlockingTransaction::read(session)? {
        let BlockingTransaction { pid, id, table, age, blocks_readers } = found;
        let is_first = *seen.get_or_insert_with(|| id.clone()) == id;
        let watched = if is_first { start.elapsed() } else { Duration::ZERO };
        let seconds = age.map_or(watched.as_secs(), i64::unsigned_abs);
        if seconds >= LONG.as_secs() {
            return Ok(Some(DatabaseProblem::TableLocked { table, pid, seconds, blocks_readers }));
        }
        // A usual change, or one after another.
        if !blocks_readers && (age.is_some() || !is_first) || start.elapsed() > 2 * LONG {
            break;
        }
        thread::sleep(POLL);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_by_5_s_and_the_time_of_the_query() {
        let differs = |seconds| Some(DatabaseProblem::ClockDiffers { seconds });
        for (before, theirs, after, found) in [
            (1000, 1000, 1000, None),
            (1000, 995, 1000, None),
            (1000, 1005, 1000, None),
            (1000, 994, 1000, differs(6)),
            (1000, 1006, 1000, differs(6)),
            // The answer took 30 s, and the clock was read at any time before it.
            (1000, 995, 1030, None),
            (1000, 1035, 1030, None),
            (1000, 994, 1030, differs(6)),
            (1000, 1036, 1030, differs(6)),
            (1000, -1, 1000, differs(1000)),
        ] {
            assert_eq!(of_clocks(before, theirs, after), found, "{before} {theirs} {after}");
        }
    }
}
