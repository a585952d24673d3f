//! Shared by the tests: a raw HTTP client, the server in this process, a temporary store, and runs of
//! the program.
//!
//! A test binary includes it with `#[path = "../support/mod.rs"] mod support;`. Only this folder
//! imports the library.

pub mod cli;
pub mod client;
pub mod server;
pub mod store;

pub use resttool::testing::{
    Account, AuthConfig, Call, Cost, Delays, GroupName, HttpConfig, Limit, MockStore, PasswordHash,
    Tls,
};
