//! Passwords and hashes from a pipe, a file, the terminal or the random generator.
//!
//! They never come from an argument or the environment, which other users of the machine can read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::exit::{Exit, Failure, say};
use super::input::not_text;
use super::terminal;
use crate::admin::{Policy, Warning};
use crate::domain::{Password, PasswordHash, PresentedPassword, UserName};
use crate::text::{printable, read_text};

/// The limit of a password or hash, in bytes, above any valid one.
const MAX_INPUT: u64 = 4096;

/// The number of times that a user may type a new password.
const TRIES: u32 = 3;

/// Options for an existing password.
#[derive(Args, Debug)]
pub(super) struct PasswordOptions {
    /// Read the password from the first line of standard input
    #[arg(long, help_heading = "Password")]
    password_stdin: bool,

    /// Read the password from the first line of this file
    #[arg(long, value_name = "PATH", help_heading = "Password")]
    pub(super) password_file: Option<PathBuf>,
}

/// Options for a new password.
#[derive(Args, Debug)]
pub(super) struct NewPasswordOptions {
    #[command(flatten)]
    pub(super) known: PasswordOptions,

    /// Generate a random password and print it on standard output
    #[arg(long, help_heading = "Password")]
    pub(super) generate: bool,
}

/// Options for a new password or its hash.
#[derive(Args, Debug)]
pub(super) struct NewSecretOptions {
    #[command(flatten)]
    pub(super) password: NewPasswordOptions,

    /// Read a bcrypt hash ($2a$, $2b$ or $2y$) from standard input instead of a password
    #[arg(long, help_heading = "Password")]
    hash_stdin: bool,
}

/// A new password or its hash.
#[derive(Debug)]
pub(super) enum NewSecret {
    Password(PasswordInput),
    Hash(PasswordHash),
}

impl NewSecret {
    /// Reads a piped password or a password file. Does not prompt.
    pub(super) fn open(args: &NewSecretOptions) -> Result<Self, Failure> {
        only_one(&args.password.known, args.password.generate, args.hash_stdin)?;
        if args.hash_stdin {
            let hash = PasswordHash::parse(&line_of_stdin("a hash")?)?;
            return Ok(Self::Hash(hash));
        }
        PasswordInput::open(&args.password).map(Self::Password)
    }
}

/// An existing password, or a prompt for it.
#[derive(Debug)]
pub(super) enum KnownPassword {
    Given(PresentedPassword),
    Prompt,
}

impl KnownPassword {
    /// Reads a piped password or a password file. Does not prompt.
    pub(super) fn open(args: &PasswordOptions) -> Result<Self, Failure> {
        only_one(args, false, false)?;
        let line = given(args, "give --password-stdin or --password-file PATH")?;
        line.map_or(Ok(Self::Prompt), |line| Ok(Self::Given(presented(&line)?)))
    }

    /// Returns the password of a user. Prompts once if none was given.
    pub(super) fn get(self, user: &UserName) -> Result<PresentedPassword, Failure> {
        match self {
            Self::Given(password) => Ok(password),
            Self::Prompt => presented(&terminal::ask(&format!("Password for {user}: "))?),
        }
    }
}

fn presented(text: &str) -> Result<PresentedPassword, Failure> {
    Ok(PresentedPassword::parse(text.as_bytes(), text)?)
}

/// Returns the line of a pipe or of a password file, or `None` if a terminal can be asked.
fn given(
    args: &PasswordOptions,
    without_terminal: &str,
) -> Result<Option<Zeroizing<String>>, Failure> {
    if args.password_stdin {
        line_of_stdin("a password").map(Some)
    } else if let Some(path) = &args.password_file {
        line_of_file(path).map(Some)
    } else if terminal::is_there() {
        Ok(None)
    } else {
        Err(Failure::new(Exit::Usage, "there is no terminal to ask for the password on")
            .hint(without_terminal))
    }
}

/// A new password, or the way to get it.
#[derive(Debug)]
pub(super) enum PasswordInput {
    Given(Password),
    Generate,
    Prompt,
}

impl PasswordInput {
    /// Reads a piped password or a password file. Does not prompt.
    pub(super) fn open(args: &NewPasswordOptions) -> Result<Self, Failure> {
        only_one(&args.known, args.generate, false)?;
        if args.generate {
            return Ok(Self::Generate);
        }
        let line = given(&args.known, "give --password-stdin, --password-file PATH or --generate")?;
        line.map_or(Ok(Self::Prompt), |line| Ok(Self::Given(Password::parse(&line)?)))
    }

