//! `resttool usermod`

use clap::Args;

use crate::admin::{
    ChangeKind, DesiredPassword, DesiredUser, GroupsEdit, IfExists, IfMissing, ReconcileOptions,
};
use crate::cli::exit::{Exit, Failure};
use crate::cli::open::open_store;
use crate::cli::options::{ExpiryOption, ListedGroup, groups, listed_group};
use crate::cli::output::Inputs;
use crate::cli::report::Report;
use crate::cli::single::{changed, reconcile_one, record_one, warn_about_expiry};
use crate::config::OutputSettings;
use crate::domain::UserName;
use crate::store::Location;
use crate::text::printable;

/// Change a user's groups, lock, expiry or name
#[derive(Args, Debug)]
#[command(aliases = ["moduser", "modify"])]
#[command(after_long_help = "Examples:
  resttool usermod roy --lock                refused from the next request on
  resttool usermod roy --unlock --expire 2027-01-31
  resttool usermod roy --group admin,staff   in these groups and no others
  resttool usermod roy --group staff --append
  resttool usermod roy --group ''            in no group
  resttool usermod roy --rename leroy")]
pub(in crate::cli) struct Usermod {
    /// The user's name
    name: String,

    /// Refuse the user even with the right password
    #[arg(long)]
    lock: bool,

    /// Admit the user again
    #[arg(long)]
    unlock: bool,

    #[command(flatten)]
    expiry: ExpiryOption,

    /// Replace the user's groups by these; may be repeated, or separated by commas
    #[arg(long, value_name = "GROUP", value_delimiter = ',', value_parser = listed_group)]
    group: Option<Vec<ListedGroup>>,

    /// Add the user to the groups of --group and keep the other groups
    #[arg(long)]
    append: bool,

    /// Remove the user from the groups of --group
    #[arg(long)]
    remove: bool,

    /// Rename the user; the password is kept
    #[arg(long, value_name = "NEW")]
    rename: Option<String>,

    #[command(flatten)]
    output: OutputSettings,
}

impl Usermod {
    pub(super) fn describe(&self) -> String {
        format!("change user {}", printable(&self.name))
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let name = UserName::parse(&self.name)?;
        let desired = self.desired(name.clone())?;
        warn_about_expiry(self.expiry.get());
        let mut report = Report::open(&self.output, &Inputs::new(location, []))?;
        let store = open_store(location)?;
        let options = ReconcileOptions::new(IfMissing::Refuse, IfExists::Replace);
        let change = reconcile_one(&*store, &desired, &options)?;
        record_one(&mut report, &change, None)?;
        report.say(&match change.kind {
            ChangeKind::Unchanged => format!("user {name} is already up to date"),
            _ => changed(&change),
        });
        Ok(())
    }

    fn desired(&self, name: UserName) -> Result<DesiredUser, Failure> {
        let usage = |why: &str| Err(Failure::new(Exit::Usage, why));
        if self.lock && self.unlock {
            return usage("--lock and --unlock cannot be used together");
        }
        if self.append && self.remove {
            return usage("--append and --remove cannot be used together");
        }
        let groups = self.group.as_deref().map(groups).transpose()?;
        let groups = match groups {
            Some(groups) if self.append => GroupsEdit::Add(groups),
            Some(groups) if self.remove => GroupsEdit::Remove(groups),
            Some(groups) => GroupsEdit::Set(groups),
            None if self.append || self.remove => {
                return usage("--append and --remove say what to do with --group");
            }
            None => GroupsEdit::Keep,
        };
        let nothing = matches!(groups, GroupsEdit::Keep)
            && !self.lock
            && !self.unlock
            && self.expiry.get().is_none()
            && self.rename.is_none();
        if nothing {
            return usage("nothing to change was named")
                .map_err(|e| e.hint("give --lock, --unlock, --expire, --group or --rename"));
        }
        Ok(DesiredUser {
            groups,
            locked: (self.lock || self.unlock).then_some(self.lock),
            expires: self.expiry.get(),
            rename: self.rename.as_deref().map(UserName::parse).transpose()?,
            ..DesiredUser::new(name, DesiredPassword::Keep)
        })
    }
}
