//! resttool: HTTP Basic authentication for APIs, with users and bcrypt hashes in one SQLite file.
//!
//! The program is [`run`]. The library exists for it, and for its tests.

mod admin;
mod auth;
mod cli;
mod config;
mod domain;
mod formats;
mod fs;
mod hashing;
mod http;
mod store;
mod text;
mod time;

pub use cli::run;

/// The interface of integration tests, benchmarks and fuzzing. It may change at any time.
#[doc(hidden)]
pub mod testing {
    pub use crate::admin::{
        Change, ChangeKind, ChangeSink, DesiredPassword, DesiredUser, DesiredUsers, FieldChange,
        GroupsEdit, IfExists, IfGone, IfMissing, Policy, PolicyError, ReconcileError,
        ReconcileOptions, RemoveError, Visit, reconcile, reconcile_into, remove as remove_user,
    };
    pub use crate::auth::{
        AccessRequest, AuthConfig, Authenticator, Counters, Decision, Grant, Limit, Rejection,
    };
    pub use crate::domain::{
        Account, BadRecord, Cost, CredentialVersion, Credentials, EncodedCredentials, GroupName,
        Groups, HashError, LegacyError, LegacyHash, LegacyParams, LegacyScheme, NameError,
        Password, PasswordError, PasswordHash, StoredHash, User, UserName,
    };
    pub use crate::formats::{ImportedHash, htpasswd};
    pub use crate::hashing::legacy_text;
    pub use crate::http::{
        AcceptedBytes, AccessRule, AccessRules, CredentialsField, Delays, ExtAuthzPrefix, Framing,
        HttpConfig, Listener, Network, NoCredentials, OpsConfig, PrefixError, ProxyConfig, Realm,
        Requirement, Service, Tls, TrustedProxies, Upstream, credentials as basic_credentials,
        run as run_server, source_address,
    };
    pub use crate::store::mock::{Call, MockStore};
    pub use crate::store::{
        Location, PostgresUrl, Revision, StoreError, Transaction, UserReader, UserStore,
        Visibility, initialize as initialize_database, open_or_create as open_store, open_reader,
    };
    pub use crate::time::Timestamp;
}
