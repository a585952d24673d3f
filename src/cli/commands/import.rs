//! `resttool import`

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};

use crate::admin::{
    DesiredPassword, DesiredUser, DesiredUsers, GroupsEdit, IfExists, IfMissing, ReconcileError,
    ReconcileOptions, Visit,
};
use crate::cli::duplicates::{Duplicates, LineIndex, SecondLine};
use crate::cli::exit::{Failure, cannot_read_again, say};
use crate::cli::input::{Input, ReadInput, bad_line, has_changed};
use crate::cli::many::{line_of, reconcile_many};
use crate::cli::open::open_or_create_store;
use crate::cli::options::UserFormat;
use crate::cli::output::Inputs;
use crate::cli::report::Report;
use crate::config::{CostSetting, OutputSettings};
use crate::domain::{Cost, LegacyParams, UserName};
use crate::formats::ImportedHash;
use crate::formats::htpasswd::{self, HtpasswdError};
use crate::formats::jsonl::{self, ImportedUser, JsonlError};
use crate::hashing::{max_rounds, needs_rehash};
use crate::store::Location;
use crate::text::printable;
use crate::time::Timestamp;

/// Import users with their hashes from a file, in one transaction
#[derive(Args, Debug)]
#[command(
    after_long_help = "Hashes of old schemes ($apr1$, $1$, $5$, $6$, {SHA}, {SSHA}) and passwords in the clear ({PLAIN})
are hashed with bcrypt, one after the other on each core. The users keep their passwords, and the
first login of each replaces the hash by one of bcrypt alone.

htpasswd cuts passwords off after 72 bytes before it hashes them with bcrypt. Users with such a
password are imported, but their logins are refused: give them another one with passwd.

Examples:
  resttool import /etc/nginx/htpasswd
  resttool import /etc/nginx/htpasswd --on-conflict skip --skip-unsupported   without DES crypt
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

    /// Skip users with a hash of an unsupported scheme, and name them
    #[arg(long)]
    skip_unsupported: bool,

    /// Accept hashes of up to this many rounds, so that the time of a login may tell that a user
    /// exists [default: 5 * 2^cost]
    #[arg(
        long,
        value_name = "N",
        value_parser = value_parser!(u32).range(1000..=i64::from(LegacyParams::MAX_ROUNDS))
    )]
    max_rounds: Option<u32>,

    #[command(flatten)]
    cost: CostSetting,

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
        let cost = self.cost.cost()?;
        let parser = Parser {
            format: self.format,
            now: Timestamp::now(),
            skip_unsupported: self.skip_unsupported,
            cost,
            max_rounds: self.max_rounds,
        };
        let users = ImportedUsers::read(input, parser, duplicates)?;
        if users.tally.to_hash > 0 {
            let users = plural(
                users.tally.to_hash,
                "1 user has no bcrypt hash",
                "users have no bcrypt hash",
            );
            report.say(&format!("{users}: hashing with bcrypt of cost {}", cost.get()));
        }
        let options = ReconcileOptions { cost, ..ReconcileOptions::new(IfMissing::Add, existing) };
        let store = open_or_create_store(location)?;
        let mut changes = report.spool();
        reconcile_many(&*store, &users, &mut changes, &options, "importing", line_of)?;
        report.publish(changes)?;
        if self.skip_unsupported {
            report.skipped(users.skipped)?;
        }
        Ok(())
    }
}

/// The users of an input with one line for each. All lines are valid. Every visit reads them again,
/// and none is kept in memory.
struct ImportedUsers {
    input: ReadInput,
    parser: Parser,
    count: usize,
    tally: Tally,
    /// The number of lines with an unsupported hash that are skipped.
    skipped: usize,
    /// The numbers of lines that are left out in favor of another line for the same user, in order.
    left_out: Vec<usize>,
}

impl ImportedUsers {
    /// Reads all lines.
    ///
    /// # Errors
    /// Fails with all bad lines, or with the first duplicate that is refused.
    fn read(input: Input, parser: Parser, duplicates: Duplicates) -> Result<Self, Failure> {
        let (mut index, mut tally, mut skipped) = (LineIndex::default(), Tally::default(), 0);
        let input = input.each_line(|number, line| {
            match parser.parse(line) {
                Ok(Some(user)) => {
                    index.add(number, &user.name);
                    tally.add(&user);
                }
                Ok(None) => {}
                Err(why) if parser.skips(&why) => {
                    skipped += 1;
                    say(&format!("resttool: warning: skipped line {number}: {why}"));
                }
                Err(why) => return Err(why.failure(number)),
            }
            Ok(())
        })?;
        let lines = index.count();
        let left_out = match index.left_out(duplicates) {
            Ok(left_out) => left_out,
            Err(second) => return Err(parser.duplicate(&input, &second)?),
        };
        let count = lines - left_out.len();
        let mut users = Self { input, parser, count, tally, skipped, left_out };
        if users.tally != Tally::default() && !users.left_out.is_empty() {
            let mut tally = Tally::default();
            users.visit(&mut |_, user| {
                tally.add(user);
                Ok(())
            })?;
            users.tally = tally;
        }
        warn_about_weak_hashes(users.tally.weak);
        Ok(users)
    }
}

/// The numbers of users with some kinds of hashes.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Tally {
    /// The bcrypt hashes that cost less than advised.
    weak: usize,
    /// The passwords and legacy hashes, which have to be hashed.
    to_hash: usize,
}

