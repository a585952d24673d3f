//! `resttool verify`

use clap::Args;
use serde::Serialize;

use crate::auth::{self, Outcome};
use crate::cli::exit::{Exit, Failure, print, say};
use crate::cli::open::open_store;
use crate::cli::report::json;
use crate::cli::secret::{KnownPassword, PasswordOptions};
use crate::config::{JsonSetting, QuietSetting};
use crate::domain::{Credentials, UserName};
use crate::store::Location;
use crate::text::printable;

/// Check a password as the server does; exits with 0 if it is granted, 3 if not, 6 if the user does
/// not exist
#[derive(Args, Debug)]
#[command(after_long_help = "Examples:
  resttool verify roy   ask for the password on the terminal
  printf '%s' \"$PASSWORD\" | resttool verify roy --password-stdin
  resttool verify roy --password-file /run/secrets/roy --quiet && echo right")]
pub(in crate::cli) struct Verify {
    /// The user's name
    name: String,

    #[command(flatten)]
    password: PasswordOptions,

    #[command(flatten)]
    json: JsonSetting,

    #[command(flatten)]
    quiet: QuietSetting,
}

impl Verify {
    pub(super) fn describe(&self) -> String {
        format!("verify user {}", printable(&self.name))
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let user = UserName::parse(&self.name)?;
        let input = KnownPassword::open(&self.password)?;
        let store = open_store(location)?;
        let password = input.get(&user)?;
        let credentials = Credentials { user, password };
        let reason = match auth::check(&*store, &credentials)? {
            Outcome::Verified(_) => None,
            Outcome::UnknownUser => Some((Exit::NoSuchUser, "there is no user of that name")),
            Outcome::WrongPassword => Some((Exit::Refused, "the password is wrong")),
            Outcome::TooLong => Some((Exit::Refused, "the password is longer than 72 bytes")),
            Outcome::Locked => Some((Exit::Refused, "the user is locked")),
            Outcome::Expired => Some((Exit::Refused, "the user has expired")),
            _ => Some((Exit::Failed, "the password could not be checked")),
        };
        let user = &credentials.user;
        if self.json.json {
            let reason = reason.map(|(_, why)| why);
            let object = VerifyJson { name: user.as_str(), verified: reason.is_none(), reason };
            print(&json(&object)?)?;
        }
        match reason {
            Some((exit, why)) => Err(Failure::new(exit, why)),
            None => {
                if !self.quiet.quiet {
                    say(&format!("resttool: the password of {user} is right"));
                }
                Ok(())
            }
        }
    }
}

#[derive(Serialize)]
struct VerifyJson<'a> {
    name: &'a str,
    verified: bool,
    reason: Option<&'static str>,
}
