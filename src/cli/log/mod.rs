//! The server's log on standard error, as text for people or as one JSON object per line.
//!
//! Once the log runs, one thread alone writes to standard error. Any write to it can block, e.g. if
//! the reader of a pipe is stuck. O_NONBLOCK is not used, since it would change the open file of
//! other processes too.

mod queue;
mod recent;

use std::io::{self, Write};
use std::panic::{self, PanicHookInfo};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use arc_swap::ArcSwap;
use env_logger::{Builder, Logger, Target};
use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

use super::terminal;
use crate::config::LogFormat;
use crate::http::LoggedError;
use crate::time::Timestamp;
use queue::LogQueue;
use recent::RecentErrors;

/// The memory for lines that wait to be written, in bytes.
const CAPACITY: usize = 1024 * 1024;

/// The maximum time for which the end of the program waits for unwritten lines.
const LAST_FLUSH: Duration = Duration::from_secs(1);

static SERVER_LOG: OnceLock<ServerLog> = OnceLock::new();

/// The log of a running server.
struct ServerLog {
    queue: LogQueue,
    layout: Layout,
    /// Filters and formats by the current level.
    logger: ArcSwap<Logger>,
    errors: RecentErrors,
}

/// The form of a line.
#[derive(Clone, Copy)]
struct Layout {
    format: LogFormat,
    /// Colour the level, in text.
    colour: bool,
}

