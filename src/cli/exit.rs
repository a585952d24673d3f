//! Exit codes, failures, and lines on standard output and standard error.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use super::{advice, log};
use crate::admin::{PolicyError, ReconcileError};
use crate::domain::{HashError, NameError, PasswordError};
use crate::store::{Location, StoreError, UrlError};

/// The exit codes. They are those of useradd, userdel, passwd and htpasswd where these agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Refused = 3,
    Unreachable = 4,
    Busy = 5,
    NoSuchUser = 6,
    BadInput = 7,
    UserExists = 9,
    BadName = 19,
    Interrupted = 130,
}

impl Exit {
    const ALL: [Self; 11] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Refused,
        Self::Unreachable,
        Self::Busy,
        Self::NoSuchUser,
        Self::BadInput,
        Self::UserExists,
        Self::BadName,
        Self::Interrupted,
    ];

    fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failure of the store, of input or output, or of the server",
            Self::Usage => "usage error: an argument or an environment variable",
            Self::Refused => {
                "password or hash refused, wrong password, or two typed passwords differ"
            }
            Self::Unreachable => "no server to ask for its health",
            Self::Busy => "store busy, try again",
            Self::NoSuchUser => "user does not exist",
            Self::BadInput => "invalid line or entry of the input",
            Self::UserExists => "user exists already",
            Self::BadName => "invalid user name",
            Self::Interrupted => "interrupted at a prompt (Ctrl-C)",
        }
    }

    /// Returns the table of all exit codes for the help.
    pub(super) fn table() -> String {
        let rows = Self::ALL.map(|exit| format!("\n  {:>3}  {}", exit as u8, exit.meaning()));
        format!("Exit codes:{}", rows.concat())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The failure of a command.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    why: String,
    hint: Option<String>,
    /// Further reasons, each with a line of its own.
    more: Vec<String>,
    /// The command has written its own message.
    is_reported: bool,
}

impl Failure {
    pub(super) fn new(exit: Exit, why: impl fmt::Display) -> Self {
        Self { exit, why: why.to_string(), hint: None, more: Vec::new(), is_reported: false }
    }

    /// The failure of a command that has written its own message.
    pub(super) fn reported(exit: Exit) -> Self {
        Self { is_reported: true, ..Self::new(exit, "") }
    }

    /// Adds the subject before the reason.
    pub(super) fn about(self, what: impl fmt::Display) -> Self {
        Self { why: format!("{what}: {}", self.why), ..self }
    }

    /// Names the store if a user was not found in it. The path may be mistyped.
    pub(super) fn in_store(self, store: &Location) -> Self {
        match self.exit {
            Exit::NoSuchUser => Self {
                why: format!("{} in {store}", self.why),
                more: self.more.iter().map(|why| format!("{why} in {store}")).collect(),
                ..self
            },
            _ => self,
        }
    }

    /// Changes the exit code.
    pub(super) fn exiting(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Combines this failure with later ones of the same kind.
    pub(super) fn and(self, more: impl IntoIterator<Item = String>) -> Self {
        Self { more: more.into_iter().collect(), ..self }
    }

    /// Returns the reason.
    pub(super) fn into_reason(self) -> String {
        self.why
    }

    /// Returns all reasons.
    pub(super) fn reasons(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.why).chain(&self.more).map(String::as_str)
    }

    /// Writes the failed action, the reason and the hint to standard error.
    pub(super) fn report(&self, what: &str) {
        if self.is_reported {
            return;
        }
        for why in self.reasons() {
            say(&format!("resttool: {what}: {why}"));
        }
        if let Some(hint) = &self.hint {
            say(&format!("hint: {hint}"));
        }
    }
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        let why = e.to_string();
        let (exit, hint) = match e {
            StoreError::UserExists => (Exit::UserExists, None),
            StoreError::NoSuchUser => (Exit::NoSuchUser, None),
            StoreError::Busy => (Exit::Busy, Some("try again".to_owned())),
            StoreError::Refused { location, problem } => {
                (Exit::Failed, advice::fix(&problem, &location))
            }
            StoreError::Failed(e) | StoreError::NotConnected(e) => {
                let hint = e.hint().or_else(|| e.system().and_then(advice::system));
                (Exit::Failed, hint.map(str::to_owned))
            }
            StoreError::Conflict | StoreError::Lapsed => (Exit::Busy, Some("try again".to_owned())),
            StoreError::Unknown(_) => (
                Exit::Failed,
                Some("look at the users, e.g. with 'resttool userlist', and try again".to_owned()),
            ),
            StoreError::BadRecord { .. }
            | StoreError::Unconfirmed(_)
            | StoreError::Unreachable(_) => (Exit::Failed, None),
        };
        Self { hint, ..Self::new(exit, why) }
    }
}

impl From<UrlError> for Failure {
    fn from(e: UrlError) -> Self {
        let failure = Self::new(Exit::Usage, &e);
        match e.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<NameError> for Failure {
    fn from(e: NameError) -> Self {
        Self::new(Exit::BadName, format_args!("invalid user name: {e}"))
    }
}

impl From<PasswordError> for Failure {
    fn from(e: PasswordError) -> Self {
        Self::new(Exit::Refused, format_args!("the password is refused: {e}"))
    }
}

impl From<HashError> for Failure {
    fn from(e: HashError) -> Self {
        Self::new(Exit::Refused, format_args!("the hash is refused: {e}"))
    }
}

impl From<PolicyError> for Failure {
    fn from(e: PolicyError) -> Self {
        match e {
            PolicyError::TooShort { .. } | PolicyError::Invisible { .. } => {
                Self::new(Exit::Refused, format_args!("the password is refused: {e}"))
            }
            PolicyError::Hash(_) => Self::new(Exit::Failed, e),
        }
    }
}

impl From<ReconcileError> for Failure {
    /// The failure of a command for one user.
    fn from(e: ReconcileError) -> Self {
        match e {
            ReconcileError::User { why, .. } | ReconcileError::Store(why) => why.into(),
            ReconcileError::Groups { why, .. } => Self::new(Exit::Usage, why),
            ReconcileError::Hash(_) => Self::new(Exit::Failed, e),
            ReconcileError::Desired(why) => cannot_read_again(&why),
            ReconcileError::Record(why) => cannot_spool(&why),
        }
    }
}

/// Writes a message to standard error.
pub(super) fn say(line: &str) {
    log::write_line(line);
}

/// Writes a result to standard output.
pub(super) fn print(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(cannot_print)
}

/// Writes a part of a list to standard output. See [`cannot_list`].
pub(super) fn print_list(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(cannot_list)
}

/// The failure of a list for people. A reader that closes its pipe, e.g. `head`, has read enough, so
/// the command ends in silence.
pub(super) fn cannot_list(e: io::Error) -> Failure {
    match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::reported(Exit::Done),
        _ => cannot_print(e),
    }
}

pub(super) fn cannot_print(e: io::Error) -> Failure {
    of_system("write to standard output", &e)
}

/// The failure of temporary storage. Nothing is changed yet.
pub(super) fn cannot_spool(e: &io::Error) -> Failure {
    of_system("write to a temporary file", e)
}

/// The failure of an input that is read a second time. Nothing is changed yet.
pub(super) fn cannot_read_again(e: &io::Error) -> Failure {
    of_system("read the input again", e)
}

fn of_system(action: &str, e: &io::Error) -> Failure {
    let failure = Failure::new(Exit::Failed, format_args!("cannot {action}: {e}"));
    match advice::system(e) {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
