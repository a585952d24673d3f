//! Reports changes as a message for people, a JSON object for programs, and a line for the audit
//! log.
//!
//! A change is reported after its commit. `docs/commands.md` describes the formats. Decides nothing
//! about users.

use std::fmt::{self, Write as _};
use std::io::{self, BufRead, BufWriter, Write};
use std::ops::ControlFlow;

use serde::Serialize;

use super::exit::{Exit, Failure, cannot_print, say};
use super::output::{self, Inputs};
use super::spool::ReportSpool;
use super::terminal;
use crate::admin::{Change, ChangeKind, FieldChange};
use crate::config::OutputSettings;
use crate::domain::{Account, GroupName, Password, StoredHash};
use crate::store::UserStore;
use crate::text::{printable, quoted};
use crate::time::Timestamp;

/// The outputs of a command that changes users.
pub(super) struct Report {
    pub(super) json: bool,
    quiet: bool,
    /// The changes are not made.
    dry_run: bool,
    audit: Option<AuditLog>,
    out: BufWriter<io::Stdout>,
}

/// The audit log of changes.
struct AuditLog {
    out: Box<dyn Write>,
    /// The changes of a bulk call, which get one line on standard error.
    bulk: Option<Bulk>,
}

/// The number of changes by one command.
struct Bulk {
    command: &'static str,
    counts: Counts,
}

/// The number of changes of each kind.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    added: u64,
    changed: u64,
    removed: u64,
    unchanged: u64,
}

impl Counts {
    pub(super) fn add(&mut self, kind: ChangeKind) {
        *match kind {
            ChangeKind::Added => &mut self.added,
            ChangeKind::Changed => &mut self.changed,
            ChangeKind::Removed => &mut self.removed,
            ChangeKind::Unchanged => &mut self.unchanged,
        } += 1;
    }
}

/// Writes them for people, e.g. `2 added, 1 unchanged`.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { added, changed, removed, unchanged } = *self;
        let kinds = [
            (added, ChangeKind::Added),
            (changed, ChangeKind::Changed),
            (removed, ChangeKind::Removed),
            (unchanged, ChangeKind::Unchanged),
        ];
        let mut separator = "";
        for (count, kind) in kinds.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {kind}")?;
            separator = ", ";
        }
        if separator.is_empty() { f.write_str("nothing to do") } else { Ok(()) }
    }
}

impl Report {
    /// Opens the outputs. Fails before a change that could not be reported.
    pub(super) fn open(settings: &OutputSettings, inputs: &Inputs) -> Result<Self, Failure> {
        let audit = match &settings.audit_log {
            Some(path) => {
                let file = output::append(path, inputs).map_err(|e| {
                    let path = printable(&path.to_string_lossy());
                    e.failure(format_args!("open the audit log {path}"))
                })?;
                Some(AuditLog { out: Box::new(BufWriter::new(file)), bulk: None })
            }
            // A user at a terminal sees the messages.
            None if settings.quiet.quiet || terminal::shows_messages() => None,
            None => Some(AuditLog { out: Box::new(BufWriter::new(io::stderr())), bulk: None }),
        };
        let out = BufWriter::new(io::stdout());
        Ok(Self {
            json: settings.json.json,
            quiet: settings.quiet.quiet,
            dry_run: false,
            audit,
            out,
        })
    }

    /// Opens the outputs of a command for many users. Standard error gets one audit line with the
    /// numbers of their changes, and a file a line for each.
    pub(super) fn open_bulk(
        settings: &OutputSettings,
        inputs: &Inputs,
        command: &'static str,
    ) -> Result<Self, Failure> {
        let mut report = Self::open(settings, inputs)?;
        if settings.audit_log.is_none()
            && let Some(audit) = &mut report.audit
        {
            audit.bulk = Some(Bulk { command, counts: Counts::default() });
        }
        Ok(report)
    }

    /// Turns the report into one of changes that would be made.
    pub(super) fn of_dry_run(self) -> Self {
        Self { dry_run: true, ..self }
    }

    /// Writes a message for people.
    pub(super) fn say(&self, line: &str) {
        if !self.quiet {
            say(&format!("resttool: {line}"));
        }
    }

