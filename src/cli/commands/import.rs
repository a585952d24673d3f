//! `resttool import`

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::admin::{
    DesiredPassword, DesiredUser, DesiredUsers, GroupsEdit, IfExists, IfMissing, ReconcileError,
    ReconcileOptions, Visit,
};
use crate::cli::duplicates::{Duplicates, LineIndex, SecondLine};
use crate::cli::exit::{Failure, cannot_read_again, say};
use crate::cli::input::{Input, ReadInput, bad_line, has_changed};
use crate::cli::many::{line_of, reconcile_many};
use crate::cli::options::UserFormat;
use crate::cli::output::Inputs;
use crate::cli::report::Report;
use crate::config::OutputSettings;
use crate::domain::{Account, Cost};
use crate::formats::htpasswd::{self, HtpasswdError};
use crate::formats::jsonl::{self, JsonlError};
use crate::hashing::needs_rehash;
use crate::store::{self, Location};
use crate::text::printable;
use crate::time::Timestamp;

/// Import users with their hashes from a file, in one transaction
#[derive(Args, Debug)]
#[command(
    after_long_help = "htpasswd cuts passwords off after 72 bytes, and resttool refuses longer ones. Users with such a
password are imported, but their logins are refused: give them another one with passwd.

Examples:
  resttool import /etc/nginx/htpasswd
  resttool import users.jsonl --format jsonl --on-conflict replace
  resttool export --database old.db | resttool import - --on-conflict skip"
)]
pub(in crate::cli) struct Import {
    /// The file; - is standard input
    file: PathBuf,

    /// Read the file in this format
    #[arg(long, value_name = "FORMAT", default_value = "htpasswd")]
    format: UserFormat,

    /// Treat existing users like this; of two lines for one user, skip takes the first and replace
    /// the last
    #[arg(long, value_name = "ACTION", default_value = "fail")]
    on_conflict: OnConflict,

    #[command(flatten)]
    output: OutputSettings,
}

/// The treatment of an imported user that exists already.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum OnConflict {
    /// Change nothing and exit with 9
    Fail,
    /// Keep the existing user
    Skip,
    /// Replace the existing user by the one in the file
    Replace,
}

impl Import {
    pub(super) fn describe(&self) -> String {
        format!("import {}", printable(&self.file.to_string_lossy()))
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let inputs = Inputs::new(location, [self.file.as_path()]);
        let mut report = Report::open_bulk(&self.output, &inputs, "import")?;
        let (existing, duplicates) = match self.on_conflict {
            OnConflict::Fail => (IfExists::Refuse, Duplicates::Refuse),
            OnConflict::Skip => (IfExists::Skip, Duplicates::KeepFirst),
            OnConflict::Replace => (IfExists::Replace, Duplicates::KeepLast),
        };
        let input = Input::open(&self.file, "users")?;
        let users = ImportedUsers::read(input, self.format, duplicates)?;
        let options = ReconcileOptions::new(IfMissing::Add, existing);
        let store = store::open_or_create(location)?;
        let mut changes = report.spool();
        reconcile_many(&*store, &users, &mut changes, &options, "importing", line_of)?;
        report.publish(changes)
    }
}

/// The users of an input with one line for each. All lines are valid. Every visit reads them again,
/// and none is kept in memory.
struct ImportedUsers {
    input: ReadInput,
    parser: Parser,
    count: usize,
    /// The numbers of lines that are left out in favor of another line for the same user, in order.
    left_out: Vec<usize>,
}

impl ImportedUsers {
    /// Reads all lines.
    ///
    /// # Errors
    /// Fails with all bad lines, or with the first duplicate that is refused.
    fn read(input: Input, format: UserFormat, duplicates: Duplicates) -> Result<Self, Failure> {
        let parser = Parser { format, now: Timestamp::now() };
        let (mut index, mut weak) = (LineIndex::default(), 0);
        let input = input.each_line(|number, line| {
            if let Some(user) = parser.parse(line).map_err(|why| bad_line(number, why))? {
                index.add(number, &user.name);
                weak += usize::from(has_weak_hash(&user));
            }
            Ok(())
        })?;
        let lines = index.count();
        let left_out = match index.left_out(duplicates) {
            Ok(left_out) => left_out,
            Err(second) => return Err(parser.duplicate(&input, &second)?),
        };
        let users = Self { input, parser, count: lines - left_out.len(), left_out };
        if weak > 0 && !users.left_out.is_empty() {
            weak = 0;
            users.visit(&mut |_, user| {
                weak += usize::from(has_weak_hash(user));
                Ok(())
            })?;
        }
        warn_about_weak_hashes(weak);
        Ok(users)
    }
}

impl DesiredUsers for ImportedUsers {
    fn count(&self) -> usize {
        self.count
    }

