//! The outcome of a request. This is the one place that lists all outcomes.

use std::sync::Arc;
use std::time::Duration;

use super::{Decision, Grant};
use crate::domain::{CredentialsError, NameError, PasswordError};

/// The outcome of a request. Each request has exactly one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// Granted by a cache entry.
    Cached(Arc<Grant>),
    /// Granted after a hash.
    Verified(Arc<Grant>),
    /// Passed without credentials, by a rule of the proxy.
    Exempt,
    /// The request has no credentials. The client waits for the challenge.
    NoCredentials,
    /// The Authorization field is not of the Basic scheme.
    OtherScheme,
    /// The credentials are not canonical base64.
    NotBase64,
    /// No colon separates a name from a password.
    NoColon,
    /// The name or the password is longer than any user's. A password that is not too long to be
    /// looked at is so only for this user, whose hash covers 72 bytes.
    TooLong,
    /// The name or the password contains a control character.
    ControlCharacter,
    /// No user can have this name.
    NameNotAllowed,
    /// The password is empty.
    EmptyPassword,
    UnknownUser,
    WrongPassword,
    Locked,
    Expired,
    /// The credentials are right, but the user is in none of the required groups.
    Forbidden(Arc<Grant>),
    /// Too many failures or pending attempts.
    Throttled {
        retry_after: Duration,
    },
    /// The queue for hash workers is full.
    Overloaded,
    /// A failure on this side.
    Unavailable,
    /// The request itself is malformed.
    MalformedRequest,
    /// The head of the request is over the limit.
    HeadTooLong,
}

/// The label of an outcome in the audit log and the counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Label {
    pub(crate) outcome: &'static str,
    pub(crate) reason: &'static str,
}

const fn label(outcome: &'static str, reason: &'static str) -> Label {
    Label { outcome, reason }
}

impl Outcome {
    /// The labels of all outcomes, by [`Outcome::index`].
    pub(crate) const LABELS: [Label; 21] = [
        label("granted", "cached"),
        label("granted", "verified"),
        label("challenged", "no-credentials"),
        label("denied", "other-scheme"),
        label("denied", "not-base64"),
        label("denied", "no-colon"),
        label("denied", "too-long"),
        label("denied", "control-character"),
        label("denied", "name-not-allowed"),
        label("denied", "empty-password"),
        label("denied", "unknown-user"),
        label("denied", "wrong-password"),
        label("denied", "locked"),
        label("denied", "expired"),
        label("forbidden", "not-in-group"),
        label("throttled", "too-many-failures"),
        label("overloaded", "too-many-waiting"),
        label("unavailable", "failure"),
        label("rejected", "malformed-request"),
        label("rejected", "head-too-long"),
        label("exempt", "no-password-required"),
    ];

    /// The number of outcomes.
    pub(crate) const COUNT: usize = Self::LABELS.len();

    /// Returns the index of the counter and the label.
    pub(crate) const fn index(&self) -> usize {
        match self {
            Self::Cached(_) => 0,
            Self::Verified(_) => 1,
            Self::NoCredentials => 2,
            Self::OtherScheme => 3,
            Self::NotBase64 => 4,
            Self::NoColon => 5,
            Self::TooLong => 6,
            Self::ControlCharacter => 7,
            Self::NameNotAllowed => 8,
            Self::EmptyPassword => 9,
            Self::UnknownUser => 10,
            Self::WrongPassword => 11,
            Self::Locked => 12,
            Self::Expired => 13,
            Self::Forbidden(_) => 14,
            Self::Throttled { .. } => 15,
            Self::Overloaded => 16,
            Self::Unavailable => 17,
            Self::MalformedRequest => 18,
            Self::HeadTooLong => 19,
            Self::Exempt => 20,
        }
    }

    /// Returns the decision that the client learns.
    pub(crate) fn decision(self) -> Decision {
        match self {
            Self::Cached(grant) | Self::Verified(grant) => Decision::Granted(grant),
            Self::Forbidden(_) => Decision::Forbidden,
            Self::NoCredentials
            | Self::OtherScheme
            | Self::NotBase64
            | Self::NoColon
            | Self::TooLong
            | Self::ControlCharacter
            | Self::NameNotAllowed
            | Self::EmptyPassword
            | Self::UnknownUser
            | Self::WrongPassword
            | Self::Locked
            | Self::Expired
            | Self::MalformedRequest
            | Self::HeadTooLong
            // It is not decided here.
            | Self::Exempt => Decision::Denied,
            Self::Throttled { retry_after } => Decision::Throttled { retry_after },
            Self::Overloaded => Decision::Overloaded,
            Self::Unavailable => Decision::Unavailable,
        }
    }

