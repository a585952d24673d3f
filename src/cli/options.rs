//! Options that several commands share and that are no settings.

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};

use super::exit::{Exit, Failure};
use crate::domain::{GroupName, Groups};
use crate::time::Timestamp;

/// The expiry of a user.
#[derive(Args, Debug)]
pub(super) struct ExpiryOption {
    /// Refuse the user from this time on (e.g. 2027-01-31, 2027-01-31T18:00:00Z, never)
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expire: Option<Expiry>,
}

impl ExpiryOption {
    /// Returns the new expiry, `Some(None)` for `never`, or `None` if it stays.
    pub(super) fn get(&self) -> Option<Option<Timestamp>> {
        self.expire.map(|expiry| expiry.0)
    }
}

/// A time, or `never`.
#[derive(Clone, Copy, Debug)]
struct Expiry(Option<Timestamp>);

fn expiry(text: &str) -> Result<Expiry, String> {
    if text == "never" {
        return Ok(Expiry(None));
    }
    Timestamp::parse(text).map(|time| Expiry(Some(time))).map_err(|e| format!("{e}, or never"))
}

/// A group name of a list. `--group ''` is a list without groups.
#[derive(Clone, Debug)]
pub(super) struct ListedGroup(Option<GroupName>);

pub(super) fn listed_group(text: &str) -> Result<ListedGroup, String> {
    if text.is_empty() {
        return Ok(ListedGroup(None));
    }
    group_name(text).map(|name| ListedGroup(Some(name)))
}

pub(super) fn group_name(text: &str) -> Result<GroupName, String> {
    GroupName::parse(text).map_err(|e| format!("not a valid group name: {e}"))
}

/// Returns the groups of a list.
pub(super) fn groups(list: &[ListedGroup]) -> Result<Groups, Failure> {
    let names: BTreeSet<_> = list.iter().filter_map(|group| group.0.clone()).collect();
    Groups::new(names).map_err(|e| Failure::new(Exit::Usage, e))
}

/// A format of users in a file.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(super) enum UserFormat {
    /// name:hash lines, as Apache and nginx read them
    Htpasswd,
    /// JSON lines with the whole record of each user
    Jsonl,
}
