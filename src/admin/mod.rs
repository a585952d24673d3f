//! Administration of users: the password policy, and reconciling users with a desired state.
//!
//! Decides which changes are made. Knows neither arguments nor terminals nor the origin of a
//! password.

mod change;
mod desired;
mod policy;
mod reconcile;
#[cfg(test)]
mod tests;

pub use change::{Change, ChangeKind, ChangeSink, FieldChange};
pub use desired::{
    DesiredPassword, DesiredUser, DesiredUsers, GroupsEdit, IfExists, IfGone, IfMissing,
    ReconcileOptions, Visit,
};
pub use policy::{Policy, PolicyError, Warning};
pub use reconcile::{ReconcileError, RemoveError, reconcile, reconcile_into, remove};
