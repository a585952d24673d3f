//! The configuration of authentication, with its defaults.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::Limit;
use crate::domain::{Cost, GroupName};

/// The configuration of an [`Authenticator`](super::Authenticator). The defaults suit one machine
/// with some thousands of users.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// The cost that hashes should have, and the cost of the dummy hash for unknown users.
    pub cost: Cost,
    /// The number of hash workers. Default: one per core.
    pub workers: NonZeroUsize,
    /// The maximum number of attempts that wait for a hash worker. Default: about 2 s of work, by
    /// the measured time of hashes.
    pub queue: Option<usize>,
    /// The maximum number of cache entries. 0 disables the cache.
    pub cache_entries: usize,
    /// The time after which an unused cache entry is dropped.
    pub cache_lifetime: Duration,
    /// The time after which an open stream ends if the store could not be read since.
    pub stream_grace: Duration,
    /// Only users in one of these groups are admitted. None is required if there are none.
    pub require_groups: Vec<GroupName>,
    /// The limit of failures per source.
    pub source_limit: Option<Limit>,
    /// The limit of failures per user name, from sources that have never logged in as that user.
    pub user_limit: Option<Limit>,
    /// Log grants of cached credentials too.
    pub audit_hits: bool,
    /// Replace a hash that costs less than [`AuthConfig::cost`] when its user logs in.
    pub rehash: bool,
    /// Replace an imported hash of a legacy scheme when its user logs in.
    pub upgrade: bool,
}

impl AuthConfig {
    /// The default of [`AuthConfig::cache_entries`].
    pub const CACHE_ENTRIES: usize = 65_536;
    /// The default of [`AuthConfig::cache_lifetime`].
    pub const CACHE_LIFETIME: Duration = Duration::from_secs(60 * 60);
    /// The default of [`AuthConfig::stream_grace`].
    pub const STREAM_GRACE: Duration = Duration::from_secs(10);
    /// The default of [`AuthConfig::source_limit`].
    pub const SOURCE_LIMIT: Option<Limit> = Limit::new(10, Duration::from_secs(60));
    /// The default of [`AuthConfig::user_limit`].
    pub const USER_LIMIT: Option<Limit> = Limit::new(30, Duration::from_secs(60));
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            cost: Cost::DEFAULT,
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            queue: None,
            cache_entries: Self::CACHE_ENTRIES,
            cache_lifetime: Self::CACHE_LIFETIME,
            stream_grace: Self::STREAM_GRACE,
            require_groups: Vec::new(),
            source_limit: Self::SOURCE_LIMIT,
            user_limit: Self::USER_LIMIT,
            audit_hits: false,
            rehash: false,
            upgrade: true,
        }
    }
}
