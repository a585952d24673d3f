//! Group names, and the groups of a user.

use std::collections::BTreeSet;
use std::fmt;

use super::{NameError, UserName};

/// A group name: a user name without a space and without a comma, so that several fit in one
/// comma-separated field.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GroupName(UserName);

impl GroupName {
    /// Parses a name.
    ///
    /// # Errors
    /// Fails if `raw` is not a valid group name.
    pub fn parse(raw: &str) -> Result<Self, NameError> {
        let name = UserName::parse(raw)?;
        match name.as_str().chars().find(|c| matches!(c, ' ' | ',')) {
            Some(separator) => Err(NameError::Character(u32::from(separator))),
            None => Ok(Self(name)),
        }
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The groups of a user, at most [`Groups::MAX`].
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Groups(BTreeSet<GroupName>);

impl Groups {
    /// The maximum number of groups of one user. Their names fit into a header field of about 8
    /// KiB.
    pub const MAX: usize = 64;

    /// Collects groups.
    ///
    /// # Errors
    /// Fails if there are more than [`Groups::MAX`].
    pub fn new(names: impl IntoIterator<Item = GroupName>) -> Result<Self, TooManyGroups> {
        let names: BTreeSet<_> = names.into_iter().collect();
        if names.len() > Self::MAX { Err(TooManyGroups) } else { Ok(Self(names)) }
    }

    /// Returns the union.
    ///
    /// # Errors
    /// Fails if the union has more than [`Groups::MAX`] groups.
    pub fn with(&self, others: &Self) -> Result<Self, TooManyGroups> {
        Self::new(self.0.union(&others.0).cloned())
    }

    /// Returns the difference.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        Self(self.0.difference(&others.0).cloned().collect())
    }

    /// Returns true if `group` is one of them.
    #[must_use]
    pub fn contains(&self, group: &GroupName) -> bool {
        self.0.contains(group)
    }

    /// Returns true if one of `required` is one of them, or if none is required.
    #[must_use]
    pub fn has_one_of(&self, required: &[GroupName]) -> bool {
        required.is_empty() || required.iter().any(|group| self.contains(group))
    }

    /// Returns true if there are no groups.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the groups in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &GroupName> {
        self.0.iter()
    }
}

/// Writes the names in order, separated by commas.
impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, group) in self.0.iter().enumerate() {
            f.write_str(if n == 0 { "" } else { "," })?;
            f.write_str(group.as_str())?;
        }
        Ok(())
    }
}

/// An error: more than [`Groups::MAX`] groups for one user.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a user can be in {} groups, and not in more", Groups::MAX)]
pub struct TooManyGroups;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_name_is_a_user_name_without_comma_and_space() {
        let group = |raw| GroupName::parse(raw).map(|group| group.to_string());
        assert_eq!(group("admin").as_deref(), Ok("admin"));
        assert_eq!(group("ａdmin").as_deref(), Ok("admin"), "full-width letters are mapped");
        assert_eq!(group(""), Err(NameError::Empty));
        assert_eq!(group("a,b"), Err(NameError::Character(0x2C)));
        assert_eq!(group("ａ，b"), Err(NameError::Character(0x2C)), "a comma after mapping counts");
        assert_eq!(group("a:b"), Err(NameError::Character(0x3A)));
        assert_eq!(group("a b"), Err(NameError::Character(0x20)));
    }

    #[test]
    fn groups_are_sorted_unique_and_limited() {
        let groups = |names: &[&str]| {
            Groups::new(names.iter().map(|name| GroupName::parse(name).unwrap())).unwrap()
        };
        assert_eq!(groups(&["staff", "admin", "staff"]).to_string(), "admin,staff");
        let staff = groups(&["staff"]);
        assert_eq!(groups(&["admin"]).with(&staff), Ok(groups(&["admin", "staff"])));
        assert_eq!(groups(&["admin", "staff"]).without(&staff), groups(&["admin"]));
        let numbered = |most: usize| {
            Groups::new((0..most).map(|n| GroupName::parse(&format!("g{n}")).unwrap()))
        };
        let most = numbered(Groups::MAX).unwrap();
        assert_eq!(numbered(Groups::MAX + 1), Err(TooManyGroups));
        assert_eq!(most.with(&staff), Err(TooManyGroups));
    }
}
