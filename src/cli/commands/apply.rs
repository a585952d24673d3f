//! `resttool apply`

use std::path::{Path, PathBuf};

use clap::Args;
use tempfile::TempDir;

use crate::admin::{
    ChangeKind, DesiredPassword, DesiredUser, GroupsEdit, IfExists, IfMissing, Policy,
    ReconcileOptions,
};
use crate::cli::exit::{Exit, Failure};
use crate::cli::input::{FailureList, Input};
use crate::cli::many::{Warnings, reconcile_many};
use crate::cli::open::{open_or_create_store, open_store};
use crate::cli::output::Inputs;
use crate::cli::report::{Report, diff, summary};
use crate::cli::secret::{generate, password_in};
use crate::config::{HashingSettings, OutputSettings};
use crate::domain::UserName;
use crate::formats::desired_state::{self, Entry, EntryPassword};
use crate::fs::folder;
use crate::store::{Location, Problem, StoreError, UserStore};
use crate::text::printable;

/// Reconcile the users with the desired state in a file, in one transaction
#[derive(Args, Debug)]
#[command(after_long_help = "The file is TOML:
  [[user]]
  name = \"ann\"
  password_file = \"/run/secrets/ann\"   # or password_hash = \"$2y$...\", or generate = true for a new user
  groups = [\"admin\", \"staff\"]        # default: none
  locked = false
  expire = 2027-01-31                  # default: never

A second run changes nothing: a password that matches the stored hash keeps it.

Examples:
  resttool apply users.toml --dry-run
  resttool apply users.toml
  resttool apply users.toml --prune --json   remove users not in the file")]
pub(in crate::cli) struct Apply {
    /// The file; - is standard input
    file: PathBuf,

    /// Print the changes without making them
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Remove users that are not in the file
    #[arg(long)]
    prune: bool,

    #[command(flatten)]
    hashing: HashingSettings,

    #[command(flatten)]
    output: OutputSettings,
}

impl Apply {
    pub(super) fn describe(&self) -> String {
        format!("apply {}", printable(&self.file.to_string_lossy()))
    }

    pub(super) fn run(&self, location: &Location) -> Result<(), Failure> {
        let policy = self.hashing.policy()?;
        let text = Input::open(&self.file, "a desired state")?.read_text()?;
        let entries = desired_state::parse(&text).map_err(|e| Failure::new(Exit::BadInput, e))?;
        let mut warnings = Warnings::default();
        let mut desired = Vec::new();
        let mut files = vec![self.file.clone()];
        let mut bad = FailureList::of(Exit::BadInput);
        for entry in entries {
            let entry = entry.map_err(|e| Failure::new(Exit::BadInput, e));
            let Some(entry) = bad.note(entry)? else { continue };
            if let EntryPassword::File(path) = &entry.password {
                files.push(relative_to(&self.file, path));
            }
            let password = self
                .password(&entry, &policy, &mut warnings)
                .map_err(|e| e.about(format_args!("user {}", entry.name)).exiting(Exit::BadInput));
            let Some(password) = bad.note(password)? else { continue };
            desired.push(DesiredUser {
                groups: GroupsEdit::Set(entry.groups),
                locked: Some(entry.locked),
                expires: Some(entry.expires),
                ..DesiredUser::new(entry.name, password)
            });
        }
        bad.check()?;
        warnings.say();
        let inputs = Inputs::new(location, files.iter().map(PathBuf::as_path));
        let mut report = Report::open_bulk(&self.output, &inputs, "apply")?;
        if self.dry_run {
            report = report.of_dry_run();
        }
        let options = ReconcileOptions {
            prune: self.prune,
            dry_run: self.dry_run,
            cost: policy.cost,
            ..ReconcileOptions::new(IfMissing::Add, IfExists::Compare)
        };
        let (_folder, store) = open(location, self.dry_run)?;
        let mut changes = Vec::new();
        let place = |_, name: &UserName| format!("user {name}");
        let users = desired.as_slice();
        reconcile_many(&*store, &users, &mut changes, &options, "applying", place)?;
        let mut recorded = Ok(());
        for (n, change) in changes.iter().enumerate() {
            let generated = match desired.get(n).map(|user| &user.password) {
                Some(DesiredPassword::Initial(password))
                    if change.kind == ChangeKind::Added && !self.dry_run =>
                {
                    Some(password)
                }
                _ => None,
            };
            // Every change is audited, also if standard output fails.
            recorded = recorded.and(report.record(change, generated));
            if !report.json && change.kind != ChangeKind::Unchanged {
                let line = diff(change);
                recorded = recorded.and(report.print(&match generated {
                    Some(password) => format!("{line} (password {})", password.reveal()),
                    None => line,
                }));
            }
        }
        recorded.and(report.flush())?;
        let summary = summary(&changes);
        report.say(&if self.dry_run { format!("would be: {summary}") } else { summary });
        Ok(())
    }

    fn password(
        &self,
        entry: &Entry,
        policy: &Policy,
        warnings: &mut Warnings,
    ) -> Result<DesiredPassword, Failure> {
        match &entry.password {
            EntryPassword::File(path) => {
                let password = password_in(&relative_to(&self.file, path))?;
                warnings.add(&entry.name, policy.judge(&password, Some(&entry.name))?);
                Ok(DesiredPassword::Password(password))
            }
            EntryPassword::Hash(hash) => Ok(DesiredPassword::Hash(hash.clone().into())),
            EntryPassword::Generate => generate().map(DesiredPassword::Initial),
        }
    }
}

/// Opens the store. A dry run does not create it, and compares with an empty one elsewhere. Its
/// folder is removed when it is dropped.
fn open(
    location: &Location,
    dry_run: bool,
) -> Result<(Option<TempDir>, Box<dyn UserStore>), Failure> {
    if !dry_run {
        return Ok((None, open_or_create_store(location)?));
    }
    match open_store(location) {
        Err(StoreError::Refused { problem: Problem::Missing, .. }) => {
            let folder = tempfile::tempdir().map_err(|e| {
                Failure::new(Exit::Failed, format_args!("cannot create a temporary folder: {e}"))
            })?;
            let empty = Location::from(folder.path().join("empty.db"));
            let store = open_or_create_store(&empty)?;
            Ok((Some(folder), store))
        }
        opened => Ok((None, opened?)),
    }
}

/// Resolves a path that is relative to the folder of `file`.
fn relative_to(file: &Path, path: &Path) -> PathBuf {
    folder(file).join(path)
}
