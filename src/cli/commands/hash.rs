//! `resttool hash`

use std::time::Duration;

use clap::Args;

use crate::cli::exit::{Exit, Failure, print, say};
use crate::cli::secret::{NewPasswordOptions, PasswordInput};
use crate::config::HashingSettings;
use crate::domain::UserName;
use crate::formats::htpasswd;
use crate::hashing::{HashingError, TooSlow, calibrate, time_of_hash};
use crate::store::Location;
use crate::time::parse_duration;

/// Print the bcrypt hash of a password
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool hash                     ask for the password on the terminal
  printf '%s' \"$PASSWORD\" | resttool hash --password-stdin --cost 10
  resttool hash --password-file /run/secrets/roy --htpasswd roy >>/etc/nginx/htpasswd
  resttool hash --calibrate 250ms   find the cost for this machine")]
pub(in crate::cli) struct Hash {
    /// Print an htpasswd line for a user of this name
    #[arg(long, value_name = "NAME")]
    htpasswd: Option<String>,

    /// Print the highest cost at which hashing takes less than TIME on this machine, and exit
    #[arg(long, value_name = "TIME", value_parser = calibration_time)]
    calibrate: Option<Duration>,

    #[command(flatten)]
    password: NewPasswordOptions,

    #[command(flatten)]
    hashing: HashingSettings,
}

fn calibration_time(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|time| (Duration::from_millis(1)..=Duration::from_secs(60)).contains(time))
        .ok_or_else(|| "expected a time from 1ms to 60s, e.g. 250ms".to_owned())
}

impl Hash {
    pub(super) fn describe(&self) -> String {
        "make a hash".to_owned()
    }

    pub(super) fn run(&self, _: &Location) -> Result<(), Failure> {
        if let Some(limit) = self.calibrate {
            let time = |cost| time_of_hash(cost).map_err(Failure::from);
            return print(&calibrate(limit, time)?.get().to_string());
        }
        let name = self.htpasswd.as_deref().map(UserName::parse).transpose()?;
        let policy = self.hashing.policy()?;
        let input = PasswordInput::open(&self.password)?;
        let password = input.new_password(&policy, name.as_ref())?;
        let hash = policy.hash(&password)?;
        let line = match &name {
            None => hash.as_str().to_owned(),
            Some(name) => htpasswd::line(name, &hash).ok_or_else(|| {
                let why = "a line that begins with # is a comment in such a file";
                Failure::new(Exit::BadName, why)
            })?,
        };
        if self.password.generate {
            say(&format!("password: {}", password.reveal()));
        }
        print(&line)
    }
}

impl From<HashingError> for Failure {
    fn from(e: HashingError) -> Self {
        Self::new(Exit::Failed, format_args!("no hash could be made: {e}"))
    }
}

impl From<TooSlow> for Failure {
    fn from(e: TooSlow) -> Self {
        Self::new(Exit::Failed, e)
    }
}
