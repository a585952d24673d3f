//! Checks the content and the settings of a database.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, pin_mut};
use tokio_postgres::Row;

use super::connect::ConnectionParams;
use super::session::Session;
use super::url::PostgresUrl;
use super::{rows, schema, transaction};
use crate::domain::Cost;
use crate::store::{DatabaseProblem, Findings, Problem, StoreError};

/// A difference of the clocks that matters for the expiry of users.
const CLOCK_TOLERANCE: i64 = 5;

/// A transaction of this age in seconds is no usual change.
const LONG: i64 = 5;

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

const SETTINGS: &str = "SELECT current_user::text,
        (SELECT bool_and(pg_catalog.has_table_privilege('resttool.' || name, kind))
            FROM (VALUES ('users', 'INSERT'), ('users', 'UPDATE'), ('users', 'DELETE'),
                ('memberships', 'INSERT'), ('memberships', 'DELETE'), ('state', 'UPDATE'))
            AS needed (name, kind)),
        CASE WHEN pg_catalog.current_setting('synchronous_standby_names') = ''
            THEN (SELECT count(*) FROM pg_catalog.pg_stat_replication) ELSE 0 END,
        extract(epoch FROM pg_catalog.clock_timestamp())::bigint";

const LOCKS: &str = "SELECT activity.pid,
        extract(epoch FROM pg_catalog.clock_timestamp() - activity.xact_start)::bigint
    FROM pg_catalog.pg_locks AS locks
    JOIN pg_catalog.pg_stat_activity AS activity USING (pid)
    WHERE locks.relation = 'resttool.state'::regclass
        AND locks.mode IN ('RowShareLock', 'RowExclusiveLock') AND locks.granted
    ORDER BY 2 DESC LIMIT 1";

const ENABLED: &str = "SELECT tgrelid::regclass::text, tgname::text FROM pg_catalog.pg_trigger
    WHERE tgrelid IN ('resttool.users'::regclass, 'resttool.memberships'::regclass)
        AND tgenabled IN ('O', 'A')";

/// Checks a database. Hashes that cost less than `minimum` are problems.
pub(in crate::store) fn check(url: &PostgresUrl, minimum: Cost) -> Result<Findings, StoreError> {
    let session = Session::open(&ConnectionParams::new(url)?)?;
    match schema::check(url, schema::version(&session)?) {
        Err(StoreError::Refused { problem, .. }) => return Ok(vec![problem].into()),
        checked => checked?,
    }
    let mut findings = Findings::default();
    let settings = session.run(async |client| client.query_typed_one(SETTINGS, &[]).await)?;
    let locks = session.run(async |client| client.query_typed_opt(LOCKS, &[]).await)?;
    let triggers = session.run(async |client| client.query_typed(ENABLED, &[]).await)?;
    let problems = of_settings(&settings).map_err(super::session::store_error)?;
    findings.problems.extend(problems.into_iter().map(Problem::Database));
    let lease = transaction::read_lease(&session)?;
    if lease > LONG_LEASE {
        findings.problems.push(Problem::Database(DatabaseProblem::LongLease { lease }));
    }
    findings.problems.extend(locks.and_then(|row| of_lock(&row)).map(Problem::Database));
    let has = |(table, trigger): &(&str, &str)| {
        let table = format!("resttool.{table}");
        triggers.iter().any(|row| {
            row.try_get::<_, &str>(0).is_ok_and(|found| found == table)
                && row.try_get::<_, &str>(1).is_ok_and(|found| found == *trigger)
        })
    };
    for (table, trigger) in TRIGGERS.iter().filter(|wanted| !has(wanted)) {
        let (table, trigger) = ((*table).to_owned(), (*trigger).to_owned());
        let problem = DatabaseProblem::MissingTrigger { table, trigger };
        findings.problems.push(Problem::Database(problem));
    }
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

fn of_settings(row: &Row) -> Result<Vec<DatabaseProblem>, tokio_postgres::Error> {
    let mut problems = Vec::new();
    let may_write: bool = row.try_get(1)?;
    if !may_write {
        problems.push(DatabaseProblem::ReadOnlyRole { role: row.try_get(0)? });
    }
    let count: i64 = row.try_get(2)?;
    if count > 0 {
        problems.push(DatabaseProblem::AsynchronousStandbys { count });
    }
    let theirs: i64 = row.try_get(3)?;
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let seconds = theirs.saturating_sub_unsigned(ours).saturating_abs();
    if seconds > CLOCK_TOLERANCE {
        problems.push(DatabaseProblem::ClockDiffers { seconds });
    }
    Ok(problems)
}

fn of_lock(row: &Row) -> Option<DatabaseProblem> {
    let (pid, seconds) = (row.try_get(0).ok()?, row.try_get(1).ok()?);
    (seconds >= LONG).then_some(DatabaseProblem::StateLocked { pid, seconds })
}