    /// Returns a new password that satisfies the policy, and writes its warnings. Prompts for it
    /// and for its repetition if none was given, again after a mistake.
    pub(super) fn new_password(
        self,
        policy: &Policy,
        user: Option<&UserName>,
    ) -> Result<Password, Failure> {
        let password = match self {
            Self::Given(password) => password,
            Self::Generate => generate()?,
            Self::Prompt => return ask_for_new_password(policy, user),
        };
        warn(&policy.judge(&password, user)?);
        Ok(password)
    }
}

/// Generates a random password.
pub(super) fn generate() -> Result<Password, Failure> {
    Password::generate()
        .map_err(|e| Failure::new(Exit::Failed, format_args!("there are no random numbers: {e}")))
}

/// Prompts for a new password until one is accepted.
fn ask_for_new_password(policy: &Policy, user: Option<&UserName>) -> Result<Password, Failure> {
    let mut tries = 1;
    loop {
        match ask_twice(policy, user) {
            Err(failure) if failure.exit == Exit::Refused && tries < TRIES => {
                say(&format!("resttool: {}; try again", failure.into_reason()));
                tries += 1;
            }
            done => return done,
        }
    }
}

fn ask_twice(policy: &Policy, user: Option<&UserName>) -> Result<Password, Failure> {
    let whose = user.map(|user| format!(" for {user}")).unwrap_or_default();
    let password = Password::parse(&terminal::ask(&format!("New password{whose}: "))?)?;
    let warnings = policy.judge(&password, user)?;
    let again = terminal::ask(&format!("New password{whose} again: "))?;
    match Password::parse(&again) {
        Ok(again) if again.reveal() == password.reveal() => {
            warn(&warnings);
            Ok(password)
        }
        _ => Err(Failure::new(Exit::Refused, "the two passwords differ")),
    }
}

fn warn(warnings: &[Warning]) {
    for warning in warnings {
        say(&format!("resttool: warning: {warning}"));
    }
}

/// Refuses several options together.
fn only_one(known: &PasswordOptions, generate: bool, hash_stdin: bool) -> Result<(), Failure> {
    let given: Vec<_> = [
        (known.password_stdin, "--password-stdin"),
        (known.password_file.is_some(), "--password-file"),
        (generate, "--generate"),
        (hash_stdin, "--hash-stdin"),
    ]
    .into_iter()
    .filter_map(|(given, name)| given.then_some(name))
    .collect();
    if given.len() > 1 {
        return Err(Failure::new(
            Exit::Usage,
            format_args!("{} cannot be used together", given.join(" and ")),
        ));
    }
    Ok(())
}

/// Reads a password file.
pub(super) fn password_in(path: &Path) -> Result<Password, Failure> {
    Ok(Password::parse(&line_of_file(path)?)?)
}

fn line_of_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let name = printable(&path.to_string_lossy());
    let file = File::open(path)
        .map_err(|e| Failure::new(Exit::Failed, format_args!("cannot open {name}: {e}")))?;
    one_line(file, &name)
}

/// Reads the only line of standard input. `what` describes it to a user at a terminal.
fn line_of_stdin(what: &str) -> Result<Zeroizing<String>, Failure> {
    terminal::announce(what);
    one_line(io::stdin(), "standard input")
}

/// Reads the only line of `input`, without its LF or CRLF.
fn one_line(input: impl Read, name: &str) -> Result<Zeroizing<String>, Failure> {
    let refused = |why| Failure::new(Exit::Refused, format_args!("{name} {why}"));
    // Reserves the maximum, so that a growing buffer leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * MAX_INPUT as usize));
    input
        .take(MAX_INPUT + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::new(Exit::Failed, format_args!("cannot read {name}: {e}")))?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(refused("holds more than a line can be long"));
    }
    let text = read_text(&bytes).map_err(|why| not_text(Exit::Refused, name, why))?;
    let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err(refused("is empty"));
    }
    if line.contains('\n') {
        return Err(refused("holds more than one line"));
    }
    Ok(Zeroizing::new(line.to_owned()))
}
