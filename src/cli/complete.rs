//! Completion of user and group names from the store, for the scripts of `resttool completions`.
//!
//! A script runs the program with a variable of ours and the words of the command line. Nothing is written
//! about a store that cannot be read, since the shell would show it inside the line.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap_complete::engine::ArgValueCompleter;
use clap_complete::env::Shells;
use clap_complete::{CompleteEnv, CompletionCandidate};

use super::definition;
use super::exit::{Exit, Failure};
use crate::config;
use crate::domain::{Account, GroupName};
use crate::store::{self, Location};

/// The variable that names the shell. It is no setting.
pub(super) const VARIABLE: &str = "RESTTOOL_COMPLETE";

/// The most names that are offered.
const MAX: usize = 1000;

/// Writes completions if a script asks for them. Returns false for a regular run.
pub(super) fn run() -> Result<bool, Failure> {
    let folder = std::env::current_dir().ok();
    CompleteEnv::with_factory(|| add_to(definition()))
        .var(VARIABLE)
        .try_complete(std::env::args_os(), folder.as_deref())
        .map_err(|e| Failure::new(Exit::Failed, e))
}

/// Returns the script of a shell.
pub(super) fn script(shell: clap_complete::Shell) -> io::Result<Vec<u8>> {
    let mut script = Vec::new();
    let shells = Shells::builtins();
    let shell = shells
        .completer(&shell.to_string())
        .ok_or_else(|| io::Error::other(format!("no completions for {shell}")))?;
    shell.write_registration(VARIABLE, "resttool", "resttool", "resttool", &mut script)?;
    Ok(script)
}

/// Adds the completion of names to the arguments of all commands.
pub(super) fn add_to(definition: clap::Command) -> clap::Command {
    definition.mut_subcommands(|command| {
        // A new user has another name than those in the store.
        let adds = command.get_name() == "useradd";
        command.mut_args(|argument| {
            let names = argument.get_value_names().unwrap_or_default();
            if names.iter().any(|name| *name == "GROUP") {
                argument.add(ArgValueCompleter::new(groups))
            } else if !adds
                && argument.is_positional()
                && USERS.contains(&argument.get_id().as_str())
            {
                argument.add(ArgValueCompleter::new(users))
            } else {
                argument
            }
        })
    })
}

/// The positional arguments that are names of users.
const USERS: [&str; 3] = ["name", "names", "pattern"];

/// Completes a user name.
fn users(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, |user| vec![user.name.to_string()])
}

/// Completes a group name.
fn groups(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates(current, |user| user.groups.iter().map(GroupName::to_string).collect())
}

fn candidates(
    current: &OsStr,
    names_of: impl Fn(&Account) -> Vec<String>,
) -> Vec<CompletionCandidate> {
    let (Some(current), Some(location)) = (current.to_str(), location(std::env::args_os())) else {
        return Vec::new();
    };
    let Ok(store) = store::open(&location) else { return Vec::new() };
    let mut names = BTreeSet::new();
    // The names before an unusable record are offered all the same.
    let _ = store.each(&mut |user| {
        let fits = |name: &String| name.starts_with(current) && is_word(name);
        names.extend(names_of(&user).into_iter().filter(fits));
        if names.len() < MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// Returns true if a shell reads the name as one word that is no option. Bash inserts completions
/// without quotes, so `Jane Doe` would become two users.
fn is_word(name: &str) -> bool {
    !name.starts_with('-') && name.chars().all(|c| c.is_alphanumeric() || "._-+@/".contains(c))
}

/// Returns the store that the words of the command line name.
fn location(words: impl Iterator<Item = OsString>) -> Option<Location> {
    let mut words = words;
    let mut found = None;
    while let Some(word) = words.next() {
        if word == "--database" {
            found = words.next();
        } else if let Some(path) = word.to_str().and_then(|word| word.strip_prefix("--database=")) {
            found = Some(path.into());
        }
    }
    let named = found.or_else(|| std::env::var_os(config::DATABASE_VARIABLE));
    match named {
        Some(named) => config::location(PathBuf::from(named)).ok(),
        None => config::default_location(),
    }
}
