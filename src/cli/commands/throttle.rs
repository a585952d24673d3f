//! `resttool throttle`

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::auth::Source;
use crate::cli::control::ask_each;
use crate::cli::exit::{Exit, Failure, print_list, say};
use crate::cli::report::json;
use crate::cli::table::table;
use crate::cli::terminal;
use crate::config::{ControlSetting, JsonSetting, QuietSetting};
use crate::domain::UserName;
use crate::http::{ClearRequest, ThrottledEntry};
use crate::store::Location;
use crate::text::figures::{duration, plural};
use crate::text::printable;

/// List the sources and users that are throttled after failed logins, or let them try again at once
#[derive(Args, Debug)]
#[command(
    after_long_help = "It asks the servers that run on the same store, over their control sockets. Run it as the user
of the server, or as root. Failures that are cleared are forgiven on those servers alone.

Examples:
  resttool throttle list
  resttool throttle list --json | jq -r 'select(.source) | .source'
  resttool throttle clear 192.0.2.1
  resttool throttle clear --user roy
  resttool throttle clear --all"
)]
pub(in crate::cli) struct Throttle {
    /// Do this
    action: ThrottleAction,

    /// Clear this source: an address, or an IPv6 /64 network
    #[arg(value_name = "SOURCE", conflicts_with_all = ["user", "all"])]
    source: Option<Source>,

    /// Clear this user name
    #[arg(long, value_name = "NAME", conflicts_with = "all", value_parser = user_name)]
    user: Option<UserName>,

    /// Clear all sources and user names
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    control: ControlSetting,

    #[command(flatten)]
    json: JsonSetting,

    #[command(flatten)]
    quiet: QuietSetting,
}

/// An action on the throttle.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum ThrottleAction {
    /// Print the throttled sources and users, with the time until their next login
    List,
    /// Forgive the failures of a source, on a user name, or all of them
    Clear,
}

fn user_name(text: &str) -> Result<UserName, String> {
    UserName::parse(text).map_err(|e| e.to_string())
}

impl Throttle {
    pub(super) fn describe(&self) -> String {
        match self.action {
            ThrottleAction::List => "list throttled sources and users".to_owned(),
            ThrottleAction::Clear => "clear the throttle".to_owned(),
        }
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let request = match (&self.source, &self.user, self.all) {
            (Some(source), ..) => Some(ClearRequest::Source(source.to_string())),
            (None, Some(user), _) => Some(ClearRequest::User(user.to_string())),
            (None, None, true) => Some(ClearRequest::All),
            (None, None, false) => None,
        };
        match (self.action, request) {
            (ThrottleAction::List, None) => self.list(location),
            (ThrottleAction::Clear, Some(request)) => self.clear(location, &request),
            (ThrottleAction::List, Some(_)) => {
                Err(Failure::new(Exit::Usage, "list takes no SOURCE, --user or --all"))
            }
            (ThrottleAction::Clear, None) => {
                Err(Failure::new(Exit::Usage, "clear needs a SOURCE, --user NAME or --all"))
            }
        }
    }

    fn list(&self, location: &Location) -> Result<(), Failure> {
        let socket = self.control.path();
        let answers = ask_each(location, socket, |server| server.throttled())?;
        let mut entries: Vec<_> = answers.into_iter().flatten().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.seconds));
        if self.json.json {
            let lines = entries.iter().map(json).collect::<Result<Vec<_>, _>>()?;
            return if lines.is_empty() { Ok(()) } else { print_list(&lines.join("\n")) };
        }
        if entries.is_empty() {
            if !self.quiet.quiet {
                say("resttool: no source or user is throttled");
            }
            return Ok(());
        }
        let head = ["SOURCE OR USER", "TIME LEFT"].map(str::to_owned);
        let row = |entry: &ThrottledEntry| [printable(entry.subject()), duration(entry.seconds)];
        let rows: Vec<_> = std::iter::once(head).chain(entries.iter().map(row)).collect();
        print_list(&table(&rows, terminal::width()).collect::<Vec<_>>().join("\n"))
    }

    fn clear(&self, location: &Location, request: &ClearRequest) -> Result<(), Failure> {
        let socket = self.control.path();
        let answers = ask_each(location, socket, |server| server.clear(request))?;
        let cleared = answers.iter().map(|answer| answer.cleared).sum();
        if self.json.json {
            print_list(&json(&ClearedJson { cleared, servers: answers.len() })?)?;
        }
        if self.quiet.quiet {
            return Ok(());
        }
        let message = match (request, cleared) {
            (ClearRequest::Source(subject) | ClearRequest::User(subject), 0) => {
                format!("{} has no failed logins", printable(subject))
            }
            (ClearRequest::Source(subject) | ClearRequest::User(subject), _) => {
                format!("cleared {}", printable(subject))
            }
            (ClearRequest::All, 0) => "there are no failed logins".to_owned(),
            (ClearRequest::All, n) => {
                format!("cleared {}", plural(n as u64, "source or user name"))
            }
        };
        say(&format!("resttool: {message}"));
        Ok(())
    }
}

/// The result of clearing, as JSON.
#[derive(Serialize)]
struct ClearedJson {
    /// The number of sources and user names that had failures, of all servers together.
    cleared: usize,
    servers: usize,
}