    /// Reports a change, with its generated password, to programs and to the audit log.
    pub(super) fn record(
        &mut self,
        change: &Change,
        generated: Option<&Password>,
    ) -> Result<(), Failure> {
        self.audit(change)?;
        if self.json {
            self.print(&json(&ChangeJson::new(change, generated, self.dry_run))?)?;
        }
        Ok(())
    }

    /// Returns a spool for the reports of changes that are not committed yet.
    pub(super) fn spool(&self) -> ReportSpool {
        let lists = self.audit.as_ref().is_some_and(|audit| audit.bulk.is_none());
        ReportSpool::new(self.json, lists)
    }

    /// Reports the changes of a spool after their commit, and their number.
    pub(super) fn publish(&mut self, spool: ReportSpool) -> Result<(), Failure> {
        let counts = spool.counts;
        let (objects, lines) = spool.into_readers().map_err(|e| cannot_report(&e))?;
        // Every change is audited, also if standard output fails.
        let audited = match &mut self.audit {
            Some(AuditLog { bulk: Some(bulk), .. }) => {
                bulk.counts = counts;
                Ok(())
            }
            Some(audit) => lines.map_or(Ok(()), |lines| audit.write_lines(lines)),
            None => Ok(()),
        };
        let printed = objects.map_or(Ok(0), |mut objects| io::copy(&mut objects, &mut self.out));
        let flushed = self.flush();
        audited.map_err(|e| cannot_audit(&e))?;
        printed.map_err(cannot_print)?;
        flushed?;
        self.say(&counts.to_string());
        Ok(())
    }

    /// Reports the number of users of the input that were skipped, after the changes of the others.
    pub(super) fn skipped(&mut self, count: usize) -> Result<(), Failure> {
        if self.json {
            self.print(&json(&SkippedJson { skipped: count })?)?;
            self.flush_output()?;
        }
        self.say(&format!("{count} skipped"));
        Ok(())
    }

    /// Writes a line to standard output.
    pub(super) fn print(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.out, "{line}").map_err(cannot_print)
    }

    /// Flushes standard output.
    pub(super) fn flush_output(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(cannot_print)
    }

    /// Flushes all outputs, also if one of them fails.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        let printed = self.flush_output();
        let audited = self.audit.as_mut().map_or(Ok(()), AuditLog::flush);
        printed.and(audited.map_err(|e| cannot_audit(&e)))
    }

    fn audit(&mut self, change: &Change) -> Result<(), Failure> {
        let Some(audit) = self.audit.as_mut().filter(|_| !self.dry_run) else { return Ok(()) };
        audit.record(change).map_err(|e| cannot_audit(&e))
    }
}

impl AuditLog {
    fn record(&mut self, change: &Change) -> io::Result<()> {
        if let Some(bulk) = &mut self.bulk {
            bulk.counts.add(change.kind);
            return Ok(());
        }
        audit_line(change).map_or(Ok(()), |line| self.write(&line))
    }

    fn write_lines(&mut self, lines: impl BufRead) -> io::Result<()> {
        lines.lines().try_for_each(|line| self.write(&line?))
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.out, "[{} INFO  audit] {line}", Timestamp::now())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(Bulk { command, counts }) = self.bulk.take()
            && let Counts { added, changed, removed, .. } = counts
            && added + changed + removed > 0
        {
            self.write(&format!(
                "action={command} added={added} changed={changed} removed={removed} by={}",
                caller()
            ))?;
        }
        self.out.flush()
    }
}

/// Returns the user id of the caller.
fn caller() -> u32 {
    rustix::process::getuid().as_raw()
}

/// Formats the line of a change for the audit log, without its time. Returns `None` for an unchanged
/// user.
pub(super) fn audit_line(change: &Change) -> Option<String> {
    if change.kind == ChangeKind::Unchanged {
        return None;
    }
    let mut line = format!("action={} user={}", change.kind, quoted(change.name.as_str()));
    // Writing to a string cannot fail.
    let _ = write!(line, " by={}", caller());
    if !change.fields.is_empty() {
        let fields: Vec<_> = change.fields.iter().map(audit_field).collect();
        let _ = write!(line, " changes=\"{}\"", fields.join(","));
    }
    Some(line)
}

