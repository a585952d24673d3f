//! `resttool userdel`

use std::collections::BTreeSet;

use clap::Args;

use crate::admin::{ChangeKind, IfGone, RemoveError, remove};
use crate::cli::exit::{Exit, Failure};
use crate::cli::input::FailureList;
use crate::cli::many::record_many;
use crate::cli::open::open_store;
use crate::cli::output::Inputs;
use crate::cli::report::Report;
use crate::cli::single::record_one;
use crate::config::OutputSettings;
use crate::domain::UserName;
use crate::store::{Location, StoreError};
use crate::text::printable;

/// Remove users; their passwords are refused from the next request on
#[derive(Args, Debug)]
#[command(aliases = ["deluser", "delete", "del", "remove", "rm"])]
#[command(after_long_help = "Examples:
  resttool userdel roy
  resttool userdel ann bob cid   all of them, or none
  resttool userdel roy --if-exists")]
pub(in crate::cli) struct Userdel {
    /// The users' names
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,

    /// Succeed if a user does not exist
    #[arg(long)]
    if_exists: bool,

    #[command(flatten)]
    output: OutputSettings,
}

impl Userdel {
    pub(super) fn describe(&self) -> String {
        match self.names.as_slice() {
            [name] => format!("remove user {}", printable(name)),
            names => format!("remove {} users", names.len()),
        }
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let missing = if self.if_exists { IfGone::Skip } else { IfGone::Refuse };
        let inputs = Inputs::new(location, []);
        if let [name] = self.names.as_slice() {
            let name = UserName::parse(name)?;
            let mut report = Report::open(&self.output, &inputs)?;
            let store = open_store(location)?;
            let changes =
                remove(&*store, std::slice::from_ref(&name), missing).map_err(|e| match e {
                    RemoveError::Missing(_) => StoreError::NoSuchUser.into(),
                    RemoveError::Store(e) => Failure::from(e),
                })?;
            for change in &changes {
                record_one(&mut report, change, None)?;
                report.say(&match change.kind {
                    ChangeKind::Unchanged => {
                        format!("there is no user {name} in {location}, nothing changed")
                    }
                    _ => format!("removed user {name}"),
                });
            }
            return Ok(());
        }
        let names = self.unique_names()?;
        let mut report = Report::open_bulk(&self.output, &inputs, "userdel")?;
        let changes = remove(&*open_store(location)?, &names, missing).map_err(|e| match e {
            RemoveError::Missing(names) => no_such_users(names),
            RemoveError::Store(e) => e.into(),
        })?;
        record_many(&mut report, &changes)
    }

    /// Returns each name once, in the given order.
    fn unique_names(&self) -> Result<Vec<UserName>, Failure> {
        let mut seen = BTreeSet::new();
        let mut names = Vec::new();
        let mut bad = FailureList::of(Exit::BadName);
        for name in &self.names {
            let parsed = UserName::parse(name).map_err(|e| Failure::from(e).about(printable(name)));
            if let Some(name) = bad.note(parsed)?
                && seen.insert(name.clone())
            {
                names.push(name);
            }
        }
        bad.check()?;
        Ok(names)
    }
}

fn no_such_users(names: Vec<UserName>) -> Failure {
    let mut failures = FailureList::of(Exit::NoSuchUser);
    for name in names {
        let failure = Failure::new(Exit::NoSuchUser, format_args!("there is no user {name}"));
        if let Err(other) = failures.note::<()>(Err(failure)) {
            return other;
        }
    }
    failures.check().err().unwrap_or_else(|| StoreError::NoSuchUser.into())
}
