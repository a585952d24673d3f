//! The message of a server that has started: some lines on a terminal, one line of the log elsewhere.
//!
//! Knows neither the settings nor the store.

use std::fmt;
use std::path::Path;

use anstyle::Style;
use log::{Level, log_enabled};

use super::exit::say;
use super::listen::Listening;
use super::terminal;
use crate::config::LogFormat;
use crate::store::Location;
use crate::text::printable;

/// A server that is ready.
pub(super) struct Startup<'a> {
    pub(super) listening: &'a Listening,
    pub(super) location: &'a Location,
    /// The number of users, if it is known.
    pub(super) users: Option<u64>,
    /// A user to try, if there is one.
    pub(super) example: Option<&'a str>,
    pub(super) certificate: Option<&'a Path>,
    /// The address of the API that requests are passed to, if there is one.
    pub(super) upstream: Option<String>,
}

impl Startup<'_> {
    /// Writes the message.
    pub(super) fn say(&self, format: LogFormat) {
        if format == LogFormat::Text && terminal::shows_messages() && log_enabled!(Level::Info) {
            let bold = if terminal::has_colours() { Style::new().bold() } else { Style::new() };
            say(&self.lines(bold));
            return;
        }
        if self.users == Some(0) {
            log::warn!("there is no user yet, add one: {}", self.add_user());
        }
        let Self { location, listening, .. } = self;
        let users = Users(self.users);
        match &self.upstream {
            Some(upstream) => {
                log::info!("{users} in {location}, upstream {upstream}, listening on {listening}")
            }
            None => log::info!("{users} in {location}, listening on {listening}"),
        }
    }

    fn lines(&self, bold: Style) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let certificate = match self.certificate {
            Some(path) => printable(&path.to_string_lossy()),
            None => "none, so passwords are sent in the clear".to_owned(),
        };
        let path = if self.upstream.is_some() { "/" } else { "/rest-auth" };
        let (label, command) = match self.example {
            Some(user) => ("try it", self.listening.curl(user, path)),
            None => ("next", self.add_user()),
        };
        let [first, second] = match &self.upstream {
            Some(upstream) => {
                [("clients", self.listening.address(path)), ("upstream", upstream.clone())]
            }
            None => [
                ("people", self.listening.address(path)),
                (
                    "proxies",
                    format!("{} (see resttool print nginx)", self.listening.address("/auth")),
                ),
            ],
        };
        let rows = [
            first,
            second,
            ("users", format!("{} in {}", Users(self.users), self.location)),
            ("certificate", certificate),
            (label, command),
            ("stop", "Ctrl-C".to_owned()),
        ];
        let rows = rows.map(|(label, text)| format!("\n  {bold}{label:<11}{bold:#}  {text}"));
        format!("{bold}resttool {version} is ready{bold:#}{}", rows.concat())
    }

    fn add_user(&self) -> String {
        format!("resttool useradd NAME --database {}", self.location.shell_word())
    }
}

/// A number of users in words.
struct Users(Option<u64>);

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("users"),
            Some(0) => f.write_str("no users"),
            Some(1) => f.write_str("1 user"),
            Some(n) => write!(f, "{n} users"),
        }
    }
}
