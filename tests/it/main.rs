//! Integration tests: the server in this process, and the program in others.
//!
//! `#[ignore]` marks tests that need more than a Rust toolchain. `.ci/run` runs them too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by a panic"
)]

mod activation;
mod browser;
mod command;
mod control;
mod desync_suite;
mod docs;
mod faults;
mod fleet;
mod forward;
mod frameworks;
mod framing;
mod gate;
mod health;
mod import;
mod kubernetes;
mod layers;
mod legacy;
mod load;
mod log;
mod migrate;
mod neighbours;
mod openapi;
mod ops;
mod output;
mod peers;
mod provision;
mod provisioning;
mod proxies;
mod readme;
mod release;
mod rules;
mod serve;
mod settings;
mod slow;
mod store;
mod streams;
mod systemd;
mod terminal;
mod tls;
mod transcripts;
mod upkeep;
mod upstream;
mod upstream_programs;

#[path = "../support/mod.rs"]
mod support;
