//! Advice: the commands that fix the problems of a store.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::domain::BadRecord;
use crate::fs::{beside, folder};
use crate::store::{
    DatabaseProblem, FileProblem, FileProblemKind, Location, Problem, serve_grants,
};
use crate::text::{shell_operand, shell_word};

/// Returns a command that fixes the problem, or advice if no single command does.
pub(super) fn fix(problem: &Problem, store: &Location) -> Option<String> {
    let is_database = matches!(store, Location::Postgres(_));
    let store = store.shell_word();
    match problem {
        Problem::Missing if is_database => {
            Some(format!("resttool database init --database {store}"))
        }
        Problem::Missing => Some(format!("resttool useradd NAME --database {store}")),
        Problem::NotAStore => {
            Some("name another file with --database; a missing one is made".to_owned())
        }
        Problem::OlderSchema { .. } => {
            Some(format!("resttool database migrate --database {store}"))
        }
        Problem::Database(problem) => Some(fix_database(problem)),
        Problem::UnknownSchema { .. } => Some("use a newer resttool".to_owned()),
        Problem::OrphanedCompanion(path) => {
            Some(format!("put the database back, or remove the companion: rm {}", shell_word(path)))
        }
        Problem::Damaged(_) => Some(
            "put a backup in its place, or rescue what is left with sqlite3's .recover".to_owned(),
        ),
        Problem::File(problem) => fix_file(problem),
        Problem::BadName(_) => None,
        Problem::BadRecord { user, why } => {
            let command = match why {
                BadRecord::Hash(_) | BadRecord::Field("hash") => "passwd",
                BadRecord::Field(_) => "userdel",
            };
            let user = shell_operand(user.as_str());
            Some(format!("resttool {command} --database {store} {user}"))
        }
        Problem::TooManyRounds { user, .. } | Problem::WeakHash { user, .. } => {
            Some(format!("resttool passwd --database {store} {}", shell_operand(user.as_str())))
        }
    }
}

/// Returns advice about an error of the system, if there is any.
pub(super) fn system(e: &io::Error) -> Option<&'static str> {
    Some(match Errno::from_io_error(e)? {
        Errno::ROFS => "make the file system writable, or name another file",
        Errno::ACCESS | Errno::PERM => {
            "change its mode or owner, or run the command as another user"
        }
        Errno::MFILE | Errno::NFILE => "raise the limit of open files, e.g. ulimit -n 1024",
        Errno::NOSPC | Errno::DQUOT => "make room on the file system",
        _ => return None,
    })
}

fn fix_database(problem: &DatabaseProblem) -> String {
    match problem {
        DatabaseProblem::Encoding { .. } => {
            "create another one: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0".to_owned()
        }
        DatabaseProblem::BlindRole { role, .. } => {
            let role = format!("\"{}\"", role.replace('"', "\"\""));
            serve_grants(&role).join(" ")
        }
        DatabaseProblem::AsynchronousCommits => {
            "set synchronous_commit to 'on' for the role and the database".to_owned()
        }
        DatabaseProblem::ReadOnlyRole { .. } => {
            "use another role for commands; this one is enough for 'resttool serve'".to_owned()
        }
        DatabaseProblem::AsynchronousStandbys { .. } => {
            "set synchronous_standby_names, e.g. to 'ANY 1 (*)'".to_owned()
        }
        DatabaseProblem::ClockDiffers { .. } => "set both clocks by NTP".to_owned(),
        DatabaseProblem::LongLease { .. } => {
            "copy the users to a database with a shorter lease: 'resttool database copy'".to_owned()
        }
        DatabaseProblem::TableLocked { pid, .. } => {
            format!("end that transaction, e.g. with pg_terminate_backend({pid})")
        }
        DatabaseProblem::MissingTrigger { .. } => {
            "copy the users to a new database: 'resttool database init' and 'database copy'"
                .to_owned()
        }
        DatabaseProblem::DisabledTrigger { table, trigger } => {
            format!("ALTER TABLE resttool.{table} ENABLE TRIGGER {trigger}")
        }
    }
}

