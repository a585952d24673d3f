//! resttool: a gate in front of REST APIs. HTTP Basic against users in one SQLite file with bcrypt hashes.
//!
//! The program is [`run`]. The rest is public so that tests and benchmarks can start the server in their
//! own process, on a store of their own, and that fuzzing reaches what reads the words of strangers.

mod aside;
mod auth;
mod cli;
mod credential;
pub mod htpasswd;
mod jsonl;
mod manifest;
mod moment;
mod server;
mod store;
mod text;
mod users;

pub use auth::{
    Ask, Authenticator, Counts, Decision, Grant, Limit, Settings as AuthSettings, Unfit,
};
pub use cli::run;
pub use credential::{
    Cost, Credentials, EncodedCredentials, GroupName, Groups, HashError, NameError, Password,
    PasswordError, PasswordHash, TooManyGroups, UserName,
};
pub use moment::{Moment, MomentError};
pub use server::{
    AcceptedBytes, Delays, Framing, Listener, Network, NetworkError, NoCredentials, Realm,
    RealmError, Settings as ServerSettings, Tls, TlsError, credentials as basic_credentials,
    run as run_server, source_address,
};
pub use store::{
    Account, BadRecord, Revision, Store, StoreError, Transaction, User, open as open_store,
};
pub use users::settle::{
    Change, Difference, Edit, Existing, Missing, Outcome, Rule, Secret, SettleError, Wanted,
    remove as remove_user, settle,
};
pub use users::{Policy, PolicyError, Warning};
