//! `resttool useradd`

use clap::Args;

use crate::admin::{
    ChangeKind, DesiredPassword, DesiredUser, GroupsEdit, IfExists, IfMissing, ReconcileOptions,
};
use crate::cli::exit::{Exit, Failure};
use crate::cli::open::open_or_create_store;
use crate::cli::options::{ExpiryOption, ListedGroup, groups, listed_group};
use crate::cli::output::Inputs;
use crate::cli::report::Report;
use crate::cli::secret::{NewSecret, NewSecretOptions};
use crate::cli::single::{changed, command, reconcile_one, record_one, warn_about_expiry};
use crate::config::{HashingSettings, OutputSettings};
use crate::domain::UserName;
use crate::store::{Location, StoreError};
use crate::text::printable;

/// Add a user
#[derive(Args, Debug)]
#[command(aliases = ["adduser", "add"])]
#[command(after_long_help = "Examples:
  resttool useradd roy   ask for the password on the terminal
  printf '%s' \"$PASSWORD\" | resttool useradd roy --password-stdin
  password=$(resttool useradd roy --generate)
  resttool hash --password-file /run/secrets/roy | resttool useradd roy --hash-stdin
  resttool useradd roy --if-not-exists --password-file /run/secrets/roy
  resttool useradd roy --update --password-file /run/secrets/roy --group admin,staff")]
pub(in crate::cli) struct Useradd {
    /// The user's name: no colon, at most 128 bytes; case matters
    name: String,

    #[command(flatten)]
    secret: NewSecretOptions,

    #[command(flatten)]
    hashing: HashingSettings,

    /// Succeed without a change if the user exists
    #[arg(long)]
    if_not_exists: bool,

    /// Update an existing user; options that are not given leave their values unchanged
    ///
    /// A password that matches the stored hash keeps it, so a second run changes nothing.
    #[arg(long)]
    update: bool,

    /// Put the user in these groups; may be repeated, or separated by commas
    #[arg(long, value_name = "GROUP", value_delimiter = ',', value_parser = listed_group)]
    group: Option<Vec<ListedGroup>>,

    #[command(flatten)]
    expiry: ExpiryOption,

    /// Refuse the user even with the right password
    #[arg(long)]
    locked: bool,

    #[command(flatten)]
    output: OutputSettings,
}

impl Useradd {
    pub(super) fn describe(&self) -> String {
        format!("add user {}", printable(&self.name))
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let name = UserName::parse(&self.name)?;
        let policy = self.hashing.policy()?;
        if self.update && self.if_not_exists {
            return Err(Failure::new(
                Exit::Usage,
                "--update and --if-not-exists cannot be used together",
            ));
        }
        let groups = self.group.as_deref().map(groups).transpose()?;
        // Read pipes before anything can fail, so that no writer of a pipe gets SIGPIPE.
        let secret = NewSecret::open(&self.secret)?;
        let inputs = Inputs::new(location, self.secret.password.known.password_file.as_deref());
        warn_about_expiry(self.expiry.get());
        let mut report = Report::open(&self.output, &inputs)?;
        let store = open_or_create_store(location)?;
        let existing = match (self.update, self.if_not_exists) {
            (true, _) => IfExists::Compare,
            (_, true) => IfExists::Skip,
            _ => IfExists::Refuse,
        };
        // Fail before the prompt for a password.
        let exists = store.contains(&name)?;
        if exists && existing == IfExists::Refuse {
            return Err(StoreError::UserExists.into());
        }
        let password = match secret {
            NewSecret::Hash(hash) => DesiredPassword::Hash(hash.into()),
            NewSecret::Password(_) if exists && existing == IfExists::Skip => DesiredPassword::Keep,
            NewSecret::Password(input) => {
                let password = input.new_password(&policy, Some(&name))?;
                if self.secret.password.generate {
                    DesiredPassword::Initial(password)
                } else {
                    DesiredPassword::Password(password)
                }
            }
        };
        let desired = DesiredUser {
            groups: groups.map_or(GroupsEdit::Keep, GroupsEdit::Set),
            locked: self.locked.then_some(true),
            expires: self.expiry.get(),
            ..DesiredUser::new(name.clone(), password)
        };
        let options = ReconcileOptions::new(IfMissing::Add, existing);
        let options = ReconcileOptions { cost: policy.cost, ..options };
        let change = reconcile_one(&*store, &desired, &options)?;
        let generated = match (&desired.password, change.kind) {
            (DesiredPassword::Initial(password), ChangeKind::Added) => Some(password),
            _ => None,
        };
        let lost = format!(
            "user {name} was added, but its generated password could not be printed; remove the user with: {}",
            command("userdel", location, &name)
        );
        record_one(&mut report, &change, generated.map(|password| (password, lost)))?;
        report.say(&match change.kind {
            ChangeKind::Added => format!("added user {name}"),
            ChangeKind::Changed => changed(&change),
            ChangeKind::Unchanged | ChangeKind::Removed => {
                format!("user {name} exists, nothing changed")
            }
        });
        Ok(())
    }
}
