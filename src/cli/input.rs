//! Lines of a file or a pipe, with their numbers. Knows nothing of their format.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;

use zeroize::Zeroizing;

use super::exit::{Exit, Failure, cannot_spool};
use super::spool::{BUFFER, Content, Spool};
use super::terminal;
use crate::text::{NotText, printable, read_text};

/// The limit of a line, in bytes, above any valid one.
const MAX_LINE: usize = 64 * 1024;

/// The limit of input that is kept in memory, in bytes.
const MAX_INPUT: usize = 64 * 1024 * 1024;

/// An input file, or standard input for `-`.
pub(super) struct Input {
    pub(super) name: String,
    file: File,
}

impl Input {
    /// Opens a file. `what` describes the content to a user at a terminal.
    pub(super) fn open(path: &Path, what: &str) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Self::stdin(what);
        }
        let name = printable(&path.to_string_lossy());
        let file = File::open(path)
            .map_err(|e| Failure::new(Exit::Failed, format_args!("cannot open {name}: {e}")))?;
        Ok(Self { name, file })
    }

    /// Opens standard input.
    pub(super) fn stdin(what: &str) -> Result<Self, Failure> {
        terminal::announce(what);
        let name = "standard input".to_owned();
        let file = io::stdin().as_fd().try_clone_to_owned().map_err(|e| cannot_read(&name, &e))?;
        Ok(Self { name, file: file.into() })
    }

    /// Calls `visit` for each line, with its line end. Goes on after a bad line. Returns the input to
    /// read it again. A pipe is kept in a temporary file for that.
    ///
    /// # Errors
    /// Fails with all bad lines.
    pub(super) fn each_line(
        self,
        mut visit: impl FnMut(usize, &str) -> Result<(), Failure>,
    ) -> Result<ReadInput, Failure> {
        let Self { name, mut file } = self;
        let failed = |e: io::Error| cannot_read(&name, &e);
        let start = match file.metadata().map_err(failed)?.is_file() {
            true => Some(file.stream_position().map_err(failed)?),
            false => None,
        };
        let mut spool = start.is_none().then(Spool::new);
        let keys = RandomState::new();
        let mut digest = keys.build_hasher();
        let mut bad = FailureList::of(Exit::BadInput);
        let mut reader = BufReader::with_capacity(BUFFER, &file);
        let mut bytes = Vec::new();
        for number in 1.. {
            if !next_line(&mut reader, &mut bytes).map_err(failed)? {
                break;
            }
            digest.write(&bytes);
            if let Some(spool) = &mut spool {
                spool.write_all(&bytes).map_err(|e| cannot_spool(&e))?;
            }
            if number == 1 {
                refuse_utf16(&name, &bytes)?;
            }
            bad.note(line(number, &bytes).and_then(|line| visit(number, line)))?;
        }
        bad.check()?;
        let content = match (spool, start) {
            (Some(spool), _) => spool.finish().map_err(|e| cannot_spool(&e))?,
            (None, start) => Content::File { file, start: start.unwrap_or_default() },
        };
        Ok(ReadInput { content, digest: digest.finish(), keys })
    }

    /// Reads everything, for lines with passwords. Leaves no other copy behind.
    pub(super) fn read_secret(self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LINE));
        loop {
            let room = bytes.capacity() - bytes.len();
            let read = (&self.file).take(room as u64).read_to_end(&mut bytes);
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

/// An input whose lines were read, to read them again.
pub(super) struct ReadInput {
    content: Content,
    /// A digest of the content under these keys.
    digest: u64,
    keys: RandomState,
}

impl ReadInput {
    /// Calls `visit` for each line, with its line end.
    ///
    /// # Errors
    /// The error of `visit`, or the one that `failed` makes if the input cannot be read or is no
    /// longer the same. The lines before were visited.
    pub(super) fn each_line<E>(
        &self,
        failed: impl Fn(io::Error) -> E,
        mut visit: impl FnMut(usize, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut reader = self.content.reader().map_err(&failed)?;
        let mut digest = self.keys.build_hasher();
        let mut bytes = Vec::new();
        for number in 1.. {
            if !next_line(&mut reader, &mut bytes).map_err(&failed)? {
                break;
            }
            digest.write(&bytes);
            let line = line(number, &bytes).map_err(|_| failed(has_changed()))?;
            visit(number, line)?;
        }
        if digest.finish() == self.digest { Ok(()) } else { Err(failed(has_changed())) }
    }
}

/// The error of an input that is not the same when it is read again.
pub(super) fn has_changed() -> io::Error {
    io::Error::other("it was changed meanwhile")
}

/// Reads a line with its end. Returns false at the end of the input. A line that is too long ends
/// behind the limit.
fn next_line(reader: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<bool> {
    bytes.clear();
    reader.take(MAX_LINE as u64 + 1).read_until(b'\n', bytes)?;
    Ok(!bytes.is_empty())
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn input(file: File) -> Input {
        Input { name: "input".to_owned(), file }
    }

    fn read(input: Input) -> (ReadInput, String) {
        let mut text = String::new();
        let add = |number: usize, line: &str| {
            text.push_str(&format!("{number} {line}"));
            Ok(())
        };
        let input = input.each_line(add).unwrap();
        (input, text)
    }

    fn read_again(input: &ReadInput) -> Result<String, io::Error> {
        let mut text = String::new();
        input.each_line(
            |e| e,
            |number, line| {
                text.push_str(&format!("{number} {line}"));
                Ok(())
            },
        )?;
        Ok(text)
    }

    #[test]
    fn lines_of_a_file_and_of_a_pipe_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input");
        // More than a spool holds in memory.
        for lines in [0, 3, 5000] {
            let content = (0..lines).map(|n| format!("{n} {:01000}\r\n", 0)).collect::<String>();
            let content = format!("{content}no end of line");
            fs::write(&path, &content).unwrap();
            let (file, first) = read(input(File::open(&path).unwrap()));
            let (reader, mut writer) = io::pipe().unwrap();
            let bytes = content.clone();
            let writing = std::thread::spawn(move || writer.write_all(bytes.as_bytes()).unwrap());
            let (pipe, same) = read(input(File::from(std::os::fd::OwnedFd::from(reader))));
            writing.join().unwrap();
            assert!(first == same && first.lines().count() == lines + 1);
            for source in [&file, &pipe] {
                for _ in 0..2 {
                    assert!(read_again(source).unwrap() == first);
                }
            }
        }
    }

    #[test]
    fn file_is_read_again_from_where_it_began() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"head\none\ntwo\n").unwrap();
        file.seek(io::SeekFrom::Start(5)).unwrap();
        let (input, first) = read(input(file));
        assert_eq!(first, "1 one\n2 two\n");
        assert_eq!(read_again(&input).unwrap(), first);
    }

    #[test]
    fn changed_file_is_an_error_when_it_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input");
        let not_utf8 = b"one\n\xFFtwo".as_slice();
        for changed in
            [b"one\ntwp\n".as_slice(), b"one\n", b"", b"one\ntwo\n\n", not_utf8, b"two\none\n"]
        {
            fs::write(&path, "one\ntwo\n").unwrap();
            let (input, _) = read(input(File::open(&path).unwrap()));
            fs::write(&path, changed).unwrap();
            let why = read_again(&input).unwrap_err().to_string();
            assert_eq!(why, "it was changed meanwhile", "{}", changed.escape_ascii());
            fs::write(&path, "one\ntwo\n").unwrap();
            assert!(read_again(&input).is_ok(), "the content matters alone");
            // A replaced file is still open.
            fs::remove_file(&path).unwrap();
            assert!(read_again(&input).is_ok());
        }
    }
}
