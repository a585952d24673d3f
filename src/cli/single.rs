//! Shared steps of commands for one user.

use std::time::SystemTime;

use super::exit::{Failure, say};
use super::report::{Report, describe};
use crate::admin::{Change, DesiredUser, ReconcileOptions, reconcile};
use crate::domain::{Password, UserName};
use crate::store::{Location, UserStore};
use crate::text::shell_operand;
use crate::time::Timestamp;

/// Reconciles one user.
pub(super) fn reconcile_one(
    store: &dyn UserStore,
    desired: &DesiredUser,
    options: &ReconcileOptions,
) -> Result<Change, Failure> {
    let desired_users = std::slice::from_ref(desired);
    let changes = reconcile(store, desired_users, options, Timestamp::now(), &|_, _| {})?;
    Ok(changes.into_iter().next().unwrap_or_else(|| Change::none(desired.name.clone())))
}

/// Reports a change after its commit, with a generated password and a hint for the case that the
/// password cannot be printed.
pub(super) fn record_one(
    report: &mut Report,
    change: &Change,
    generated: Option<(&Password, String)>,
) -> Result<(), Failure> {
    let Some((password, if_lost)) = generated else {
        report.record(change, None)?;
        return report.flush();
    };
    let mut printed = report.record(change, Some(password));
    if printed.is_ok() && !report.json {
        printed = report.print(password.reveal());
    }
    let printed = printed.and_then(|()| report.flush_output()).map_err(|e| e.hint(if_lost));
    printed.and(report.flush())
}

/// Returns the message about a changed user, with the differences.
pub(super) fn changed(change: &Change) -> String {
    match describe(&change.fields) {
        None => format!("changed user {}", change.name),
        Some(fields) => format!("changed user {}: {fields}", change.name),
    }
}

/// Warns about an expiry that has passed: the user is refused from now on.
pub(super) fn warn_about_expiry(expires: Option<Option<Timestamp>>) {
    if let Some(Some(end)) = expires
        && end.has_passed(SystemTime::now())
    {
        say(&format!("resttool: warning: the expiry {end} is in the past"));
    }
}

/// Returns a command for a user, for a hint.
pub(super) fn command(command: &str, store: &Location, user: &UserName) -> String {
    let (store, user) = (store.shell_word(), shell_operand(user.as_str()));
    format!("resttool {command} --database {store} {user}")
}
