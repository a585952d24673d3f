//! `resttool database`

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::exit::{Exit, Failure, print_list, say};
use crate::cli::open::{open_or_create_store, open_store};
use crate::config::{self, QuietSetting};
use crate::domain::Account;
use crate::store::{self, Location, PostgresUrl, UserStore};
use crate::text::{printable, shell_word};
use crate::time::{format_duration, parse_duration};

/// Prepare and migrate a PostgreSQL database, or copy all users from one store to another
#[derive(Args, Debug)]
#[command(
    after_long_help = "init creates the schema resttool in an existing database, and prints the SQL for a role of
'resttool serve', which needs to read only. migrate brings an older schema to the current version, in one transaction.
Files are migrated by the command that opens them.

copy adds all users of the store FROM to the store TO, which must be empty, with everything that is kept about them.
Each is a file or a URL. With --verify it copies nothing, and compares both stores.

Examples:
  resttool database init --database postgres://admin@db.example.com/users
  resttool database migrate --database postgres://admin@db.example.com/users
  resttool database copy users.db postgres://admin@db.example.com/users
  resttool database copy --verify users.db postgres://admin@db.example.com/users"
)]
pub(in crate::cli) struct Database {
    /// Do this
    action: DatabaseAction,

    /// Copy the users of this store
    #[arg(value_name = "FROM", requires = "to")]
    from: Option<PathBuf>,

    /// Copy the users to this store
    #[arg(value_name = "TO")]
    to: Option<PathBuf>,

    /// Have servers rely on a reading of the database for this long (100ms to 1m); every change waits for it [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = lease)]
    lease: Option<Duration>,

    /// Compare the users of both stores instead of copying them; exits with 1 if they differ
    #[arg(long)]
    verify: bool,

    #[command(flatten)]
    quiet: QuietSetting,
}

/// An action on a database.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum DatabaseAction {
    /// Create the schema in a PostgreSQL database
    Init,
    /// Migrate an older schema of a PostgreSQL database
    Migrate,
    /// Copy all users to an empty store
    Copy,
}

fn lease(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|lease| (Duration::from_millis(100)..=Duration::from_secs(60)).contains(lease))
        .ok_or_else(|| "expected a duration from 100ms to 1m".to_owned())
}

impl Database {
    pub(super) fn describe(&self) -> String {
        match self.action {
            DatabaseAction::Init => "create the schema".to_owned(),
            DatabaseAction::Migrate => "migrate the schema".to_owned(),
            DatabaseAction::Copy if self.verify => "compare the stores".to_owned(),
            DatabaseAction::Copy => "copy the users".to_owned(),
        }
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let usage = |why: &str| Err(Failure::new(Exit::Usage, why));
        match (self.action, &self.from, &self.to) {
            (DatabaseAction::Copy, Some(_), Some(_)) if self.lease.is_some() => {
                usage("--lease is an option of init")
            }
            (DatabaseAction::Copy, Some(from), Some(to)) => {
                let locations = [from, to].map(|place| config::location(place.clone()));
                let [from, to] = locations;
                self.copy(&from?, &to?)
            }
            (DatabaseAction::Copy, ..) => usage("copy needs FROM and TO"),
            (_, None, None) if self.verify => usage("--verify is an option of copy"),
            (DatabaseAction::Init, None, None) => self.initialize(postgres(location)?),
            (DatabaseAction::Migrate, None, None) if self.lease.is_some() => {
                usage("--lease is an option of init")
            }
            (DatabaseAction::Migrate, None, None) => self.migrate(postgres(location)?),
            _ => usage("only copy takes FROM and TO; name the database with --database"),
        }
    }

    fn initialize(&self, url: &PostgresUrl) -> Result<(), Failure> {
        let lease = self.lease.unwrap_or(store::DEFAULT_LEASE);
        if !store::initialize(url, lease)? {
            return Err(Failure::new(Exit::Failed, format_args!("{url} has the schema already"))
                .hint("'resttool database migrate' brings it to the current version"));
        }
        self.say(&format!(
            "created the schema in {url}, with leases of {}",
            format_duration(lease)
        ));
        self.say("a role that is enough for 'resttool serve':");
        print_list(&store::serve_role())
    }

    fn migrate(&self, url: &PostgresUrl) -> Result<(), Failure> {
        let (before, now) = store::migrate(url)?;
        self.say(&if before == now {
            format!("{url} has the current schema, version {now}")
        } else {
            format!("migrated the schema of {url} from version {before} to {now}")
        });
        Ok(())
    }

    fn copy(&self, from: &Location, to: &Location) -> Result<(), Failure> {
        let source = open_store(from)?;
        if self.verify {
            let count = compare(&*source, &*open_store(to)?, [from, to])?;
            self.say(&format!("{from} and {to} have the same {count} users"));
            return Ok(());
        }
        let target = open_or_create_store(to)?;
        let mut transaction = target.begin()?;
        if !transaction.names()?.is_empty() {
            return Err(Failure::new(Exit::Failed, format_args!("{to} has users already"))
                .hint("'resttool import' adds users to others"));
        }
        let mut failure = None;
        let mut count = 0;
        source.each(&mut |account| {
            let put = match &account.hash {
                Ok(_) => transaction.put(&account).map_err(Failure::from),
                Err(_) => Err(Failure::new(
                    Exit::Failed,
                    format_args!("the record of user {} cannot be used", account.name),
                )
                .hint(format!("resttool check --database {}", from.shell_word()))),
            };
            count += 1;
            failure = put.err();
            if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        transaction.commit().wait()?;
        self.say(&format!("copied {count} users from {from} to {to}"));
        Ok(())
    }

    fn say(&self, message: &str) {
        if !self.quiet.quiet {
            say(&format!("resttool: {message}"));
        }
    }
}

fn postgres(location: &Location) -> Result<&PostgresUrl, Failure> {
    match location {
        Location::Postgres(url) => Ok(url),
        Location::File(path) => {
            let path = printable(&path.to_string_lossy());
            let why = format!("{path} is a file, which needs no preparation");
            let example = shell_word("postgres://USER@HOST/DATABASE");
            Err(Failure::new(Exit::Usage, why).hint(format!("--database {example}")))
        }
    }
}

/// Compares all users of two stores. Returns their number.
fn compare(
    one: &dyn UserStore,
    other: &dyn UserStore,
    [one_is, other_is]: [&Location; 2],
) -> Result<usize, Failure> {
    let mut expected = Vec::new();
    one.each(&mut |account| {
        expected.push(account);
        ControlFlow::Continue(())
    })?;
    let count = expected.len();
    let mut expected = expected.into_iter();
    let mut difference: Option<(Account, &str)> = None;
    other.each(&mut |account| {
        difference = match expected.next() {
            Some(same) if same == account => None,
            Some(missing) if missing.name < account.name => Some((missing, "is missing in")),
            Some(same) if same.name == account.name => Some((account, "is different in")),
            _ => Some((account, "is only in")),
        };
        if difference.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    let difference = difference.or_else(|| Some((expected.next()?, "is missing in")));
    match difference {
        None => Ok(count),
        Some((account, how)) => Err(Failure::new(
            Exit::Failed,
            format_args!("{one_is} and {other_is} differ: user {} {how} {other_is}", account.name),
        )),
    }
}