fn fix_file(FileProblem { path, kind }: &FileProblem) -> Option<String> {
    let word = shell_word(path);
    let set_aside = || format!("mv {word} {}", shell_word(beside(path, ".set-aside")));
    match kind {
        FileProblemKind::NotPlain { companion } => companion.then(set_aside),
        FileProblemKind::NotPrivate { .. } => Some(format!("chmod 600 {word}")),
        // A companion of another user is neither trusted nor given to the owner of the store,
        // because it may be any file of that user. A database is known to be a store. It is given
        // to the owner unless it has another name.
        FileProblemKind::WrongOwner { companion: true, .. } => Some(set_aside()),
        FileProblemKind::WrongOwner { links: 1, expected, group, .. } => {
            Some(format!("chown -h {expected}:{group} {word}"))
        }
        FileProblemKind::WrongOwner { .. } => None,
        FileProblemKind::ManyNames { .. } => Some(set_aside()),
        FileProblemKind::SharedFolder { can_change: true, .. } => {
            Some(format!("chmod go-w {word}"))
        }
        FileProblemKind::SharedFolder { database, files, .. } => {
            Some(move_to_own_folder(database, files))
        }
        FileProblemKind::ForeignFolder { .. } => {
            Some("name a file in a folder of yours with --database".to_owned())
        }
    }
}

/// Returns advice for a user that cannot change the mode of the folder, e.g. of a volume of root.
fn move_to_own_folder(database: &Path, files: &[PathBuf]) -> String {
    let own = folder(database).join("resttool");
    let new = own.join(database.file_name().unwrap_or_default());
    let new = format!("--database {}", shell_word(new));
    if files.is_empty() {
        return format!("name a file in a folder of its own: {new}");
    }
    let files: Vec<_> = files.iter().map(shell_word).collect();
    let (own, files) = (shell_word(own), files.join(" "));
    format!("mkdir -m 700 {own} && mv {files} {own}, and then {new}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Cost, HashError, UserName};

    fn store() -> Location {
        Location::File(PathBuf::from("/srv/users.db"))
    }

    fn user() -> UserName {
        UserName::parse("-roy").unwrap()
    }

    /// S-01, S-09
    #[test]
    fn advice_names_the_command() {
        let file = |kind| Problem::File(FileProblem { path: "/srv/users.db-wal".into(), kind });
        let wrong_owner = |links, companion| FileProblemKind::WrongOwner {
            owner: 7,
            expected: 0,
            group: 8,
            links,
            companion,
        };
        let database = Problem::Database;
        let cost = Cost::DEFAULT;
        let aside = "mv /srv/users.db-wal /srv/users.db-wal.set-aside";
        for (problem, advice) in [
            (Problem::Missing, Some("resttool useradd NAME --database /srv/users.db")),
            (Problem::UnknownSchema { version: 3, known: 2 }, Some("use a newer resttool")),
            (
                Problem::OrphanedCompanion("/srv/users.db-wal".into()),
                Some("put the database back, or remove the companion: rm /srv/users.db-wal"),
            ),
            (
                file(FileProblemKind::NotPrivate { mode: 0o644 }),
                Some("chmod 600 /srv/users.db-wal"),
            ),
            (file(FileProblemKind::NotPlain { companion: true }), Some(aside)),
            (file(FileProblemKind::NotPlain { companion: false }), None),
            (file(FileProblemKind::ManyNames { links: 2 }), Some(aside)),
            (file(wrong_owner(1, true)), Some(aside)),
            (file(wrong_owner(1, false)), Some("chown -h 0:8 /srv/users.db-wal")),
            (file(wrong_owner(2, false)), None),
            (
                database(DatabaseProblem::BlindRole { role: "a\"b".into(), rights: String::new() }),
                Some(
                    "GRANT USAGE ON SCHEMA resttool TO \"a\"\"b\"; GRANT SELECT ON ALL TABLES IN SCHEMA resttool TO \"a\"\"b\";",
                ),
            ),
            (
                database(DatabaseProblem::DisabledTrigger {
                    table: "users".into(),
                    trigger: "note_update".into(),
                }),
                Some("ALTER TABLE resttool.users ENABLE TRIGGER note_update"),
            ),
            (
                database(DatabaseProblem::TableLocked {
                    table: "state".into(),
                    pid: 7,
                    seconds: 5,
                    blocks_readers: false,
                }),
                Some("end that transaction, e.g. with pg_terminate_backend(7)"),
            ),
            (Problem::BadName("a name".into()), None),
            (
                Problem::BadRecord { user: user(), why: BadRecord::Hash(HashError::Flawed) },
                Some("resttool passwd --database /srv/users.db -- -roy"),
            ),
            (
                Problem::BadRecord { user: user(), why: BadRecord::Field("hash") },
                Some("resttool passwd --database /srv/users.db -- -roy"),
            ),
            (
                Problem::BadRecord { user: user(), why: BadRecord::Field("expiry") },
                Some("resttool userdel --database /srv/users.db -- -roy"),
            ),
            (
                Problem::WeakHash { user: user(), cost, minimum: cost },
                Some("resttool passwd --database /srv/users.db -- -roy"),
            ),
        ] {
            assert_eq!(fix(&problem, &store()).as_deref(), advice, "{problem:?}");
        }
    }
}
