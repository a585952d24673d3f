//! Lines of a file or a pipe, with their numbers. Knows nothing of their format.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::exit::{Exit, Failure};
use super::terminal;
use crate::text::{NotText, printable, read_text};

/// The limit of a line, in bytes, above any valid one.
const MAX_LINE: usize = 64 * 1024;

/// The limit of input that is kept in memory, in bytes.
const MAX_INPUT: usize = 64 * 1024 * 1024;

/// An input file, or standard input for `-`.
pub(super) struct Input {
    pub(super) name: String,
    reader: Box<dyn Read>,
}

impl Input {
    /// Opens a file. `what` describes the content to a user at a terminal.
    pub(super) fn open(path: &Path, what: &str) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::stdin(what));
        }
        let name = printable(&path.to_string_lossy());
        let file = File::open(path)
            .map_err(|e| Failure::new(Exit::Failed, format_args!("cannot open {name}: {e}")))?;
        Ok(Self { name, reader: Box::new(file) })
    }

    /// Opens standard input.
    pub(super) fn stdin(what: &str) -> Self {
        terminal::announce(what);
        Self { name: "standard input".to_owned(), reader: Box::new(io::stdin()) }
    }

    /// Calls `visit` for each line, with its line end. Goes on after a bad line.
    ///
    /// # Errors
    /// Fails with all bad lines.
    pub(super) fn each_line(
        self,
        mut visit: impl FnMut(usize, &str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Self { name, reader } = self;
        let mut reader = BufReader::new(reader);
        let mut bytes = Vec::new();
        let mut bad = FailureList::of(Exit::BadInput);
        for number in 1.. {
            bytes.clear();
            let most = MAX_LINE as u64 + 1;
            let read = reader.by_ref().take(most).read_until(b'\n', &mut bytes);
            read.map_err(|e| cannot_read(&name, &e))?;
            if bytes.is_empty() {
                break;
            }
            if number == 1 {
                refuse_utf16(&name, &bytes)?;
            }
            bad.note(line(number, &bytes).and_then(|line| visit(number, line)))?;
        }
        bad.check()
    }

    /// Reads everything, for lines with passwords. Leaves no other copy behind.
    pub(super) fn read_secret(mut self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LINE));
        loop {
            let room = bytes.capacity() - bytes.len();
            let read = self.reader.by_ref().take(room as u64).read_to_end(&mut bytes);
            if read.map_err(|e| cannot_read(&self.name, &e))? < room {
                return Ok(bytes);
            }
            if bytes.len() >= MAX_INPUT {
                let why = format!("{} holds more than {MAX_INPUT} bytes", self.name);
                return Err(Failure::new(Exit::BadInput, why));
            }
            let mut more = Zeroizing::new(Vec::with_capacity(2 * bytes.len()));
            more.extend_from_slice(&bytes);
            bytes = more;
        }
    }

    /// Reads everything as text.
    pub(super) fn read_text(self) -> Result<String, Failure> {
        let name = self.name.clone();
        let bytes = self.read_secret()?;
        read_text(&bytes).map(str::to_owned).map_err(|why| not_text(Exit::BadInput, &name, why))
    }
}

/// Refuses lines in UTF-16 as a whole: each of them would be invalid.
pub(super) fn refuse_utf16(name: &str, bytes: &[u8]) -> Result<(), Failure> {
    match read_text(bytes) {
        Err(why @ NotText::Utf16) => Err(not_text(Exit::BadInput, name, why)),
        Ok(_) | Err(NotText::NotUtf8) => Ok(()),
    }
}

/// Splits text into lines without line ends.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, Result<&str, Failure>)> {
    (1..).zip(bytes.split(|&byte| byte == b'\n')).map(|(number, bytes)| {
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        (number, line(number, bytes))
    })
}

/// Collects failures of one kind, so that one run names all of them.
pub(super) struct FailureList {
    kind: Exit,
    first: Option<Failure>,
    more: Vec<String>,
    /// The failures that are not kept.
    uncounted: usize,
}

impl FailureList {
    /// The most failures that are shown.
    const MAX: usize = 20;

    pub(super) fn of(kind: Exit) -> Self {
        Self { kind, first: None, more: Vec::new(), uncounted: 0 }
    }

    /// Keeps a failure of the kind. Returns the value, if there is one.
    ///
    /// # Errors
    /// Fails at once with a failure of another kind.
    pub(super) fn note<T>(&mut self, result: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match result {
            Ok(value) => return Ok(Some(value)),
            Err(failure) if failure.exit != self.kind => return Err(failure),
            Err(failure) if self.first.is_none() => self.first = Some(failure),
            Err(failure) if self.more.len() < Self::MAX - 1 => {
                self.more.push(failure.into_reason());
            }
            Err(_) => self.uncounted += 1,
        }
        Ok(None)
    }

    /// Fails if a failure was noted.
    pub(super) fn check(self) -> Result<(), Failure> {
        let Some(first) = self.first else { return Ok(()) };
        let rest = (self.uncounted > 0).then(|| format!("{} more like these", self.uncounted));
        Err(first.and(self.more.into_iter().chain(rest)))
    }
}

/// The failure of a line.
pub(super) fn bad_line(number: usize, why: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::BadInput, format_args!("line {number}: {why}"))
}

/// The failure of input that is not text.
pub(super) fn not_text(exit: Exit, name: &str, why: NotText) -> Failure {
    let failure = Failure::new(exit, format_args!("{name} {why}"));
    match why.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn line(number: usize, bytes: &[u8]) -> Result<&str, Failure> {
    if bytes.len() > MAX_LINE {
        return Err(bad_line(number, "it is too long"));
    }
    // A byte order mark stands before the first line.
    let text = if number == 1 {
        read_text(bytes)
    } else {
        std::str::from_utf8(bytes).map_err(|_| NotText::NotUtf8)
    };
    text.map_err(|why| not_text(Exit::BadInput, "it", why).about(format_args!("line {number}")))
}

fn cannot_read(name: &str, e: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format_args!("cannot read {name}: {e}"))
}
