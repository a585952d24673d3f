//! The integration tests: the real server in this process, and the real program in others.
//!
//! `#[ignore]` marks what needs more than a Rust toolchain; `.ci/run` installs that and runs it too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

mod command;
mod faults;
mod forward;
mod framing;
mod gate;
mod language;
mod layers;
mod load;
mod log;
mod migrate;
mod neighbours;
mod openapi;
mod output;
mod peers;
mod prompt;
mod provision;
mod provisioning;
mod proxies;
mod readme;
mod serve;
mod slow;
mod store;
mod tls;
mod transcripts;
mod upkeep;

#[path = "../support/mod.rs"]
mod support;

/// The paths by which `language.rs` imports the two modules.
mod server {
    pub use crate::support::store::TempStore as Place;
}
mod tool {
    pub use crate::support::cli::{help_of_commands, run};
}
