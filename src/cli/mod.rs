//! The command line: commands, prompts, output and exit codes.
//!
//! Decides how users and scripts talk to the program. Each command is a file in `commands/`, with
//! its arguments beside its action.

mod activation;
mod advice;
mod commands;
mod complete;
mod control;
mod duplicates;
mod exit;
mod ineffective;
mod input;
mod listen;
mod log;
mod many;
mod open;
mod options;
mod output;
mod progress;
mod reload;
mod report;
mod secret;
mod settings_file;
mod single;
mod spool;
mod startup;
mod table;
mod terminal;
mod usage;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
#[cfg(target_os = "linux")]
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::config::{Environment, ServeSettings, StoreSettings};
use crate::store;
use crate::text::printable;
use commands::Command;
use exit::{Exit, Failure, cannot_list, print, say};
use output::Inputs;

/// Add HTTP Basic authentication to an API, with users and bcrypt hashes in one SQLite file
#[derive(Parser, Debug)]
#[command(name = "resttool", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_long_help = "Examples:
  resttool useradd roy                          add roy, ask for a password
  resttool serve --port 5000                    answer /rest-auth and /auth
  curl -u roy http://127.0.0.1:5000/rest-auth   try it
  resttool userdel roy                          refuse roy from now on")]
struct Cli {
    #[command(flatten)]
    store: StoreSettings,

    #[command(subcommand)]
    command: Command,
}

/// Runs the program on the arguments and the environment of this process. Returns its exit code.
pub fn run() -> ExitCode {
    if let Err(e) = forbid_core_dumps() {
        Failure::new(Exit::Failed, e).report("cannot forbid core dumps");
        return Exit::Failed.into();
    }
    let _flush = FlushLog;
    match complete::run() {
        Ok(true) => return Exit::Done.into(),
        Ok(false) => {}
        Err(failure) => {
            failure.report("cannot complete");
            return failure.exit.into();
        }
    }
    match parse() {
        Ok(cli) => dispatch(cli).into(),
        Err(exit) => exit.into(),
    }
}

/// A guard that flushes the log of the server when it is dropped, also when a panic ends the
/// program.
struct FlushLog;

impl Drop for FlushLog {
    fn drop(&mut self) {
        log::flush();
    }
}

/// Forbids core dumps, which would contain passwords.
fn forbid_core_dumps() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // The limit does not apply to a program that reads the dump from a pipe (core(5)). This setting
    // does.
    #[cfg(target_os = "linux")]
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn dispatch(cli: Cli) -> Exit {
    let what = cli.command.describe();
    let report = |failure: Failure| {
        failure.report(&format!("cannot {what}"));
        failure.exit
    };
    let location = match cli.store.location() {
        Ok(location) => location,
        Err(e) => return report(e.into()),
    };
    let Some(location) = location else {
        let failure = Failure::new(Exit::Failed, "there is no home directory to keep the users in");
        return report(failure.hint("name a file with --database"));
    };
    // A shell may append standard output and standard error to the store.
    let store = Inputs::of_store(&location);
    if store.spare(io::stderr()).is_err() {
        // No message can go there. Standard output is left, if it is another file.
        if store.spare(io::stdout()).is_ok() {
            let _ = print(
                "resttool: cannot write to standard error: it is a file of the user database",
            );
        }
        return Exit::Failed;
    }
    if let Err(e) = store.spare(io::stdout()) {
        return report(e.failure("write to standard output"));
    }
    cli.command.run(&location).map_or_else(|e| report(e.in_store(&location)), |()| Exit::Done)
}

/// Returns the definition of all arguments, with their help.
fn definition() -> clap::Command {
    let command = Cli::command()
        .long_version(format!("{}\n{}", env!("CARGO_PKG_VERSION"), store::engine()))
        .mut_subcommands(|command| command.version(env!("CARGO_PKG_VERSION")));
    let examples = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    command.after_long_help(format!("{examples}\n\n{}", Exit::table()))
}