    /// Returns true if the attempt counts as a failure of its source and its user.
    pub(crate) fn counts_as_failure(&self) -> bool {
        matches!(
            self,
            Self::UnknownUser | Self::WrongPassword | Self::TooLong | Self::Locked | Self::Expired
        )
    }

    /// Returns true if the name in the refused credentials is known to be a user's, so that it may
    /// be logged. Another name may be a password in the wrong field.
    pub(crate) fn names_user(&self) -> bool {
        matches!(self, Self::WrongPassword | Self::Locked | Self::Expired)
    }

    /// Returns the grant if the credentials are right and admitted.
    pub(crate) fn grant(&self) -> Option<&Arc<Grant>> {
        match self {
            Self::Cached(grant) | Self::Verified(grant) => Some(grant),
            _ => None,
        }
    }
}

impl From<CredentialsError> for Outcome {
    fn from(e: CredentialsError) -> Self {
        let is_control = |code_point| char::from_u32(code_point).is_some_and(char::is_control);
        match e {
            CredentialsError::NotBase64 => Self::NotBase64,
            CredentialsError::NoColon => Self::NoColon,
            CredentialsError::Name(NameError::TooLong)
            | CredentialsError::Password(PasswordError::TooLong) => Self::TooLong,
            CredentialsError::Name(NameError::Character(c)) if is_control(c) => {
                Self::ControlCharacter
            }
            CredentialsError::Password(PasswordError::Control) => Self::ControlCharacter,
            CredentialsError::Password(PasswordError::Empty) => Self::EmptyPassword,
            CredentialsError::Name(
                NameError::Empty
                | NameError::Spaces
                | NameError::Character(_)
                | NameError::Direction,
            ) => Self::NameNotAllowed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CredentialVersion, UserName};

    #[test]
    fn every_outcome_has_its_own_counter_and_label() {
        let user = UserName::parse("roy").unwrap();
        let grant = Arc::new(Grant {
            user,
            groups: Arc::default(),
            credential_version: CredentialVersion::default(),
        });
        let outcomes = [
            (Outcome::Cached(Arc::clone(&grant)), "granted cached"),
            (Outcome::Verified(Arc::clone(&grant)), "granted verified"),
            (Outcome::NoCredentials, "challenged no-credentials"),
            (Outcome::OtherScheme, "denied other-scheme"),
            (Outcome::NotBase64, "denied not-base64"),
            (Outcome::NoColon, "denied no-colon"),
            (Outcome::TooLong, "denied too-long"),
            (Outcome::ControlCharacter, "denied control-character"),
            (Outcome::NameNotAllowed, "denied name-not-allowed"),
            (Outcome::EmptyPassword, "denied empty-password"),
            (Outcome::UnknownUser, "denied unknown-user"),
            (Outcome::WrongPassword, "denied wrong-password"),
            (Outcome::Locked, "denied locked"),
            (Outcome::Expired, "denied expired"),
            (Outcome::Forbidden(grant), "forbidden not-in-group"),
            (Outcome::Throttled { retry_after: Duration::ZERO }, "throttled too-many-failures"),
            (Outcome::Overloaded, "overloaded too-many-waiting"),
            (Outcome::Unavailable, "unavailable failure"),
            (Outcome::MalformedRequest, "rejected malformed-request"),
            (Outcome::HeadTooLong, "rejected head-too-long"),
            (Outcome::Exempt, "exempt no-password-required"),
        ];
        for (index, (outcome, label)) in outcomes.iter().enumerate() {
            assert_eq!(outcome.index(), index, "{outcome:?}");
            let is = Outcome::LABELS[index];
            assert_eq!(format!("{} {}", is.outcome, is.reason), *label);
        }
        assert_eq!(outcomes.len(), Outcome::COUNT);
    }
}
