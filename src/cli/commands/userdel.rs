//! `resttool userdel`

use clap::Args;

use crate::admin::{Change, ChangeKind, remove};
use crate::cli::exit::Failure;
use crate::cli::output::Inputs;
use crate::cli::report::Report;
use crate::cli::single::record_one;
use crate::config::OutputSettings;
use crate::domain::UserName;
use crate::store::{self, Location, StoreError};
use crate::text::printable;

/// Remove a user; the password is refused from the next request on
#[derive(Args, Debug)]
#[command(aliases = ["deluser", "delete", "del", "remove", "rm"])]
#[command(after_long_help = "Examples:
  resttool userdel roy
  resttool userdel roy --if-exists")]
pub(in crate::cli) struct Userdel {
    /// The user's name
    name: String,

    /// Succeed if the user does not exist
    #[arg(long)]
    if_exists: bool,

    #[command(flatten)]
    output: OutputSettings,
}

impl Userdel {
    pub(super) fn describe(&self) -> String {
        format!("remove user {}", printable(&self.name))
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let name = UserName::parse(&self.name)?;
        let mut report = Report::open(&self.output, &Inputs::new(location, []))?;
        let change = match remove(&*store::open(location)?, &name) {
            Err(StoreError::NoSuchUser) if self.if_exists => Change::none(name.clone()),
            removed => removed?,
        };
        record_one(&mut report, &change, None)?;
        report.say(&match change.kind {
            ChangeKind::Unchanged => {
                format!("there is no user {name} in {location}, nothing changed")
            }
            _ => format!("removed user {name}"),
        });
        Ok(())
    }
}
