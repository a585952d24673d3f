//! The settings file of `serve`: its keys are the long options, which arguments and variables
//! override.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::exit::{Exit, Failure};
use super::input::{FailureList, Input};
use super::usage;
use crate::config::similar;
use crate::formats::settings_file::{self, FileSetting, FileValue, SettingsFileError};
use crate::text::printable;

/// The command that reads a settings file.
const COMMAND: &str = "serve";

/// Options that say what one call does, which no file holds.
const NOT_IN_A_FILE: [&str; 4] = ["config", "check", "help", "version"];

/// Returns the arguments that the settings file stands for, without those that an argument or a
/// variable overrides.
///
/// # Errors
/// Fails with all invalid settings of the file.
pub(super) fn arguments(
    matches: &ArgMatches,
    definition: &Command,
) -> Result<Vec<OsString>, Failure> {
    let Some((COMMAND, serve)) = matches.subcommand() else { return Ok(Vec::new()) };
    match serve.get_one::<PathBuf>("config") {
        Some(path) => read(path, serve, definition),
        None => Ok(Vec::new()),
    }
}

fn read(path: &Path, given: &ArgMatches, definition: &Command) -> Result<Vec<OsString>, Failure> {
    let input = Input::open(path, "settings")?;
    let file = input.name.clone();
    let text = input.read_text()?;
    let refused = |e: SettingsFileError| Failure::new(Exit::BadInput, e).about(&file);
    let known = settings_of(definition);
    let mut bad = FailureList::of(Exit::BadInput);
    let mut arguments = Vec::new();
    for setting in settings_file::parse(&text).map_err(refused)? {
        let checked = setting.map_err(refused).and_then(|setting| {
            let position = setting.position;
            let failed = |e: Failure| e.exiting(Exit::BadInput).about(position).about(&file);
            check(&setting, &known, definition).map_err(failed)
        });
        let Some((argument, words)) = bad.note(checked)? else { continue };
        let source = given.value_source(argument.get_id().as_str());
        let is_overridden =
            matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable));
        if !is_overridden {
            arguments.extend(words);
        }
    }
    bad.check().map(|()| arguments)
}

/// Returns the settings that a file can hold.
fn settings_of(definition: &Command) -> Vec<Arg> {
    let mut definition = definition.clone();
    definition.build();
    let serve = definition.find_subcommand(COMMAND);
    let arguments = serve.into_iter().flat_map(Command::get_arguments);
    let is_setting =
        |argument: &&Arg| argument.get_long().is_some_and(|long| !NOT_IN_A_FILE.contains(&long));
    arguments.filter(is_setting).cloned().collect()
}

/// Returns the setting of the command and the arguments for it, if they are valid.
fn check<'a>(
    setting: &FileSetting,
    known: &'a [Arg],
    definition: &Command,
) -> Result<(&'a Arg, Vec<OsString>), Failure> {
    let shown = printable(&setting.key);
    let long = |argument: &'a Arg| argument.get_long().unwrap_or_default();
    let Some(argument) = known.iter().find(|argument| long(argument) == setting.key) else {
        let similar = similar(&setting.key, known.iter().map(long));
        let hint = similar.map_or_else(
            || "'resttool print config' prints all keys".to_owned(),
            |similar| format!("a similar key is {similar}"),
        );
        return Err(Failure::new(Exit::BadInput, format_args!("unknown key {shown}")).hint(hint));
    };
    let refused = |expected: &str| {
        Err(Failure::new(Exit::BadInput, format_args!("{shown}: expected {expected}")))
    };
    let option = |value: &str| OsString::from(format!("--{}={value}", setting.key));
    let words = match (argument.get_action(), &setting.value) {
        (ArgAction::SetTrue, FileValue::Flag(true)) => {
            vec![OsString::from(format!("--{}", setting.key))]
        }
        (ArgAction::SetTrue, FileValue::Flag(false)) => Vec::new(),
        (ArgAction::SetTrue, _) => return refused("true or false"),
        (_, FileValue::Flag(_)) => return refused("a text in quotes or a number"),
        (_, FileValue::One(value)) => vec![option(value)],
        (ArgAction::Append, FileValue::List(values)) => {
            values.iter().map(|value| option(value)).collect()
        }
        (_, FileValue::List(_)) => return refused("one value and no list"),
    };
    validate(&words, definition)?;
    Ok((argument, words))
}

/// Checks one setting alone. What it requires and excludes is checked with all arguments.
fn validate(words: &[OsString], definition: &Command) -> Result<(), Failure> {
    let alone = definition
        .clone()
        .mut_subcommand(COMMAND, |serve| serve.mut_args(|argument| argument.env(None::<&str>)));
    let program = [OsString::from("resttool"), OsString::from(COMMAND)];
    match alone.try_get_matches_from(program.iter().chain(words)) {
        Ok(_) => Ok(()),
        Err(e) => match e.kind() {
            ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict => Ok(()),
            _ => Err(usage::failure(&e, definition.clone())),
        },
    }
}

/// Returns a file with all settings, their help and their defaults, as comments.
pub(super) fn template(definition: &Command) -> String {
    let mut text = "# Settings of resttool serve, read by: resttool serve --config FILE\n\
        # Each line shows a default, or the kind of a value that has none. An argument overrides a\n\
        # variable, and a variable overrides this file. Paths are relative to the working folder.\n"
        .to_owned();
    let mut heading = String::new();
    for argument in settings_of(definition) {
        let next = argument.get_help_heading().unwrap_or("Store");
        if next != heading {
            heading = next.to_owned();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\n## {heading}");
        }
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        text.push('\n');
        for line in wrap(&help, 98) {
            let _ = writeln!(text, "# {line}");
        }
        let long = argument.get_long().unwrap_or_default();
        let _ = writeln!(text, "# {long} = {}", shown_value(&argument));
    }
    text
}

/// Returns the default of a setting, or the name of its value, as TOML.
fn shown_value(argument: &Arg) -> String {
    if matches!(argument.get_action(), ArgAction::SetTrue) {
        return "false".to_owned();
    }
    let quoted = |value: &str| match value.parse::<i64>() {
        Ok(_) => value.to_owned(),
        Err(_) => format!("{value:?}"),
    };
    let defaults = argument.get_default_values();
    let shown = match defaults.first() {
        Some(default) => quoted(&default.to_string_lossy()),
        None => {
            let names = argument.get_value_names().unwrap_or_default();
            format!("\"{}\"", names.first().map_or("VALUE", |name| name.as_str()))
        }
    };
    match argument.get_action() {
        ArgAction::Append => format!("[{shown}]"),
        _ => shown,
    }
}

/// Wraps a text.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
