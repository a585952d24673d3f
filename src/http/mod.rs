//! HTTP: connections, listeners, and the services on them.
//!
//! Decides how requests become credentials, and decisions become responses. Decides nothing about
//! users. No response reveals internals, and no log line contains raw text of a client.

mod accept;
mod access;
mod admission;
mod alarm;
mod authorization;
mod challenge;
mod config;
mod connection;
mod exchange;
mod ext_authz;
mod forward_auth;
mod gate;
mod io_timeout;
mod linger;
mod listener;
mod ops;
mod peer;
mod pem;
mod probe;
mod proxy;
mod response;
mod routing;
mod server;
mod service;
mod strict_head;
#[cfg(test)]
mod tests;
mod threads;
mod tls;
mod window;

pub use access::{AccessRule, AccessRules, Requirement, RulesError};
pub use authorization::{CredentialsField, NoCredentials, credentials};
pub use challenge::{Realm, RealmError};
pub use config::{Delays, HttpConfig};
pub use ext_authz::{ExtAuthzPrefix, PrefixError};
pub use listener::{Listener, Service, Socket};
pub use ops::{
    ClearRequest, ControlClient, ControlError, LoggedError, OpsConfig, ServerStatus, ThrottledEntry,
};
pub use peer::{Network, TrustedProxies, source as source_address};
pub use pem::TlsHint;
pub use probe::{ProbeError, probe};
pub use proxy::{
    AllowedOrigin, HealthPath, ProxyConfig, Upstream, UpstreamAddress, UpstreamTlsError,
};
pub use server::run;
pub use strict_head::{AcceptedBytes, Framing};
pub use tls::Tls;