/// Escapes a changed field for the quoted list of the audit log. A comma of a new name separates no
/// changes.
fn audit_field(field: &FieldChange) -> String {
    printable(&field.to_string()).replace('"', "\\\"").replace(',', "\\u{2c}")
}

/// Formats an object as a line for programs.
pub(super) fn json(object: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(object).map_err(|e| Failure::new(Exit::Failed, e))
}

/// A change as JSON.
#[derive(Serialize)]
pub(super) struct ChangeJson<'a> {
    name: &'a str,
    changed: bool,
    outcome: String,
    changes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

impl<'a> ChangeJson<'a> {
    pub(super) fn new(change: &'a Change, generated: Option<&'a Password>, dry_run: bool) -> Self {
        Self {
            name: change.name.as_str(),
            changed: change.kind != ChangeKind::Unchanged,
            outcome: change.kind.to_string(),
            changes: change.fields.iter().map(ToString::to_string).collect(),
            password: generated.map(Password::reveal),
            dry_run,
        }
    }
}

fn cannot_report(e: &io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format_args!("the change was made, but its report cannot be read: {e}"),
    )
}

/// The number of skipped users as JSON.
#[derive(Serialize)]
struct SkippedJson {
    skipped: usize,
}

fn cannot_audit(e: &io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format_args!("the change was made, but the audit log cannot be written: {e}"),
    )
}

/// Formats a change for people, like a diff.
pub(super) fn diff(change: &Change) -> String {
    let sign = match change.kind {
        ChangeKind::Added => '+',
        ChangeKind::Changed => '~',
        ChangeKind::Removed => '-',
        ChangeKind::Unchanged => '=',
    };
    match describe(&change.fields) {
        None => format!("{sign} {}", change.name),
        Some(fields) => format!("{sign} {}: {fields}", change.name),
    }
}

/// Describes changed fields for people, e.g. `joins admin, locked`. Returns `None` if there are none.
pub(super) fn describe(fields: &[FieldChange]) -> Option<String> {
    let words = fields.iter().map(|field| match field {
        FieldChange::Password => "another password".to_owned(),
        FieldChange::Joined(group) => format!("joins {group}"),
        FieldChange::Left(group) => format!("leaves {group}"),
        FieldChange::Locked => "locked".to_owned(),
        FieldChange::Unlocked => "unlocked".to_owned(),
        FieldChange::Expires(None) => "never expires".to_owned(),
        FieldChange::Expires(Some(time)) => format!("expires {time}"),
        FieldChange::Renamed(name) => format!("renamed to {name}"),
        FieldChange::Times => "other times".to_owned(),
    });
    let words: Vec<_> = words.collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// Counts the changes of each kind.
pub(super) fn summary(changes: &[Change]) -> String {
    let mut counts = Counts::default();
    changes.iter().for_each(|change| counts.add(change.kind));
    counts.to_string()
}

/// Writes a line for each user that has one, without collecting them.
pub(super) fn write_each(
    store: &dyn UserStore,
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

/// A user as JSON, without the hash.
#[derive(Serialize)]
pub(super) struct UserJson<'a> {
    name: &'a str,
    groups: Vec<&'a str>,
    locked: bool,
    expires_at: Option<String>,
    /// `null` if the hash is unusable.
    scheme: Option<&'static str>,
    /// `null` if the hash is unusable.
    cost: Option<u8>,
    created_at: String,
    updated_at: String,
}

impl<'a> UserJson<'a> {
    pub(super) fn new(account: &'a Account) -> Self {
        Self {
            name: account.name.as_str(),
            groups: account.groups.iter().map(GroupName::as_str).collect(),
            locked: account.locked,
            expires_at: account.expires.map(|time| time.to_string()),
            scheme: account.hash.as_ref().ok().map(StoredHash::scheme),
            cost: account.hash.as_ref().ok().map(|hash| hash.cost().get()),
            created_at: account.created.to_string(),
            updated_at: account.changed.to_string(),
        }
    }
}
