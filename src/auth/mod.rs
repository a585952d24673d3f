//! Authentication: one login attempt from credentials to its outcome.
//!
//! Decides whether a request is granted. Knows neither HTTP nor SQLite. A failure becomes
//! [`Decision::Unavailable`], never a grant.

mod audit;
mod authenticator;
mod bounded;
mod cache;
mod config;
mod hash_meter;
mod histogram;
mod keyed;
mod open_streams;
mod outcome;
#[cfg(test)]
mod tests;
mod throttle;
mod verifier;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use crate::domain::{CredentialVersion, GroupName, Groups, UserName};
pub use authenticator::{Authenticator, Counters, Rejection};
pub use config::AuthConfig;
pub use histogram::HistogramSnapshot;
pub use open_streams::{EndStream, OpenStream, StreamShard};
pub(crate) use outcome::Outcome;
pub use throttle::{Limit, LimitError, Source, Subject, Throttled};
pub(crate) use verifier::check;

/// The decision on a request, as HTTP answers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The credentials are right, and the user may log in and is in a required group.
    Granted(Arc<Grant>),
    /// The credentials are right, but the user is in none of the required groups.
    Forbidden,
    /// The credentials are wrong, or the user may not log in. Clients do not learn which.
    Denied,
    /// Too many attempts from this source or for this user failed or are pending. The credentials
    /// were not checked.
    Throttled {
        /// The time until the next attempt is possible.
        retry_after: Duration,
    },
    /// Too many attempts are waiting for a hash worker. The credentials were not checked.
    Overloaded,
    /// The credentials could not be checked because of a failure on this side.
    Unavailable,
}

/// The user id of an operator who forgives failures, if it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClearedBy(pub Option<u32>);

/// An authenticated user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    #[allow(missing_docs, reason = "the type says it")]
    pub user: UserName,
    /// The groups of the user, as of the last look-up.
    pub groups: Arc<Groups>,
    /// The version of the password that was verified.
    pub credential_version: CredentialVersion,
}

/// The access that a request asks for.
#[derive(Clone, Copy)]
pub struct AccessRequest<'a> {
    /// The user has to be in one of these groups. None is required if there are none.
    pub groups: &'a [GroupName],
    /// Describes the requested resource for the audit log. Must be escaped and free of secrets.
    /// Called only if the event is logged.
    pub target: &'a dyn Fn() -> Option<String>,
}

impl AccessRequest<'_> {
    /// Access that requires no group.
    pub const ANY: AccessRequest<'static> = AccessRequest { groups: &[], target: &|| None };
}

/// Keeps a value that every request writes out of the cache lines that every request reads, since
/// each thread would have to fetch those again. 128 bytes, because processors fetch lines in pairs.
#[repr(align(128))]
struct OwnLine<T>(T);
