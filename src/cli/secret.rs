//! Where a password or a hash comes from: a pipe, a file, the terminal, or chance. Never from an
//! argument or the environment, which other users of the machine can read.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::args::PasswordSource;
use super::exit::{Exit, Failure};
use super::terminal;
use crate::credential::{Password, PasswordHash, printable};

/// More than any password or hash that can be right, in bytes.
const MAX_INPUT: u64 = 4096;

/// A password that is known, or how to come by one.
#[derive(Debug)]
pub(super) enum Source {
    Given(Password),
    Generate,
    Ask,
}

impl Source {
    /// Reads what is piped in or stands in a file. Nobody is asked yet.
    pub(super) fn open(args: &PasswordSource) -> Result<Self, Failure> {
        Self::choose(args, "give --password-stdin, --password-file PATH or --generate")
    }

    /// The same for a password that there is already.
    pub(super) fn open_known(stdin: bool, file: Option<&Path>) -> Result<Self, Failure> {
        let args = PasswordSource {
            password_stdin: stdin,
            password_file: file.map(Path::to_owned),
            generate: false,
        };
        Self::choose(&args, "give --password-stdin or --password-file PATH")
    }

    fn choose(args: &PasswordSource, without_terminal: &str) -> Result<Self, Failure> {
        only_one(args, false)?;
        if args.password_stdin {
            Ok(Self::Given(Password::parse(&one_line(io::stdin(), "standard input")?)?))
        } else if let Some(path) = &args.password_file {
            Ok(Self::Given(password_in(path)?))
        } else if args.generate {
            Ok(Self::Generate)
        } else if terminal::is_there() {
            Ok(Self::Ask)
        } else {
            Err(Failure::new(Exit::Usage, "there is no terminal to ask for the password on")
                .hint(without_terminal))
        }
    }

    /// A password that there is already: asked for once, if nobody has given it.
    pub(super) fn known(self) -> Result<Password, Failure> {
        match self {
            Self::Ask => Ok(Password::parse(&terminal::ask("Password: ")?)?),
            given => given.password(),
        }
    }

    /// The password; asks for it, twice, if nobody has given it.
    pub(super) fn password(self) -> Result<Password, Failure> {
        match self {
            Self::Given(password) => Ok(password),
            Self::Generate => Password::generate().map_err(|e| {
                Failure::new(Exit::Failed, format_args!("there are no random numbers: {e}"))
            }),
            Self::Ask => {
                let password = Password::parse(&terminal::ask("Password: ")?)?;
                let again = terminal::ask("Password again: ")?;
                match Password::parse(&again) {
                    Ok(again) if again.reveal() == password.reveal() => Ok(password),
                    _ => Err(Failure::new(Exit::Refused, "the two passwords differ")),
                }
            }
        }
    }
}

/// The hash on standard input.
pub(super) fn hash_from_stdin(others: &PasswordSource) -> Result<PasswordHash, Failure> {
    only_one(others, true)?;
    Ok(PasswordHash::parse(&one_line(io::stdin(), "standard input")?)?)
}

/// Refuses several sources at once. clap could, but it takes a variable that is set to `false` for one
/// that is given.
fn only_one(args: &PasswordSource, hash_stdin: bool) -> Result<(), Failure> {
    let given: Vec<_> = [
        (args.password_stdin, "--password-stdin"),
        (args.password_file.is_some(), "--password-file"),
        (args.generate, "--generate"),
        (hash_stdin, "--hash-stdin"),
    ]
    .into_iter()
    .filter_map(|(given, name)| given.then_some(name))
    .collect();
    if given.len() > 1 {
        return Err(Failure::new(
            Exit::Usage,
            format_args!("{} can't be combined: one of them says it all", given.join(" and ")),
        ));
    }
    Ok(())
}

/// The password that stands in a file.
pub(super) fn password_in(path: &Path) -> Result<Password, Failure> {
    let name = printable(&path.to_string_lossy());
    let file = File::open(path)
        .map_err(|e| Failure::new(Exit::Failed, format_args!("cannot open {name}: {e}")))?;
    Ok(Password::parse(&one_line(file, &name)?)?)
}

/// The one line that `input` holds, without its LF or CRLF.
fn one_line(input: impl Read, name: &str) -> Result<Zeroizing<String>, Failure> {
    let refused = |why| Failure::new(Exit::Refused, format_args!("{name} {why}"));
    // Room for all of it, so that no grown buffer leaves a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * MAX_INPUT as usize));
    input
        .take(MAX_INPUT + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Failure::new(Exit::Failed, format_args!("cannot read {name}: {e}")))?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(refused("holds more than a line can be long"));
    }
    let line = bytes
        .strip_suffix(b"\n")
        .map_or(&bytes[..], |line| line.strip_suffix(b"\r").unwrap_or(line));
    if line.is_empty() {
        return Err(refused("is empty"));
    }
    if line.contains(&b'\n') {
        return Err(refused("holds more than one line"));
    }
    let line = std::str::from_utf8(line).map_err(|_| refused("is not UTF-8"))?;
    Ok(Zeroizing::new(line.to_owned()))
}
