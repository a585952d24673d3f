//! The access rules of the proxy, in the order in which their options are given.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::domain::GroupName;
use crate::http::{AccessRule, AccessRules, Network, RulesError};

/// The options of rules, in the order in which variables are read.
const RULES: [&str; 3] = ["require", "public", "allow_network"];

/// The separator of several rules in a variable. No path of a rule can contain it.
const SEPARATOR: char = ';';

/// The settings of `serve` about requests that need no password, or a group.
#[derive(Clone, Debug, Default)]
pub(crate) struct RuleSettings {
    rules: Vec<AccessRule>,
}

impl RuleSettings {
    /// Returns the rules.
    ///
    /// # Errors
    /// Fails if a rule can never match.
    pub(super) fn rules(&self) -> Result<AccessRules, RulesError> {
        AccessRules::new(self.rules.clone())
    }

    /// Returns the groups that rules name.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &GroupName> {
        self.rules.iter().flat_map(AccessRule::groups)
    }
}

impl FromArgMatches for RuleSettings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut rules: Vec<(usize, AccessRule)> = Vec::new();
        for id in RULES {
            let given = matches.get_many::<AccessRule>(id).into_iter().flatten().cloned();
            rules.extend(matches.indices_of(id).into_iter().flatten().zip(given));
        }
        rules.sort_by_key(|(position, _)| *position);
        Ok(Self { rules: rules.into_iter().map(|(_, rule)| rule).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for RuleSettings {
    fn augment_args(command: Command) -> Command {
        let rule = |id: &'static str, name: &'static str, env: &'static str| {
            Arg::new(id)
                .long(id.replace('_', "-"))
                .value_name(name)
                .env(env)
                .value_delimiter(SEPARATOR)
                .action(ArgAction::Append)
                .requires("upstream")
                .help_heading("Rules")
                .hide_short_help(true)
        };
        command
            .arg(
                rule("require", "[METHODS:]PATH[=GROUPS]", "RESTTOOL_REQUIRE")
                    .value_parser(AccessRule::require)
                    .help(
                        "Require a user in one of these groups for a path, or any user, e.g. \
                         /admin/*=staff; the first rule that matches wins; may be repeated",
                    ),
            )
            .arg(
                rule("public", "[METHODS:]PATH", "RESTTOOL_PUBLIC")
                    .value_parser(AccessRule::public)
                    .help(
                        "Require no password for a path, e.g. /health, or GET,HEAD:/docs/* for \
                         everything below; may be repeated",
                    ),
            )
            .arg(
                rule("allow_network", "CIDR", "RESTTOOL_ALLOW_NETWORK")
                    .value_parser(|text: &str| {
                        text.parse::<Network>().map(AccessRule::allow_network)
                    })
                    .help(
                        "Require no password from this address or network, e.g. 10.0.0.0/8; may be \
                         repeated",
                    ),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
