//! The integration tests: the real server in this process, and the real program in others.
//!
//! `#[ignore]` marks what needs more than a Rust toolchain; `.ci/run` installs that and runs it too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may")]

mod client;
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
mod server;
mod slow;
mod store;
mod tls;
mod tool;
mod upkeep;
