//! The hash of a user as it is stored. Nothing is computed here.

use super::{Cost, LegacyParams, LegacyScheme, PasswordHash};
use crate::time::Timestamp;

/// The hash of a user: always bcrypt, of the password or of a key that wraps a legacy hash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredHash {
    /// The bcrypt hash.
    pub bcrypt: PasswordHash,
    /// `None` if bcrypt covers the password itself.
    pub wrapped: Option<WrappedHash>,
}

/// The parameters of a wrapped legacy hash, which a login needs to compute the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WrappedHash {
    /// The scheme, the salt and the rounds.
    pub params: LegacyParams,
    /// The time of the import.
    pub imported: Timestamp,
}

impl StoredHash {
    /// The name of the scheme of a hash that is not wrapped.
    pub const BCRYPT: &'static str = "bcrypt";

    /// Returns the cost of the bcrypt hash.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.bcrypt.cost()
    }

    /// Returns the legacy scheme of a wrapped hash.
    #[must_use]
    pub fn legacy_scheme(&self) -> Option<LegacyScheme> {
        self.wrapped.as_ref().map(|wrapped| wrapped.params.scheme())
    }

    /// Returns the name of the scheme that the password has to be hashed with first, or of bcrypt.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        self.legacy_scheme().map_or(Self::BCRYPT, LegacyScheme::name)
    }
}

impl From<PasswordHash> for StoredHash {
    fn from(bcrypt: PasswordHash) -> Self {
        Self { bcrypt, wrapped: None }
    }
}