/// Starts the log. At level info, libraries log warnings and errors only.
///
/// # Errors
/// Fails if the system gives no thread.
pub(super) fn start(level: LevelFilter, format: LogFormat) -> io::Result<()> {
    let layout = Layout { format, colour: terminal::has_colours() };
    let queue = LogQueue::start(
        CAPACITY,
        |line| io::stderr().write_all(line),
        move |dropped| dropped_lines(layout, dropped),
    )?;
    let log = SERVER_LOG.get_or_init(|| ServerLog {
        logger: ArcSwap::from_pointee(logger(level, layout, queue.clone())),
        queue,
        layout,
        errors: RecentErrors::new(),
    });
    log::set_logger(log).map_err(io::Error::other)?;
    log::set_max_level(log.logger.load().filter());
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Logs at this level from now on.
pub(super) fn set_level(level: LevelFilter) {
    if let Some(log) = SERVER_LOG.get() {
        log.logger.store(Arc::new(logger(level, log.layout, log.queue.clone())));
        log::set_max_level(log.logger.load().filter());
    }
}

fn logger(level: LevelFilter, layout: Layout, queue: LogQueue) -> Logger {
    let below = if level == LevelFilter::Info { LevelFilter::Warn } else { level };
    // The HTTP library logs an error for each malformed head, without a source. The audit log has
    // its own, bounded line.
    let http = if level >= LevelFilter::Debug { level } else { LevelFilter::Off };
    Builder::new()
        .filter_level(below)
        .filter_module("actix_http", http)
        .filter_module("resttool", level)
        .filter_module("audit", level)
        .filter_module("access", level)
        .format(move |out, record| write_record(out, layout, record))
        .target(Target::Pipe(Box::new(queue)))
        .build()
}

impl Log for ServerLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger.load().enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let logger = self.logger.load();
        logger.log(record);
        if record.level() == Level::Error && logger.enabled(record.metadata()) {
            self.errors.add(Timestamp::now(), &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Writes a line that is no record to standard error. It goes through the queue if the log runs.
pub(super) fn write_line(line: &str) {
    let line = format!("{line}\n");
    match SERVER_LOG.get() {
        Some(log) => log.queue.push(line.as_bytes()),
        // A closed standard error has no reader, and that is no reason to stop.
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Returns the number of lines that were dropped because the reader of the log was too slow.
pub(super) fn dropped_lines_so_far() -> u64 {
    SERVER_LOG.get().map_or(0, |log| log.queue.dropped())
}

/// Returns the last errors, the newest first.
pub(super) fn last_errors() -> Vec<LoggedError> {
    SERVER_LOG.get().map_or_else(Vec::new, |log| log.errors.list())
}

/// Waits until all lines are written, for at most 1 s.
pub(super) fn flush() {
    if let Some(log) = SERVER_LOG.get() {
        log.queue.flush_within(LAST_FLUSH);
    }
}

/// Logs a panic, because the hook of the standard library writes to standard error by itself. The
/// message is left out, since it may quote a password.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let thread = thread.name().unwrap_or("without a name");
    match panic.location() {
        Some(location) => log::error!("thread '{thread}' panicked at {location}"),
        None => log::error!("thread '{thread}' panicked"),
    }
}

/// Returns the record of a gap in the log, with the line end.
fn dropped_lines(layout: Layout, dropped: u64) -> Vec<u8> {
    let mut line = Vec::new();
    let mut record = Record::builder();
    record.level(Level::Error).target(module_path!());
    let what = format!("cannot write the log: dropped {dropped} lines");
    // Writing to memory does not fail.
    let _ = write_record(&mut line, layout, &record.args(format_args!("{what}")).build());
    line
}

fn write_record(out: &mut impl Write, layout: Layout, record: &Record<'_>) -> io::Result<()> {
    let (time, message) = (Timestamp::now().to_string(), record.args().to_string());
    match layout.format {
        LogFormat::Text => {
            // Further lines are indented, so that none looks like a record.
            let message = message.replace('\n', "\n    ");
            let style = if layout.colour { style(record.level()) } else { Style::new() };
            let level = record.level();
            writeln!(out, "[{time} {style}{level:<5}{style:#} {}] {message}", record.target())
        }
        LogFormat::Json => {
            let mut fields = Fields::new();
            fields.insert("time".to_owned(), time.into());
            fields.insert("level".to_owned(), record.level().as_str().into());
            fields.insert("target".to_owned(), record.target().into());
            fields.insert("message".to_owned(), message.into());
            record.key_values().visit(&mut OwnFields(&mut fields)).map_err(io::Error::other)?;
            writeln!(out, "{}", serde_json::Value::Object(fields))
        }
    }
}

/// Returns the colour of a level.
fn style(level: Level) -> Style {
    let colour = match level {
        Level::Error => AnsiColor::Red,
        Level::Warn => AnsiColor::Yellow,
        Level::Info => AnsiColor::Green,
        Level::Debug => AnsiColor::Blue,
        Level::Trace => AnsiColor::Cyan,
    };
    colour.on_default()
}

type Fields = serde_json::Map<String, serde_json::Value>;

/// The structured fields of a record.
struct OwnFields<'a>(&'a mut Fields);

impl<'kvs> VisitSource<'kvs> for OwnFields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        self.0.insert(key.to_string(), value.to_string().into());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{BufRead, BufReader, PipeReader, PipeWriter};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    use std::process::{Command, Stdio};

    use rustix::fs::OFlags;

    use super::*;

    /// Makes a full pipe. It is filled through another open file, since O_NONBLOCK would stay set
    /// on this one.
    fn full_pipe() -> (PipeReader, PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        let mut filler = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(format!("/proc/self/fd/{}", writer.as_raw_fd()))
            .unwrap();
        while filler.write(b"filler\n").is_ok() {}
        (reader, writer)
    }

    const CHILD: &str = "TEST_PANICS_WITH_A_STUCK_LOG";

    /// the test runs itself as a child whose standard error is stuck.
    #[test]
    fn panic_is_logged_by_the_queue_without_its_message() {
        if std::env::var_os(CHILD).is_some() {
            start(LevelFilter::Info, LogFormat::Text).unwrap();
            let panics = thread::Builder::new().name("worker".into());
            let panics = panics.spawn(|| panic!("open-sesame")).unwrap();
            assert!(panics.join().is_err());
            println!("went on");
            flush();
            return;
        }
        let name = "cli::log::tests::panic_is_logged_by_the_queue_without_its_message";
        let (log, stderr) = full_pipe();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "")
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("went on")));
        let log: Vec<_> = BufReader::new(log).lines().map_while(Result::ok).collect();
        let panics: Vec<_> = log.iter().filter(|line| line.contains("panicked")).collect();
        assert_eq!(panics.len(), 1, "{panics:?}");
        assert!(panics[0].contains("thread 'worker' panicked at src/cli/log/mod.rs:"));
        assert!(!log.concat().contains("sesame"));
        assert!(child.wait().unwrap().success());
    }

    /// the report of a gap has the form of a record.
    #[test]
    fn report_of_dropped_lines_is_a_record() {
        let text =
            String::from_utf8(dropped_lines(Layout { format: LogFormat::Text, colour: false }, 7))
                .unwrap();
        let (head, message) = text.split_once("] ").unwrap();
        assert!(head.starts_with("[20") && head.ends_with("Z ERROR resttool::cli::log"), "{text}");
        assert_eq!(message, "cannot write the log: dropped 7 lines\n");
        let object = dropped_lines(Layout { format: LogFormat::Json, colour: true }, 7);
        let object: serde_json::Value = serde_json::from_slice(&object).unwrap();
        assert_eq!(object["message"], "cannot write the log: dropped 7 lines");
    }
}
