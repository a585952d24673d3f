//! Warnings about options that have no effect beside other arguments.
//!
//! Only options of the command line count. A variable may be meant for another command.

use clap::ArgMatches;
use clap::parser::ValueSource;

/// The circumstance in which an option has no effect. Options have the names of their fields.
enum Circumstance {
    /// The other option is given.
    Beside(&'static str),
    /// The other option is not given.
    Without(&'static str),
    /// The other option has this value.
    BesideValue(&'static str, &'static str),
    /// The configuration of one of these programs is printed.
    For(&'static [&'static str]),
}

use Circumstance::{Beside, BesideValue, For, Without};

/// Commands, their options, and the circumstances.
const RULES: &[(&str, &[&str], Circumstance)] = &[
    ("serve", &["host", "port", "allow_plaintext"], Beside("unix_socket")),
    ("serve", &["unix_socket_mode"], Without("unix_socket")),
    ("serve", &["allow_plaintext"], Beside("tls_cert")),
    ("serve", &["allow_remote_ops"], Without("ops_listen")),
    ("serve", &["cache_lifetime"], BesideValue("cache_entries", "0")),
    ("useradd", &["cost", "min_length"], Beside("hash_stdin")),
    ("passwd", &["cost", "min_length"], Beside("hash_stdin")),
    (
        "hash",
        &["password_stdin", "password_file", "generate", "htpasswd", "cost", "min_length"],
        Beside("calibrate"),
    ),
    ("userlist", &["long"], Beside("json")),
    (
        "print",
        &["upstream", "listen", "group"],
        For(&["config", "systemd", "systemd-socket", "compose", "fail2ban"]),
    ),
    ("print", &["host", "listen"], For(&["gateway-api"])),
    ("print", &["host"], For(&["config", "compose", "fail2ban"])),
    ("print", &["port"], For(&["config", "fail2ban"])),
];

/// Returns a warning for each option that has no effect.
pub(super) fn warnings(matches: &ArgMatches) -> Vec<String> {
    let Some((command, matches)) = matches.subcommand() else { return Vec::new() };
    let mut warnings = Vec::new();
    for (_, options, circumstance) in RULES.iter().filter(|(name, ..)| *name == command) {
        let Some(reason) = circumstance.reason(matches) else { continue };
        for option in options.iter().filter(|option| is_on_command_line(matches, option)) {
            warnings.push(format!("{} has no effect {reason}", flag(option)));
        }
    }
    warnings
}

impl Circumstance {
    /// Returns the reason why an option has no effect, if this holds.
    fn reason(&self, matches: &ArgMatches) -> Option<String> {
        match self {
            Beside(other) => is_given(matches, other).then(|| format!("beside {}", flag(other))),
            Without(other) => {
                (!is_given(matches, other)).then(|| format!("without {}", flag(other)))
            }
            BesideValue(other, value) => (raw(matches, other).as_deref() == Some(*value))
                .then(|| format!("beside {} {value}", flag(other))),
            For(names) => {
                let name = raw(matches, "snippet")?;
                names.contains(&name.as_str()).then(|| format!("for {name}"))
            }
        }
    }
}

fn flag(option: &str) -> String {
    format!("--{}", option.replace('_', "-"))
}

fn is_on_command_line(matches: &ArgMatches, option: &str) -> bool {
    matches.value_source(option) == Some(ValueSource::CommandLine)
}

/// Returns true if the option or its variable is given. A flag may be set to false.
fn is_given(matches: &ArgMatches, option: &str) -> bool {
    let value = matches.try_get_one::<bool>(option);
    let is_false = value.is_ok_and(|value| value == Some(&false));
    !is_false
        && matches.value_source(option).is_some_and(|source| source != ValueSource::DefaultValue)
}

/// Returns the first value as it was given.
fn raw(matches: &ArgMatches, option: &str) -> Option<String> {
    Some(matches.get_raw(option)?.next()?.to_str()?.to_owned())
}
