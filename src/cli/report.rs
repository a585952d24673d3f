//! Reports changes: a line for people, a JSON object for programs, a line for the audit log.
//!
//! A change is reported after its commit. `docs/commands.md` describes the formats.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::ops::ControlFlow;

use serde::Serialize;

use super::args;
use super::exit::{Exit, Failure, cannot_print, say};
use super::output::{self, Inputs};
use crate::credential::{GroupName, Password, UserName};
use crate::moment::Moment;
use crate::store::{Account, Store};
use crate::text::printable;
use crate::users::settle::{Change, Difference, Outcome};

/// Where changes are told.
pub(super) struct Report {
    pub(super) json: bool,
    quiet: bool,
    /// Whether nothing is really done.
    dry_run: bool,
    audit: Option<Box<dyn Write>>,
    out: BufWriter<io::Stdout>,
}

impl Report {
    /// As asked for. It fails before anything is changed that could not be told.
    pub(super) fn open(args: &args::Output, inputs: &Inputs) -> Result<Self, Failure> {
        let audit: Option<Box<dyn Write>> = match &args.audit_log {
            Some(path) => {
                let file = output::append(path, inputs).map_err(|e| {
                    let path = printable(&path.to_string_lossy());
                    e.failure(format_args!("open the audit log {path}"))
                })?;
                Some(Box::new(BufWriter::new(file)))
            }
            // People at a terminal have just seen what they did.
            None if args.quiet || io::stderr().is_terminal() => None,
            None => Some(Box::new(BufWriter::new(io::stderr()))),
        };
        let out = BufWriter::new(io::stdout());
        Ok(Self { json: args.json.json, quiet: args.quiet, dry_run: false, audit, out })
    }

    /// Of what would be done.
    pub(super) fn of_dry_run(self) -> Self {
        Self { dry_run: true, ..self }
    }

    /// A line for people.
    pub(super) fn say(&self, line: &str) {
        if !self.quiet {
            say(&format!("resttool: {line}"));
        }
    }

    /// Tells programs and the audit log of a change, and of the password that was made up for it.
    pub(super) fn tell(
        &mut self,
        change: &Change,
        generated: Option<&Password>,
    ) -> Result<(), Failure> {
        self.audit(change)?;
        if self.json {
            let object = Object {
                name: change.name.as_str(),
                changed: change.outcome != Outcome::Unchanged,
                outcome: change.outcome.to_string(),
                changes: change.differences.iter().map(ToString::to_string).collect(),
                password: generated.map(Password::reveal),
                dry_run: self.dry_run,
            };
            self.print(&json(&object)?)?;
        }
        Ok(())
    }

    /// A line on standard output.
    pub(super) fn print(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.out, "{line}").map_err(cannot_print)
    }

    /// Makes sure that what was printed has been.
    pub(super) fn flush_output(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(cannot_print)
    }

    /// Makes sure that all of it has been said. What can't be told to one is told to the other all the same.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        let printed = self.flush_output();
        let audited = self.audit.as_mut().map_or(Ok(()), Write::flush);
        printed.and(audited.map_err(|e| cannot_audit(&e)))
    }

    fn audit(&mut self, change: &Change) -> Result<(), Failure> {
        let Some(audit) = self.audit.as_mut().filter(|_| !self.dry_run) else { return Ok(()) };
        if change.outcome == Outcome::Unchanged {
            return Ok(());
        }
        let by = rustix::process::getuid().as_raw();
        let mut line = format!(
            "[{} INFO  audit] action={} user={} by={by}",
            Moment::now(),
            change.outcome,
            change.name
        );
        for (n, difference) in change.differences.iter().enumerate() {
            // Writing to a text can't fail.
            let _ = write!(line, "{}{difference}", if n == 0 { " changes=" } else { "," });
        }
        writeln!(audit, "{line}").map_err(|e| cannot_audit(&e))
    }
}

/// An object, as a line for programs.
pub(super) fn json(object: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(object).map_err(|e| Failure::new(Exit::Failed, e))
}

/// A change, for programs.
#[derive(Serialize)]
struct Object<'a> {
    name: &'a str,
    changed: bool,
    outcome: String,
    changes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

fn cannot_audit(e: &io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format_args!("the change was made, but the audit log cannot be written: {e}"),
    )
}

/// A change for people, in the form of a diff.
pub(super) fn diff(change: &Change) -> String {
    let sign = match change.outcome {
        Outcome::Added => '+',
        Outcome::Changed => '~',
        Outcome::Removed => '-',
        Outcome::Unchanged => '=',
    };
    let mut line = format!("{sign} {}", change.name);
    for (n, difference) in change.differences.iter().enumerate() {
        let what = match difference {
            Difference::Password => "another password".to_owned(),
            Difference::Joined(group) => format!("joins {group}"),
            Difference::Left(group) => format!("leaves {group}"),
            Difference::Locked => "locked".to_owned(),
            Difference::Unlocked => "unlocked".to_owned(),
            Difference::Expires(None) => "never expires".to_owned(),
            Difference::Expires(Some(moment)) => format!("expires {moment}"),
            Difference::Renamed(name) => format!("renamed to {name}"),
            Difference::Times => "other times".to_owned(),
        };
        // Writing to a text can't fail.
        let _ = write!(line, "{} {what}", if n == 0 { ":" } else { "," });
    }
    line
}

/// How many were added, changed, removed and left, as far as there are any.
pub(super) fn summary(changes: &[Change]) -> String {
    let outcomes = [Outcome::Added, Outcome::Changed, Outcome::Removed, Outcome::Unchanged];
    let counted = outcomes.into_iter().filter_map(|outcome| {
        let count = changes.iter().filter(|change| change.outcome == outcome).count();
        (count > 0).then(|| format!("{count} {outcome}"))
    });
    let counted: Vec<_> = counted.collect();
    if counted.is_empty() { "nothing to do".to_owned() } else { counted.join(", ") }
}

/// Writes a line for each user that has one, as they come.
pub(super) fn write_each(
    store: &dyn Store,
    out: &mut impl Write,
    mut line: impl FnMut(&Account) -> Result<Option<String>, Failure>,
    failed: impl Fn(io::Error) -> Failure,
) -> Result<(), Failure> {
    let mut done = Ok(());
    store.each(&mut |user| {
        done = line(&user).and_then(|line| match line {
            Some(line) => writeln!(out, "{line}").map_err(&failed),
            None => Ok(()),
        });
        if done.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    done?;
    out.flush().map_err(failed)
}

/// A user, for programs: all but the hash.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    name: &'a str,
    groups: Vec<&'a str>,
    locked: bool,
    expires_at: Option<String>,
    /// `null` where the hash can't be used.
    cost: Option<u8>,
    created_at: String,
    updated_at: String,
}

impl<'a> Shown<'a> {
    pub(super) fn new(account: &'a Account) -> Self {
        Self {
            name: account.name.as_str(),
            groups: account.groups.iter().map(GroupName::as_str).collect(),
            locked: account.locked,
            expires_at: account.expires.map(|moment| moment.to_string()),
            cost: account.hash.as_ref().ok().map(|hash| hash.cost().get()),
            created_at: account.created.to_string(),
            updated_at: account.changed.to_string(),
        }
    }
}

/// Whether a password was right, for programs.
#[derive(Serialize)]
pub(super) struct Verified<'a> {
    name: &'a str,
    verified: bool,
    reason: Option<&'static str>,
}

impl<'a> Verified<'a> {
    pub(super) fn new(name: &'a UserName, reason: Option<&'static str>) -> Self {
        Self { name: name.as_str(), verified: reason.is_none(), reason }
    }
}
