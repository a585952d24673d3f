//! Shared steps of commands for many users.

use std::collections::{BTreeMap, BTreeSet};

use super::exit::{Exit, Failure, say};
use super::progress::Progress;
use super::report::{Report, summary};
use crate::admin::{Change, DesiredUser, ReconcileError, ReconcileOptions, Warning, reconcile};
use crate::domain::UserName;
use crate::store::{StoreError, UserStore};
use crate::time::Timestamp;

/// Reconciles many users, with a progress bar of this label. `position` names the place of a user in the input.
pub(super) fn reconcile_many(
    store: &dyn UserStore,
    desired: &[DesiredUser],
    options: &ReconcileOptions,
    label: &'static str,
    position: &dyn Fn(usize) -> String,
) -> Result<Vec<Change>, Failure> {
    let progress = Progress::new(label);
    let now = Timestamp::now();
    let changes = reconcile(store, desired, options, now, &|done, of| progress.show(done, of));
    progress.end();
    changes.map_err(|e| match e {
        ReconcileError::User { index, why } => {
            let failure = match (&why, desired.get(index).map(|user| &user.name)) {
                (StoreError::UserExists, Some(name)) => {
                    Failure::new(Exit::UserExists, format_args!("there is a user {name}"))
                        .hint("--on-conflict skip leaves them, and replace replaces them")
                }
                (StoreError::NoSuchUser, Some(name)) => {
                    Failure::new(Exit::NoSuchUser, format_args!("there is no user {name}"))
                        .hint("--create adds users who do not exist")
                }
                _ => why.into(),
            };
            failure.about(position(index))
        }
        ReconcileError::Groups { index, why } => {
            Failure::new(Exit::BadInput, why).about(position(index))
        }
        other => other.into(),
    })
}

/// Reports changes, and their number.
pub(super) fn record_many(report: &mut Report, changes: &[Change]) -> Result<(), Failure> {
    // Every change is audited, also if standard output fails.
    let recorded =
        changes.iter().map(|change| report.record(change, None)).fold(Ok(()), Result::and);
    recorded.and(report.flush())?;
    report.say(&summary(changes));
    Ok(())
}

/// The users of an input, and their line numbers.
#[derive(Default)]
pub(super) struct Lines {
    pub(super) users: Vec<DesiredUser>,
    numbers: Vec<usize>,
}

/// The treatment of a second line for the same user.
pub(super) enum Duplicates {
    Refuse,
    KeepFirst,
    KeepLast,
}

impl Lines {
    pub(super) fn add(&mut self, number: usize, user: DesiredUser) {
        self.users.push(user);
        self.numbers.push(number);
    }

    pub(super) fn position(&self, index: usize) -> String {
        format!("line {}", self.numbers.get(index).copied().unwrap_or_default())
    }

    /// Keeps one line for each user.
    pub(super) fn remove_duplicates(&mut self, duplicates: &Duplicates) -> Result<(), Failure> {
        let mut kept = BTreeMap::new();
        for (index, user) in self.users.iter().enumerate() {
            match (kept.get(&user.name), duplicates) {
                (None, _) | (Some(_), Duplicates::KeepLast) => {
                    kept.insert(&user.name, index);
                }
                (Some(_), Duplicates::KeepFirst) => {}
                (Some(first), Duplicates::Refuse) => {
                    let (name, first) = (&user.name, self.position(*first));
                    let why = format_args!("{name} stands in {first} already");
                    return Err(Failure::new(Exit::BadInput, why)
                        .about(self.position(index))
                        .hint("--on-conflict skip takes the first of them, and replace the last"));
                }
            }
        }
        if kept.len() < self.users.len() {
            let kept: BTreeSet<_> = kept.into_values().collect();
            let mut index = 0..;
            self.users.retain(|_| index.next().is_some_and(|index| kept.contains(&index)));
            let mut index = 0..;
            self.numbers.retain(|_| index.next().is_some_and(|index| kept.contains(&index)));
        }
        Ok(())
    }
}

/// The warnings about many passwords, one line for each kind.
#[derive(Default)]
pub(super) struct Warnings(BTreeMap<Warning, Vec<UserName>>);

impl Warnings {
    pub(super) fn add(&mut self, user: &UserName, warnings: Vec<Warning>) {
        for warning in warnings {
            self.0.entry(warning).or_default().push(user.clone());
        }
    }

    pub(super) fn say(&self) {
        for (warning, users) in &self.0 {
            let line = match (warning, users.as_slice()) {
                (Warning::LowCost(_), _) => warning.to_string(),
                (_, [user]) => format!("{user}: {warning}"),
                (_, [user, others @ ..]) => format!("{user} and {} more: {warning}", others.len()),
                (_, []) => continue,
            };
            say(&format!("resttool: warning: {line}"));
        }
    }
}