    fn visit(&self, visit: &mut Visit<'_>) -> Result<(), ReconcileError> {
        let mut left_out = self.left_out.iter().copied().peekable();
        self.input.each_line(ReconcileError::Desired, |number, line| {
            if left_out.next_if_eq(&number).is_some() {
                return Ok(());
            }
            match self.parser.parse(line) {
                Ok(Some(user)) => visit(number, &user),
                Ok(None) => Ok(()),
                Err(_) => Err(ReconcileError::Desired(has_changed())),
            }
        })
    }
}

/// Parses lines of one format.
struct Parser {
    format: UserFormat,
    now: Timestamp,
}

impl Parser {
    /// Returns `None` for a line without a user.
    fn parse(&self, line: &str) -> Result<Option<DesiredUser>, BadLine> {
        Ok(match self.format {
            UserFormat::Htpasswd => htpasswd::parse(line)?
                .map(|(name, hash)| DesiredUser::new(name, DesiredPassword::Hash(hash))),
            UserFormat::Jsonl => jsonl::parse(line, self.now)?.and_then(copy_of),
        })
    }

    /// Makes the failure of a duplicate, whose name is read again.
    fn duplicate(&self, input: &ReadInput, second: &SecondLine) -> Result<Failure, Failure> {
        let mut name = None;
        input.each_line(
            |e| cannot_read_again(&e),
            |number, line| {
                if number == second.number {
                    name = self.parse(line).ok().flatten().map(|user| user.name);
                }
                Ok(())
            },
        )?;
        let SecondLine { number, first } = second;
        let name = name.ok_or_else(|| cannot_read_again(&has_changed()))?;
        let failure = bad_line(*number, format_args!("{name} stands in line {first} already"));
        Ok(failure.hint("--on-conflict skip takes the first of them, and replace the last"))
    }
}

/// The reason why a line is invalid.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum BadLine {
    Htpasswd(#[from] HtpasswdError),
    Jsonl(#[from] JsonlError),
}

fn has_weak_hash(user: &DesiredUser) -> bool {
    match &user.password {
        DesiredPassword::Hash(hash) => needs_rehash(hash, Cost::ADVISED.get()),
        DesiredPassword::Keep | DesiredPassword::Password(_) | DesiredPassword::Initial(_) => false,
    }
}

/// Warns once about hashes that cost less than advised.
fn warn_about_weak_hashes(count: usize) {
    let minimum = Cost::ADVISED.get();
    let users = match count {
        0 => return,
        1 => "1 user has a hash".to_owned(),
        n => format!("{n} users have hashes"),
    };
    say(&format!(
        "resttool: warning: {users} of a cost below {minimum}; 'resttool serve --rehash' replaces such hashes at the next login"
    ));
}

/// Desires the whole record.
fn copy_of(account: Account) -> Option<DesiredUser> {
    Some(DesiredUser {
        groups: GroupsEdit::Set(account.groups),
        locked: Some(account.locked),
        expires: Some(account.expires),
        times: Some((account.created, account.changed)),
        ..DesiredUser::new(account.name, DesiredPassword::Hash(account.hash.ok()?))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::admin::reconcile_into;
    use crate::store::mock::{Call, MockStore};
    use crate::store::{UserReader, UserStore};

    const HASH: &str = "$2y$10$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn import(path: &Path, store: &MockStore) -> Result<(), ReconcileError> {
        let input = Input::open(path, "users").unwrap();
        let users = ImportedUsers::read(input, UserFormat::Htpasswd, Duplicates::Refuse).unwrap();
        let options = ReconcileOptions::new(IfMissing::Add, IfExists::Refuse);
        let now = Timestamp::now();
        reconcile_into(store, &users, &mut Vec::new(), &options, now, &|_, _| {})
    }

    /// L-05: the file changes between its check and the transaction.
    #[test]
    fn file_that_changes_during_import_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("htpasswd");
        let line = |user: &str| format!("{user}:{HASH}\n");
        let valid = line("ann") + &line("bob");
        let other_hash = valid.replacen("CC", "DD", 1);
        for changed in ["", "bad", &line("ann"), &(valid.clone() + &line("cid")), &other_hash] {
            fs::write(&path, &valid).unwrap();
            let (file, text) = (path.clone(), changed.to_owned());
            let store = MockStore::with_hook(move |call| {
                if call == Call::Begin {
                    fs::write(&file, &text).unwrap();
                }
                Ok(())
            });
            let done = import(&path, &store);
            assert!(matches!(done, Err(ReconcileError::Desired(_))), "{changed}: {done:?}");
            assert!(store.is_empty().unwrap(), "{changed}");
        }
        let store = MockStore::default();
        fs::write(&path, &valid).unwrap();
        import(&path, &store).unwrap();
        assert_eq!(store.count().unwrap(), 2);
    }
}
