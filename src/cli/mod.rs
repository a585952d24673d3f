//! The command line: arguments, settings, prompts, output and exit codes.
//!
//! A verb is a struct in `args.rs` and a function in `verbs.rs` (for one user) or `bulk.rs` (for many); `serve.rs` wires
//! the server together.

mod args;
mod bulk;
mod exit;
mod lines;
mod listen;
mod log;
mod manual;
mod output;
mod print;
mod progress;
mod report;
mod secret;
mod serve;
mod table;
mod terminal;
mod upkeep;
mod verbs;

use std::collections::BTreeSet;
use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};
#[cfg(target_os = "linux")]
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::store;
use crate::text::printable;
use args::{Cli, Verb};
use exit::{Exit, Failure, print};
use output::Inputs;

/// Runs the program on the arguments and the environment of this process; what is returned is its
/// exit code.
pub fn run() -> ExitCode {
    if let Err(e) = forbid_core_dumps() {
        Failure::new(Exit::Failed, e).report("cannot forbid core dumps");
        return Exit::Failed.into();
    }
    let _flush = FlushLog;
    match parse() {
        Ok(cli) => dispatch(cli).into(),
        Err(exit) => exit.into(),
    }
}

/// Dropped, it flushes the log of the server, also when a panic ends the program.
struct FlushLog;

impl Drop for FlushLog {
    fn drop(&mut self) {
        log::flush();
    }
}

/// The memory of every verb holds passwords, and a core dump would keep them.
fn forbid_core_dumps() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // The limit does not hold for a program that takes the dump from a pipe (core(5)); this does.
    #[cfg(target_os = "linux")]
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn dispatch(cli: Cli) -> Exit {
    let what = cli.verb.to_string();
    let report = |failure: Failure| {
        failure.report(&format!("cannot {what}"));
        failure.exit
    };
    let database = match database(cli.database) {
        Ok(database) => database,
        Err(failure) => return report(failure),
    };
    // A shell may append both to the store.
    let store = Inputs::of_store(&database);
    if store.spare(io::stderr()).is_err() {
        // Nothing can be said there. What is left is standard output, if that is another file.
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
    perform(cli.verb, &database).map_or_else(report, |()| Exit::Done)
}

fn perform(verb: Verb, database: &Path) -> Result<(), Failure> {
    match verb {
        Verb::Serve(args) => serve::serve(&args, database),
        Verb::Useradd(args) => verbs::useradd(&args, database),
        Verb::Passwd(args) => verbs::passwd(&args, database),
        Verb::Usermod(args) => verbs::usermod(&args, database),
        Verb::Userdel(args) => verbs::userdel(&args, database),
        Verb::Userlist(args) => verbs::userlist(&args, database),
        Verb::Verify(args) => verbs::verify(&args, database),
        Verb::Chpasswd(args) => bulk::chpasswd(&args, database),
        Verb::Import(args) => bulk::import(&args, database),
        Verb::Export(args) => bulk::export(&args, database),
        Verb::Apply(args) => bulk::apply(&args, database),
        Verb::Hash(args) => verbs::hash(&args),
        Verb::Check(args) => upkeep::check(&args, database),
        Verb::Backup(args) => upkeep::backup(&args, database),
        Verb::Print(args) => print::print(&args),
        Verb::Completions(args) => manual::completions(&args, command()),
        Verb::Man(args) => manual::man(&args, command(), database),
    }
}

/// The arguments with all their help.
fn command() -> clap::Command {
    let command = Cli::command()
        .long_version(format!("{}\n{}", env!("CARGO_PKG_VERSION"), store::engine()))
        .mut_subcommands(|verb| verb.version(env!("CARGO_PKG_VERSION")));
    let examples = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    command.after_long_help(format!("{examples}\n\n{}", Exit::table()))
}

/// The arguments, or the exit code where everything has been said already.
fn parse() -> Result<Cli, Exit> {
    let mut command = command();
    if let Some(unknown) = unknown_variable(&command) {
        Failure::new(Exit::Usage, format_args!("unknown environment variable {unknown}"))
            .hint("'resttool --help' and 'resttool VERB --help' name those that there are")
            .report("usage");
        return Err(Exit::Usage);
    }
    let parsed = command.try_get_matches_from_mut(std::env::args_os());
    match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => Ok(cli),
        Err(e) if !e.use_stderr() => {
            // Help or version; a reader that went away has seen enough of it.
            let _ = e.print();
            Err(Exit::Done)
        }
        Err(e) if e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = e.print();
            Err(Exit::Usage)
        }
        Err(e) => {
            usage(&e).report("usage");
            Err(Exit::Usage)
        }
    }
}

/// clap's error in our form.
fn usage(e: &clap::Error) -> Failure {
    let unknown = match e.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) if e.kind() == ErrorKind::UnknownArgument => argument,
        _ => "-",
    };
    if !unknown.starts_with('-') {
        // Not shown: it may well be a password, and this line may well be kept.
        return Failure::new(Exit::Usage, "unexpected argument (not shown, it may be a password)")
            .hint(
                "a password is never an argument: give --password-stdin or --password-file PATH",
            );
    }
    if let Some(ContextValue::String(value)) = e.get(ContextKind::InvalidValue)
        && printable(value) != *value
    {
        // clap shows the value as it came.
        let argument = e.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
        let why = e.source().map(|e| format!(": {e}")).unwrap_or_default();
        let value = printable(value);
        return Failure::new(
            Exit::Usage,
            format_args!("invalid value '{value}' for '{argument}'{why}"),
        );
    }
    let text = e.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
    match text.split_once("\n\nFor more information, try ") {
        Some((text, help)) => Failure::new(Exit::Usage, text)
            .hint(format!("for more information, try {}", help.trim_end_matches('.'))),
        None => Failure::new(Exit::Usage, text),
    }
}

/// A variable that looks like one of ours and is none: it was meant to set something, and doesn't.
fn unknown_variable(command: &clap::Command) -> Option<String> {
    let known: BTreeSet<OsString> = std::iter::once(command)
        .chain(command.get_subcommands())
        .flat_map(clap::Command::get_arguments)
        .filter_map(|argument| argument.get_env().map(ToOwned::to_owned))
        .collect();
    std::env::vars_os()
        .map(|(name, _)| name)
        .find(|name| name.as_encoded_bytes().starts_with(b"RESTTOOL_") && !known.contains(name))
        .map(|name| printable(&name.to_string_lossy()))
}

/// The file that holds the users: as given, or in the user's data directory (XDG Base Directory
/// Specification 0.8, which has relative paths in the variable ignored).
fn database(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let data = || {
        std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
            .map(|data| data.join("resttool/resttool.db"))
    };
    given.or_else(data).ok_or_else(|| {
        Failure::new(Exit::Failed, "there is no home directory to keep the users in")
            .hint("name a file with --database")
    })
}

/// Returns the path from the root, so that a command that contains it means the same file in every
/// folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
