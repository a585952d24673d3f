//! Checks the files and the content of a store.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::Connection;
use rustix::fs::OFlags;

use super::connection::{connect_read_only, store_error};
use super::schema::{APPLICATION_ID, version};
use super::{companions, exists, real, rows};
use crate::domain::Cost;
use crate::store::access::{file_problems, folder_problems};
use crate::store::{BUSY_TIMEOUT, FileProblem, Findings, Problem, StoreError, cannot};
use crate::text::printable;

/// Returns the problems of the files of the store, without opening them as a database.
pub(in crate::store) fn check_files(path: &Path) -> Result<Vec<Problem>, StoreError> {
    let path = std::path::absolute(path).map_err(|e| cannot("find", path, e))?;
    if !exists(&path)? {
        return Ok(vec![Problem::Missing]);
    }
    match problems(&real(&path)?) {
        Ok(found) => Ok(found.into_iter().map(Problem::File).collect()),
        Err(e) => refusal(e),
    }
}

/// Returns the error of a store that does not exist.
pub(super) fn missing(path: &Path) -> StoreError {
    let problem = orphaned_companion(path).unwrap_or(Problem::Missing);
    StoreError::refused(path, problem)
}

/// Returns the problem of a companion without a database. SQLite creates companions after the
/// database. So this one belongs to a removed database, and SQLite would bring its content back.
pub(super) fn orphaned_companion(path: &Path) -> Option<Problem> {
    let companion = companions(path).into_iter().find(|file| file.exists())?;
    // Looked for last, since another process may create both at this moment.
    (!path.exists()).then_some(Problem::OrphanedCompanion(companion))
}

/// Checks the content of the database.
pub(in crate::store) fn check_content(path: &Path, minimum: Cost) -> Result<Findings, StoreError> {
    let path = real(&std::path::absolute(path).map_err(|e| cannot("find", path, e))?)?;
    let connection = connect_read_only(&path)?;
    let checked = connection
        .busy_timeout(BUSY_TIMEOUT)
        .map_err(|e| store_error(e, &path))
        .and_then(|()| version(&connection, &path))
        .and_then(|schema| {
            let damage = integrity(&connection, &path)?;
            let Findings { problems, not_upgraded } = records(&connection, &path, schema, minimum)?;
            Ok(Findings { problems: [damage, problems].concat(), not_upgraded })
        });
    checked.or_else(|e| refusal(e).map(Findings::from))
}

/// Turns a refusal into a problem.
fn refusal(e: StoreError) -> Result<Vec<Problem>, StoreError> {
    match e {
        StoreError::Refused { problem, .. } => Ok(vec![problem]),
        e => Err(e),
    }
}

/// Refuses existing files that other users may read or change.
pub(in crate::store) fn refuse_unsafe(path: &Path) -> Result<(), StoreError> {
    let path = std::path::absolute(path).map_err(|e| cannot("find", path, e))?;
    if exists(&path)? { refuse_problems(&real(&path)?) } else { Ok(()) }
}

/// Refuses files that other users may read or change. `path` has no links.
pub(super) fn refuse_problems(path: &Path) -> Result<(), StoreError> {
    problems(path)?.into_iter().next().map_or(Ok(()), |problem| Err(refused(problem)))
}

pub(super) fn refused(problem: FileProblem) -> StoreError {
    StoreError::Refused { location: problem.path.clone().into(), problem: Problem::File(problem) }
}

/// Returns the problems of the files. `path` has no links.
fn problems(path: &Path) -> Result<Vec<FileProblem>, StoreError> {
    let failed = |e| cannot("open", path, e);
    let companions = companions(path);
    let mut problems = folder_problems(path, &companions).map_err(failed)?;
    problems.extend(file_problems(path, &companions).map_err(failed)?);
    // Advice is given about stores only, not about other files.
    if !problems.is_empty() && !is_store(path).map_err(failed)? {
        return Err(StoreError::refused(path, Problem::NotAStore));
    }
    Ok(problems)
}

/// Reads the header of a file without SQLite, which would open its companions as well. Only for a
/// file that is refused anyway, because closing it ends the locks of this process on the database
/// (fcntl(2)).
fn is_store(path: &Path) -> io::Result<bool> {
    // The application id, behind 68 bytes that begin with the magic (file format of SQLite, section
    // 1.3).
    let mut header = [0; 72];
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    match File::options().read(true).custom_flags(flags).open(path)?.read_exact(&mut header) {
        Ok(()) => Ok(header.starts_with(b"SQLite format 3\0")
            && header.ends_with(&APPLICATION_ID.to_be_bytes())),
        Err(e)
            if [io::ErrorKind::UnexpectedEof, io::ErrorKind::IsADirectory].contains(&e.kind()) =>
        {
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

fn integrity(connection: &Connection, path: &Path) -> Result<Vec<Problem>, StoreError> {
    let failed = |e| store_error(e, path);
    let mut statement = connection.prepare("PRAGMA integrity_check").map_err(failed)?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0)).map_err(failed)?;
    let lines = lines.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let damage = lines.into_iter().filter(|line| line != "ok");
    Ok(damage.map(|line| Problem::Damaged(Some(printable(&line)))).collect())
}

fn records(
    connection: &Connection,
    path: &Path,
    schema: u32,
    minimum: Cost,
) -> Result<Findings, StoreError> {
    let failed = |e| store_error(e, path);
    let sql = rows::all_accounts_of_schema(schema);
    let mut statement = connection.prepare(&sql).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let mut findings = Findings::default();
    while let Some(row) = rows.next().map_err(failed)? {
        findings.record(rows::account(row), minimum);
    }
    Ok(findings)
}