impl Tally {
    fn add(&mut self, user: &DesiredUser) {
        match &user.password {
            DesiredPassword::Hash(hash) => {
                self.weak += usize::from(needs_rehash(&hash.bcrypt, Cost::ADVISED.get()));
            }
            DesiredPassword::Password(_) | DesiredPassword::Legacy(_) => self.to_hash += 1,
            DesiredPassword::Keep | DesiredPassword::Initial(_) => {}
        }
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
                Err(why) if self.parser.skips(&why) => Ok(()),
                Err(_) => Err(ReconcileError::Desired(has_changed())),
            }
        })
    }
}

/// Parses lines of one format.
struct Parser {
    format: UserFormat,
    now: Timestamp,
    skip_unsupported: bool,
    /// The cost of new hashes.
    cost: Cost,
    /// The limit of rounds, if it is not the one of the cost.
    max_rounds: Option<u32>,
}

impl Parser {
    /// Returns `None` for a line without a user.
    fn parse(&self, line: &str) -> Result<Option<DesiredUser>, BadLine> {
        let user = match self.format {
            UserFormat::Htpasswd => htpasswd::parse(line)?
                .map(|(name, hash)| DesiredUser::new(name, desired_password(hash))),
            UserFormat::Jsonl => jsonl::parse(line, self.now)?.map(copy_of),
        };
        user.map(|user| self.check_rounds(&user).map(|()| user)).transpose()
    }

    /// Refuses a hash whose rounds take too long.
    fn check_rounds(&self, user: &DesiredUser) -> Result<(), BadLine> {
        let (params, cost) = match &user.password {
            DesiredPassword::Legacy(hash) => (Some(hash.params()), self.cost),
            DesiredPassword::Hash(hash) => {
                (hash.wrapped.as_ref().map(|wrapped| &wrapped.params), hash.cost())
            }
            _ => (None, self.cost),
        };
        let rounds = params.and_then(LegacyParams::effective_rounds).unwrap_or(0);
        let most = max_rounds(cost);
        if rounds > most.max(self.max_rounds.unwrap_or(0)) {
            return Err(BadLine::Rounds { user: user.name.clone(), rounds, most, cost });
        }
        Ok(())
    }

    /// Returns true if a line is skipped because of this.
    fn skips(&self, why: &BadLine) -> bool {
        self.skip_unsupported && why.is_unsupported()
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
enum BadLine {
    #[error(transparent)]
    Htpasswd(#[from] HtpasswdError),
    #[error(transparent)]
    Jsonl(#[from] JsonlError),
    #[error(
        "the hash of {user} has {rounds} rounds, and {most} take 5 % of the time of bcrypt of cost {}",
        cost.get()
    )]
    Rounds { user: UserName, rounds: u32, most: u32, cost: Cost },
}

impl BadLine {
    fn is_unsupported(&self) -> bool {
        match self {
            Self::Htpasswd(HtpasswdError::Hash(_, why)) | Self::Jsonl(JsonlError::Hash(_, why)) => {
                why.is_unsupported()
            }
            _ => false,
        }
    }

    fn failure(self, number: usize) -> Failure {
        let failure = bad_line(number, &self);
        match self {
            Self::Rounds { rounds, .. } => failure.hint(format!(
                "--max-rounds {rounds} accepts them, but the time of a login may tell then that a user exists"
            )),
            _ if self.is_unsupported() => failure.hint(
                "--skip-unsupported imports the other users; add these with useradd and another password",
            ),
            _ => failure,
        }
    }
}

/// Warns once about hashes that cost less than advised.
fn warn_about_weak_hashes(count: usize) {
    let minimum = Cost::ADVISED.get();
    if count == 0 {
        return;
    }
    let users = plural(count, "1 user has a hash", "users have hashes");
    say(&format!(
        "resttool: warning: {users} of a cost below {minimum}; 'resttool serve --rehash' replaces such hashes at the next login"
    ));
}

/// Desires the whole record.
fn copy_of(user: ImportedUser) -> DesiredUser {
    DesiredUser {
        groups: GroupsEdit::Set(user.groups),
        locked: Some(user.locked),
        expires: Some(user.expires),
        times: Some((user.created, user.changed)),
        ..DesiredUser::new(user.name, desired_password(user.hash))
    }
}

fn desired_password(hash: ImportedHash) -> DesiredPassword {
    match hash {
        ImportedHash::Stored(hash) => DesiredPassword::Hash(hash),
        ImportedHash::Legacy(hash) => DesiredPassword::Legacy(hash),
        ImportedHash::Plain(password) => DesiredPassword::Password(password),
    }
}

fn plural(count: usize, one: &str, many: &str) -> String {
    if count == 1 { one.to_owned() } else { format!("{count} {many}") }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::admin::reconcile_into;
    use crate::store::UserStore;
    use crate::store::mock::{Call, MockStore};

    const HASH: &str = "$2y$10$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn import(path: &Path, store: &MockStore) -> Result<(), ReconcileError> {
        let input = Input::open(path, "users").unwrap();
        let parser = Parser {
            format: UserFormat::Htpasswd,
            now: Timestamp::now(),
            skip_unsupported: false,
            cost: Cost::DEFAULT,
            max_rounds: None,
        };
        let users = ImportedUsers::read(input, parser, Duplicates::Refuse).unwrap();
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
