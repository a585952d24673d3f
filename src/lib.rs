//! resttool: a gate in front of REST APIs. HTTP Basic against users in one SQLite file with bcrypt hashes.
//!
//! The program is [`run`]. The rest is public so that tests and benchmarks can start the server in their
//! own process, on a store of their own.

mod auth;
mod cli;
mod credential;
mod server;
mod store;
mod users;

pub use auth::{Authenticator, Counts, Decision, Limit, Settings as AuthSettings, Unfit};
pub use cli::run;
pub use credential::{
    Cost, Credentials, HashError, NameError, Password, PasswordError, PasswordHash, UserName,
};
pub use server::{
    Delays, Network, NetworkError, NoCredentials, Realm, RealmError, Settings as ServerSettings,
    credentials as basic_credentials, run as run_server,
};
pub use store::{BadRecord, Revision, Store, StoreError, User, open as open_store};
pub use users::{Policy, PolicyError, Warning, add as add_user};