/// Parses the arguments. Returns the exit code if the program ends here.
fn parse() -> Result<Cli, Exit> {
    let mut command = definition();
    let environment = Environment::read();
    if let Some(unknown) = environment.unknown(&variables(&command)) {
        let name = printable(&unknown.name);
        let hint = match unknown.similar {
            Some(similar) => format!("a similar variable is {similar}"),
            None => "'resttool --help' and 'resttool COMMAND --help' list the variables".to_owned(),
        };
        Failure::new(Exit::Usage, format_args!("unknown environment variable {name}"))
            .hint(hint)
            .report("usage");
        return Err(Exit::Usage);
    }
    command = without_service_links(command, &environment);
    if std::env::args_os().any(|argument| argument == "-h") {
        // The summary fits a screen without the variables, which `--help` lists.
        command = command.mut_subcommands(|c| c.mut_args(|argument| argument.hide_env(true)));
    }
    let parsed = parse_with_settings_file(&mut command).map_err(|failure| {
        failure.report("cannot serve");
        failure.exit
    })?;
    match parsed {
        Ok((cli, matches)) => {
            for warning in ineffective::warnings(&matches) {
                say(&format!("resttool: warning: {warning}"));
            }
            Ok(cli)
        }
        // Help or version.
        Err(e) if !e.use_stderr() => Err(match e.print().map_err(cannot_list) {
            Ok(()) => Exit::Done,
            Err(failure) => {
                failure.report("cannot show the help");
                failure.exit
            }
        }),
        Err(e) if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // A closed standard error has no reader.
            let _ = e.print();
            Err(Exit::Usage)
        }
        // To clap, a variable is an argument too.
        Err(e) if e.kind() == ErrorKind::MissingSubcommand => {
            let _ = write!(io::stderr(), "{}", command.render_help());
            Err(Exit::Usage)
        }
        Err(e) => {
            usage::failure(&e, command).report("usage");
            Err(Exit::Usage)
        }
    }
}

/// Parses the arguments, the environment and the settings file.
///
/// # Errors
/// Fails if the settings file cannot be used. The inner error is one of the arguments.
fn parse_with_settings_file(
    command: &mut clap::Command,
) -> Result<Result<(Cli, ArgMatches), clap::Error>, Failure> {
    let mut parsed = command.try_get_matches_from_mut(std::env::args_os());
    if let Ok(matches) = &parsed {
        let more = settings_file::arguments(matches, command)?;
        if !more.is_empty() {
            parsed = command.try_get_matches_from_mut(std::env::args_os().chain(more));
        }
    }
    Ok(parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches))))
}

/// Parses the settings of this running server again, with its settings file.
fn serve_settings_again() -> Result<ServeSettings, Failure> {
    let mut command = without_service_links(definition(), &Environment::read());
    match parse_with_settings_file(&mut command)? {
        Ok((Cli { command: Command::Serve(serve), .. }, _)) => Ok(serve.into_settings()),
        Ok(_) => Err(Failure::new(Exit::Usage, "this is no server")),
        Err(e) => Err(usage::failure(&e, command)),
    }
}

/// The variable of a setting that Kubernetes may set as well.
const PORT_VARIABLE: &str = "RESTTOOL_PORT";

/// Kubernetes sets `RESTTOOL_PORT` for a Service named resttool. clap reads variables by itself.
fn without_service_links(command: clap::Command, environment: &Environment) -> clap::Command {
    match environment.is_service_link(PORT_VARIABLE) {
        true => command.mut_subcommands(without_port_variable),
        false => command,
    }
}

fn without_port_variable(command: clap::Command) -> clap::Command {
    command.mut_args(|argument| match argument.get_env() {
        Some(name) if name == PORT_VARIABLE => argument.env(None::<&str>),
        _ => argument,
    })
}

/// Returns the variables of all settings.
fn variables(command: &clap::Command) -> BTreeSet<String> {
    std::iter::once(command)
        .chain(command.get_subcommands())
        .flat_map(clap::Command::get_arguments)
        .filter_map(|argument| Some(argument.get_env()?.to_string_lossy().into_owned()))
        .chain([complete::VARIABLE.to_owned()])
        .collect()
}
