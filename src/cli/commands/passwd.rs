//! `resttool passwd`

use clap::Args;

use crate::admin::{
    ChangeKind, DesiredPassword, DesiredUser, IfExists, IfMissing, ReconcileOptions,
};
use crate::cli::exit::Failure;
use crate::cli::open::open_store;
use crate::cli::output::Inputs;
use crate::cli::report::Report;
use crate::cli::secret::{NewSecret, NewSecretOptions};
use crate::cli::single::{command, reconcile_one, record_one};
use crate::config::{HashingSettings, OutputSettings};
use crate::domain::UserName;
use crate::store::{Location, StoreError};
use crate::text::printable;

/// Change a user's password; the old one is refused from the next request on
#[derive(Args, Debug)]
#[command(aliases = ["password"])]
#[command(after_long_help = "Examples:
  resttool passwd roy   ask for the password on the terminal
  printf '%s' \"$PASSWORD\" | resttool passwd roy --password-stdin
  password=$(resttool passwd roy --generate)
  resttool hash --password-file /run/secrets/roy | resttool passwd roy --hash-stdin")]
pub(in crate::cli) struct Passwd {
    /// The user's name
    name: String,

    #[command(flatten)]
    secret: NewSecretOptions,

    #[command(flatten)]
    hashing: HashingSettings,

    #[command(flatten)]
    output: OutputSettings,
}

impl Passwd {
    pub(super) fn describe(&self) -> String {
        format!("change the password of {}", printable(&self.name))
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let name = UserName::parse(&self.name)?;
        let policy = self.hashing.policy()?;
        let secret = NewSecret::open(&self.secret)?;
        let inputs = Inputs::new(location, self.secret.password.known.password_file.as_deref());
        let mut report = Report::open(&self.output, &inputs)?;
        let store = open_store(location)?;
        // Fail before the prompt for a password.
        if !store.contains(&name)? {
            // Another process may have removed the user just before.
            store.visibility().wait()?;
            return Err(StoreError::NoSuchUser.into());
        }
        let password = match secret {
            NewSecret::Hash(hash) => DesiredPassword::Hash(hash.into()),
            NewSecret::Password(input) => {
                let password = input.new_password(&policy, Some(&name))?;
                DesiredPassword::Password(password)
            }
        };
        let desired = DesiredUser::new(name.clone(), password);
        let options = ReconcileOptions::new(IfMissing::Refuse, IfExists::Replace);
        let options = ReconcileOptions { cost: policy.cost, ..options };
        let change = reconcile_one(&*store, &desired, &options)?;
        let generated = match &desired.password {
            DesiredPassword::Password(password) if self.secret.password.generate => Some(password),
            _ => None,
        };
        let lost = format!(
            "the password was changed, but the generated one could not be printed; set another with: {}",
            command("passwd", location, &name)
        );
        record_one(&mut report, &change, generated.map(|password| (password, lost)))?;
        report.say(&match change.kind {
            ChangeKind::Unchanged => format!("{name} has that hash already, nothing changed"),
            _ => format!("changed the password of {name}"),
        });
        Ok(())
    }
}
