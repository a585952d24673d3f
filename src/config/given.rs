//! The values of settings as they were given, to tell which of them have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

/// The values of all settings of a command, defaults included, by their long options.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct GivenSettings(BTreeMap<String, Vec<OsString>>);

impl GivenSettings {
    /// Returns the settings whose values differ, in the order of the alphabet.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let names: BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        let differ = names.into_iter().filter(|name| self.0.get(*name) != other.0.get(*name));
        differ.cloned().collect()
    }

    /// Takes the value of one setting from `other`.
    pub(crate) fn take(&mut self, name: &str, other: &Self) {
        match other.0.get(name) {
            Some(values) => self.0.insert(name.to_owned(), values.clone()),
            None => self.0.remove(name),
        };
    }
}

/// Reads all arguments, and defines none.
impl FromArgMatches for GivenSettings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let values = |id: &str| {
            let values = matches.try_get_raw(id).ok().flatten()?;
            Some(values.map(OsString::from).collect())
        };
        // The others are groups, which have the names of types.
        let ids = matches.ids().map(clap::Id::as_str).filter(|id| !id.contains(char::is_uppercase));
        Ok(Self(ids.filter_map(|id| Some((id.replace('_', "-"), values(id)?))).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for GivenSettings {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(values: &[(&str, &str)]) -> GivenSettings {
        let values = values.iter().map(|(name, value)| ((*name).into(), vec![(*value).into()]));
        GivenSettings(values.collect())
    }

    #[test]
    fn differences_are_changed_added_and_removed_settings() {
        let before = given(&[("cost", "12"), ("port", "1"), ("queue", "5")]);
        let after = given(&[("cost", "12"), ("host", "x"), ("port", "2"), ("realm", "x")]);
        assert_eq!(before.differences(&after), ["host", "port", "queue", "realm"]);
        let mut merged = before.clone();
        for name in ["host", "queue", "realm"] {
            merged.take(name, &after);
        }
        assert_eq!(merged.differences(&after), ["port"]);
        assert_eq!(before.differences(&before), Vec::<String>::new());
    }
}
