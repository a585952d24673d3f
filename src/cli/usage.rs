//! Errors in the arguments, with a hint that fits the command.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::exit::{Exit, Failure};
use crate::text::printable;

/// Turns an error of clap into a failure. `definition` has found it in the arguments of this process.
pub(super) fn failure(e: &clap::Error, definition: clap::Command) -> Failure {
    if let Some(ContextValue::String(extra)) = e.get(ContextKind::InvalidArg)
        && e.kind() == ErrorKind::UnknownArgument
        && !extra.starts_with('-')
    {
        let matches = definition.ignore_errors(true).try_get_matches_from(std::env::args_os());
        let command = matches.ok().and_then(|m| m.subcommand_name().map(str::to_owned));
        return extra_argument(command.as_deref().unwrap_or_default(), extra);
    }
    if let Some(ContextValue::String(name)) = e.get(ContextKind::InvalidSubcommand) {
        return unknown_command(name, e.get(ContextKind::SuggestedSubcommand));
    }
    if let Some(ContextValue::String(value)) = e.get(ContextKind::InvalidValue)
        && printable(value) != *value
    {
        // clap shows the value unescaped.
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

/// The failure of a command that does not exist. clap orders similar ones from the worst to the best.
fn unknown_command(name: &str, similar: Option<&ContextValue>) -> Failure {
    let best = match similar {
        Some(ContextValue::String(best)) => Some(best),
        Some(ContextValue::Strings(all)) => all.last(),
        _ => None,
    };
    let hint = match best {
        Some(best) => format!("a similar command is {best}; 'resttool --help' lists all"),
        None => "'resttool --help' lists the commands".to_owned(),
    };
    Failure::new(Exit::Usage, format_args!("unknown command '{}'", printable(name))).hint(hint)
}

/// The failure of an argument that the command does not take.
fn extra_argument(command: &str, extra: &str) -> Failure {
    if let Some(hint) = password_hint(command) {
        // It is not shown, because it may be a password and this line may be logged.
        let why = "unexpected argument (not shown, it may be a password)";
        return Failure::new(Exit::Usage, why).hint(hint);
    }
    let shown = printable(extra);
    if matches!(command, "import" | "export" | "apply" | "backup") {
        let why = "unexpected argument (not shown, it may be a password)";
        let hint = format!("{command} takes one file; the database is given as --database PATH");
        return Failure::new(Exit::Usage, why).hint(hint);
    }
    let hint = match command {
        "serve" if extra.parse::<u16>().is_ok() => format!("a port is given as --port {shown}"),
        "serve" if extra.parse::<IpAddr>().is_ok() || extra == "localhost" => {
            format!("an address is given as --host {shown}")
        }
        "serve" if extra.parse::<SocketAddr>().is_ok() => {
            let (host, port) = extra.rsplit_once(':').unwrap_or_default();
            format!("an address is given as --host {host} --port {port}")
        }
        "serve" => "serve takes options only, e.g. --port 5000 or --database PATH".to_owned(),
        "userlist" => {
            "quote a pattern with * or ?, which the shell replaces by file names".to_owned()
        }
        "check" => "the database is given as --database PATH".to_owned(),
        command => format!("'resttool {command} --help' lists the arguments"),
    };
    Failure::new(Exit::Usage, format_args!("unexpected argument '{shown}'")).hint(hint)
}

/// Returns the hint of a command that handles passwords.
fn password_hint(command: &str) -> Option<&'static str> {
    match command {
        "useradd" | "passwd" | "verify" | "hash" => {
            Some("a password is never an argument: give --password-stdin or --password-file PATH")
        }
        "chpasswd" => Some("chpasswd reads name:password lines from standard input"),
        "usermod" => Some("usermod changes no password: use resttool passwd"),
        _ => None,
    }
}
