//! Temporary storage for an input that is read again, and for reports of changes before their commit.
//!
//! It holds little in memory. The rest is in a temporary file, which has no name and which no other
//! user can open.

use std::fs::File;
use std::io::{
    self, BufRead, BufReader, BufWriter, Cursor, IntoInnerError, Read, Seek, SeekFrom, Write,
};

use tempfile::{SpooledData, SpooledTempFile};

use super::report::{ChangeJson, Counts, audit_line};
use crate::admin::{Change, ChangeSink};

/// The most bytes of one spool in memory.
const MAX_MEMORY: usize = 4 * 1024 * 1024;

/// The size of buffers, in bytes.
pub(super) const BUFFER: usize = 64 * 1024;

/// A spool that is being written.
pub(super) struct Spool(BufWriter<SpooledTempFile>);

impl Spool {
    pub(super) fn new() -> Self {
        Self(BufWriter::with_capacity(BUFFER, SpooledTempFile::new(MAX_MEMORY)))
    }

    /// Ends writing.
    pub(super) fn finish(self) -> io::Result<Content> {
        let spool = self.0.into_inner().map_err(IntoInnerError::into_error)?;
        Ok(match spool.into_inner() {
            SpooledData::InMemory(bytes) => Content::Memory(bytes.into_inner()),
            SpooledData::OnDisk(file) => Content::File { file, start: 0 },
        })
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Bytes that can be read again.
pub(super) enum Content {
    Memory(Vec<u8>),
    /// A file from this position on.
    File {
        file: File,
        start: u64,
    },
}

impl Content {
    /// Reads from the start.
    pub(super) fn reader(&self) -> io::Result<BufReader<Box<dyn Read + '_>>> {
        let reader: Box<dyn Read> = match self {
            Self::Memory(bytes) => Box::new(Cursor::new(bytes)),
            Self::File { file, start } => {
                let mut file = file;
                file.seek(SeekFrom::Start(*start))?;
                Box::new(file)
            }
        };
        Ok(BufReader::with_capacity(BUFFER, reader))
    }

    /// Reads from the start, for good.
    fn into_reader(self) -> io::Result<Box<dyn BufRead>> {
        Ok(match self {
            Self::Memory(bytes) => Box::new(Cursor::new(bytes)),
            Self::File { mut file, start } => {
                file.seek(SeekFrom::Start(start))?;
                Box::new(BufReader::with_capacity(BUFFER, file))
            }
        })
    }
}

/// The reports of planned changes, until they are committed. It contains no secret.
pub(super) struct ReportSpool {
    pub(super) counts: Counts,
    /// A JSON object per user.
    objects: Option<Spool>,
    /// An audit line per changed user, without its time.
    lines: Option<Spool>,
}

type Reader = Option<Box<dyn BufRead>>;

impl ReportSpool {
    /// Makes a spool for the outputs that list the users.
    pub(super) fn new(objects: bool, lines: bool) -> Self {
        Self {
            counts: Counts::default(),
            objects: objects.then(Spool::new),
            lines: lines.then(Spool::new),
        }
    }

    /// Returns the JSON objects and the audit lines.
    pub(super) fn into_readers(self) -> io::Result<(Reader, Reader)> {
        let reader =
            |spool: Option<Spool>| spool.map(|spool| spool.finish()?.into_reader()).transpose();
        Ok((reader(self.objects)?, reader(self.lines)?))
    }
}

impl ChangeSink for ReportSpool {
    fn restart(&mut self) -> io::Result<()> {
        *self = Self::new(self.objects.is_some(), self.lines.is_some());
        Ok(())
    }

    fn push(&mut self, change: Change) -> io::Result<()> {
        self.counts.add(change.kind);
        if let Some(objects) = &mut self.objects {
            let object = serde_json::to_string(&ChangeJson::new(&change, None, false))?;
            writeln!(objects, "{object}")?;
        }
        if let Some(lines) = &mut self.lines
            && let Some(line) = audit_line(&change)
        {
            writeln!(lines, "{line}")?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        [&mut self.objects, &mut self.lines].into_iter().flatten().try_for_each(Spool::flush)
    }
}
