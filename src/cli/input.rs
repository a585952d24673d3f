//! Lines of a file or a pipe, with their numbers. Knows nothing of their format.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use zeroize::Zeroizing;

use super::exit::{Exit, Failure};
use crate::text::printable;

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
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::stdin());
        }
        let name = printable(&path.to_string_lossy());
        let file = File::open(path)
            .map_err(|e| Failure::new(Exit::Failed, format_args!("cannot open {name}: {e}")))?;
        Ok(Self { name, reader: Box::new(file) })
    }

    pub(super) fn stdin() -> Self {
        Self { name: "standard input".to_owned(), reader: Box::new(io::stdin()) }
    }

    /// Calls `visit` for each line, with its line end.
    pub(super) fn each_line(
        self,
        mut visit: impl FnMut(usize, &str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Self { name, reader } = self;
        let mut reader = BufReader::new(reader);
        let mut bytes = Vec::new();
        for number in 1.. {
            bytes.clear();
            let most = MAX_LINE as u64 + 1;
            let read = reader.by_ref().take(most).read_until(b'\n', &mut bytes);
            read.map_err(|e| cannot_read(&name, &e))?;
            if bytes.is_empty() {
                break;
            }
            visit(number, line(&bytes).map_err(|why| bad_line(number, why))?)?;
        }
        Ok(())
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
        String::from_utf8(bytes.to_vec())
            .map_err(|_| Failure::new(Exit::BadInput, format_args!("{name} is not UTF-8")))
    }
}

/// Splits text into lines without line ends.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, Result<&str, Failure>)> {
    (1..).zip(bytes.split(|&byte| byte == b'\n')).map(|(number, bytes)| {
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        (number, line(bytes).map_err(|why| bad_line(number, why)))
    })
}

/// The failure of a line.
pub(super) fn bad_line(number: usize, why: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::BadInput, format_args!("line {number}: {why}"))
}

fn line(bytes: &[u8]) -> Result<&str, &'static str> {
    if bytes.len() > MAX_LINE {
        return Err("it is too long");
    }
    std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8")
}

fn cannot_read(name: &str, e: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format_args!("cannot read {name}: {e}"))
}
