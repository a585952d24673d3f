//! User names, groups, passwords, hashes, credentials and user records: values that are valid by
//! construction.
//!
//! Decides which values are valid. Knows neither HTTP nor the store nor the terminal, and computes
//! no hash. Passwords and hashes have no `Display`, and their `Debug` shows no content.

mod credentials;
mod groups;
mod invisible;
mod legacy_hash;
mod password;
mod password_hash;
mod stored_hash;
mod user;
mod user_name;

pub(crate) use credentials::encode_credentials;
pub use credentials::{Credentials, CredentialsError, EncodedCredentials};
pub use groups::{GroupName, Groups, TooManyGroups};
pub use legacy_hash::{LegacyError, LegacyHash, LegacyParams, LegacyScheme};
pub use password::{Password, PasswordError, PresentedPassword};
pub use password_hash::{Cost, HashError, PasswordHash};
pub use stored_hash::{StoredHash, WrappedHash};
pub use user::{Account, BadRecord, CredentialVersion, User};
pub use user_name::{NameError, UserName};

/// The longest raw name or password in bytes. Longer input is refused before any work is spent on
/// it. No text above this limit can shrink to a permitted length.
const MAX_RAW_BYTES: usize = 1024;
