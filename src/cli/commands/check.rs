//! `resttool check`

use clap::Args;
use serde::Serialize;

use crate::cli::advice;
use crate::cli::exit::{Exit, Failure, print_list, say};
use crate::cli::report::json;
use crate::config::{CostSetting, JsonSetting, QuietSetting};
use crate::domain::UserName;
use crate::store::{self, Findings, Location, NotUpgraded, Problem};

/// Check the database for problems and suggest fixes; exits with 0 if none were found, 1 otherwise
#[derive(Args, Debug)]
#[command(
    after_long_help = "It checks the modes and owners of the folder and the files, the integrity and the version of
the database, and the record of each user. It changes nothing.

Examples:
  resttool check --cost 4
  resttool check --json | jq -r .fix"
)]
pub(in crate::cli) struct Check {
    /// The lowest cost of a hash that is no problem.
    #[command(flatten)]
    minimum: CostSetting,

    #[command(flatten)]
    json: JsonSetting,

    #[command(flatten)]
    quiet: QuietSetting,
}

impl Check {
    pub(super) fn describe(&self) -> String {
        "check the store".to_owned()
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let Findings { problems, not_upgraded } = store::check(location, self.minimum.cost()?)?;
        for problem in &problems {
            // A reader may leave after the first problem, and then there is one.
            self.show(problem, location).map_err(|e| e.exiting(Exit::Failed))?;
        }
        let NotUpgraded { users, since } = not_upgraded;
        if let (true, Some(since)) = (self.json.json, since) {
            let object = NotUpgradedJson { not_upgraded: users, since: since.to_string() };
            print_list(&json(&object)?)?;
        }
        let number = match problems.len() {
            0 if self.quiet.quiet => return Ok(()),
            0 => "no problems".to_owned(),
            1 => "1 problem".to_owned(),
            n => format!("{n} problems"),
        };
        say(&format!("resttool: found {number} in {location}"));
        if let Some(note) = describe(not_upgraded) {
            say(&format!("resttool: {note}"));
        }
        if problems.is_empty() { Ok(()) } else { Err(Failure::reported(Exit::Failed)) }
    }

    fn show(&self, problem: &Problem, location: &Location) -> Result<(), Failure> {
        let description = match problem {
            Problem::File(problem) => problem.with_path(),
            other => other.to_string(),
        };
        let fix = advice::fix(problem, location);
        if self.json.json {
            let user = problem.user().map(UserName::as_str);
            let object = ProblemJson { problem: &description, user, fix: fix.as_deref() };
            return print_list(&json(&object)?);
        }
        print_list(&description)?;
        match fix {
            Some(fix) => print_list(&format!("  fix: {fix}")),
            None => Ok(()),
        }
    }
}

/// Describes users with imported hashes, which is no problem: the hashes are as slow to guess against
/// as any.
fn describe(NotUpgraded { users, since }: NotUpgraded) -> Option<String> {
    let since = since?;
    let users = match users {
        1 => "1 user has".to_owned(),
        n => format!("{n} users have"),
    };
    Some(format!(
        "{users} an imported hash that no login has replaced yet, the first since {since}; 'resttool userlist --scheme legacy' lists them"
    ))
}

#[derive(Serialize)]
struct NotUpgradedJson {
    not_upgraded: u64,
    since: String,
}

#[derive(Serialize)]
struct ProblemJson<'a> {
    problem: &'a str,
    user: Option<&'a str>,
    fix: Option<&'a str>,
}
