//! Shared by the tests: a raw HTTP client, the server in this process, a temporary store, and runs of
//! the program.
//!
//! A test binary includes it with `#[path = "../support/mod.rs"] mod support;`. Only this folder
//! imports the library.

use std::sync::atomic::{AtomicBool, Ordering};

pub mod cli;
pub mod client;
pub mod fault_proxy;
pub mod machine;
pub mod postgres;
pub mod program;
pub mod server;
pub mod store;
pub mod upstream;

pub use resttool::testing::{
    Account, AuthConfig, Call, Cost, CredentialVersion, Delays, GroupName, Groups, HttpConfig,
    Limit, MockStore, PasswordHash, ProxyConfig, Timestamp, Tls,
};

/// Sets a flag when it is dropped, also by a panic, so that threads that watch the flag end.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
