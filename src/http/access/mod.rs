//! Access rules of the proxy: which requests need a password, and which a group.
//!
//! Pure. Decides by method, path and source of a request, and refuses a path that the upstream may
//! read differently. Knows neither credentials nor users.

mod path;
mod rule;
mod rules;

pub use rule::AccessRule;
pub use rules::{AccessRules, Requirement, RulesError};
