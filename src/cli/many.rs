//! Shared steps of commands for many users.

use std::collections::BTreeMap;

use super::exit::{Exit, Failure, say};
use super::progress::Progress;
use super::report::{Report, summary};
use crate::admin::{
    Change, ChangeSink, DesiredUser, DesiredUsers, ReconcileError, ReconcileOptions, Visit,
    Warning, reconcile_into,
};
use crate::domain::UserName;
use crate::store::{StoreError, UserStore};
use crate::time::Timestamp;

/// Reconciles many users, with a progress bar of this label. `place` names the place of a user in the
/// input by its position and its name.
pub(super) fn reconcile_many(
    store: &dyn UserStore,
    desired: &dyn DesiredUsers,
    changes: &mut dyn ChangeSink,
    options: &ReconcileOptions,
    label: &'static str,
    place: fn(usize, &UserName) -> String,
) -> Result<(), Failure> {
    let progress = Progress::new(label);
    let show = |done, of| progress.show(done, of);
    let done = reconcile_into(store, desired, changes, options, Timestamp::now(), &show);
    progress.end();
    done.map_err(|e| match e {
        ReconcileError::User { position, name, why } => {
            let failure = match why {
                StoreError::UserExists => {
                    Failure::new(Exit::UserExists, format_args!("there is a user {name}"))
                        .hint("--on-conflict skip leaves them, and replace replaces them")
                }
                StoreError::NoSuchUser => {
                    Failure::new(Exit::NoSuchUser, format_args!("there is no user {name}"))
                        .hint("--create adds users who do not exist")
                }
                why => why.into(),
            };
            failure.about(place(position, &name))
        }
        ReconcileError::Groups { position, name, why } => {
            Failure::new(Exit::BadInput, why).about(place(position, &name))
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

/// Names the place of a user whose position is its line number.
pub(super) fn line_of(position: usize, _: &UserName) -> String {
    format!("line {position}")
}

/// The users of an input. Their positions are their line numbers.
#[derive(Default)]
pub(super) struct Lines(Vec<(usize, DesiredUser)>);

impl Lines {
    pub(super) fn add(&mut self, number: usize, user: DesiredUser) {
        self.0.push((number, user));
    }
}

impl DesiredUsers for Lines {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn visit(&self, visit: &mut Visit<'_>) -> Result<(), ReconcileError> {
        self.0.iter().try_for_each(|(number, user)| visit(*number, user))
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
