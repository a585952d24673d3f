//! A bounded queue of lines in front of a writer that may block.
//!
//! A thread that logs never waits for the reader of the log. A line that finds the queue full is
//! dropped and counted. Knows neither records nor standard error.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The queue. Clones share it.
#[derive(Clone)]
pub(super) struct LogQueue(Arc<LogBuffer>);

struct LogBuffer {
    /// In bytes.
    capacity: usize,
    state: Mutex<BufferState>,
    /// There is something to write.
    filled: Condvar,
    /// There is nothing to write.
    idle: Condvar,
    /// The number of all dropped lines.
    all_dropped: AtomicU64,
}

#[derive(Default)]
struct BufferState {
    lines: Vec<Vec<u8>>,
    /// The memory of `lines`, in bytes.
    size: usize,
    /// The number of lines dropped after the last of `lines`.
    dropped: u64,
    /// The thread is writing the lines that it took.
    writing: bool,
}

impl BufferState {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.dropped == 0
    }
}

impl LogQueue {
    /// Starts a thread that calls `write` for each line, in order. A line for which `write` fails
    /// counts as dropped. After a gap, `write` gets the line that `report` makes of the number of
    /// dropped lines, as soon as it succeeds.
    ///
    /// Waiting lines take at most `capacity` bytes of memory, and so do the lines that the thread
    /// is writing.
    ///
    /// # Errors
    /// Fails if the system gives no thread.
    pub(super) fn start(
        capacity: usize,
        write: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
        report: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(LogBuffer {
            capacity,
            state: Mutex::default(),
            filled: Condvar::new(),
            idle: Condvar::new(),
            all_dropped: AtomicU64::new(0),
        });
        let queue = Self(Arc::clone(&shared));
        let mut writer = Writer { write, report, lost: 0 };
        thread::Builder::new().name("log".into()).spawn(move || {
            loop {
                let (lines, dropped) = shared.take();
                writer.write_all(&lines, dropped);
            }
        })?;
        Ok(queue)
    }

    /// Appends a line, or drops it if the queue is full. Never waits for `write`.
    pub(super) fn push(&self, line: &[u8]) {
        let size = line.len() + size_of::<Vec<u8>>();
        let mut state = self.0.state();
        // After the first dropped line, all lines are dropped until the thread takes the queue. So
        // the gap has one position.
        if state.dropped > 0 || state.size + size > self.0.capacity {
            state.dropped += 1;
            self.0.all_dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.lines.push(line.to_vec());
        state.size += size;
        drop(state);
        self.0.filled.notify_one();
    }

    /// Returns the number of lines that were dropped because the queue was full.
    pub(super) fn dropped(&self) -> u64 {
        self.0.all_dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written or reported, for at most `limit`. Returns false if the
    /// limit is reached.
    pub(super) fn flush_within(&self, limit: Duration) -> bool {
        let pending = |state: &mut BufferState| state.writing || !state.is_empty();
        let waited = self.0.idle.wait_timeout_while(self.0.state(), limit, pending);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// The interface for loggers. Each call of `write` appends one line.
impl io::Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogBuffer {
    fn state(&self) -> MutexGuard<'_, BufferState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the lines taken before as written, and waits for new ones. Takes all of them, with the
    /// number of lines that were dropped after them.
    fn take(&self) -> (Vec<Vec<u8>>, u64) {
        let mut state = self.state();
        state.writing = false;
        if state.is_empty() {
            self.idle.notify_all();
        }
        let mut state = self
            .filled
            .wait_while(state, |state| state.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        state.writing = true;
        state.size = 0;
        (std::mem::take(&mut state.lines), std::mem::take(&mut state.dropped))
    }
}

struct Writer<W, R> {
    write: W,
    report: R,
    /// The number of lines that are neither written nor reported.
    lost: u64,
}

impl<W: FnMut(&[u8]) -> io::Result<()>, R: Fn(u64) -> Vec<u8>> Writer<W, R> {
    fn write_all(&mut self, lines: &[Vec<u8>], dropped: u64) {
        for line in lines {
            self.report_lost();
            if (self.write)(line).is_err() {
                self.lost += 1;
            }
        }
        self.lost += dropped;
        self.report_lost();
    }

    fn report_lost(&mut self) {
        if self.lost > 0 && (self.write)(&(self.report)(self.lost)).is_ok() {
            self.lost = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A time that no passing test waits.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// The reader of the log. `write` sends each line to the test, and waits until the test lets it
    /// go on.
    struct Reader {
        lines: Receiver<String>,
        go_on: Sender<()>,
        broken: Arc<AtomicBool>,
    }

    impl Reader {
        fn start(capacity: usize) -> (LogQueue, Self) {
            let (line, lines) = channel();
            let (go_on, may_go_on) = channel::<()>();
            let broken = Arc::new(AtomicBool::new(false));
            let fails = Arc::clone(&broken);
            let write = move |bytes: &[u8]| {
                if fails.load(Ordering::SeqCst) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                line.send(String::from_utf8(bytes.to_vec()).unwrap()).map_err(io::Error::other)?;
                may_go_on.recv().map_err(io::Error::other)
            };
            let report = |dropped| format!("{dropped} dropped").into_bytes();
            (LogQueue::start(capacity, write, report).unwrap(), Self { lines, go_on, broken })
        }

        /// Returns the line that is being written.
        fn sees(&self) -> String {
            self.lines.recv_timeout(PATIENCE).unwrap()
        }

        /// Returns the line that is being written, and lets `write` go on.
        fn reads(&self) -> String {
            let line = self.sees();
            self.go_on.send(()).unwrap();
            line
        }
    }

    fn line(n: usize) -> String {
        format!("line {n:04}")
    }

    /// The memory of one `line`.
    const SIZE: usize = "line 0000".len() + size_of::<Vec<u8>>();

    ///
    #[test]
    fn lines_are_written_in_order() {
        let (queue, reader) = Reader::start(1000 * SIZE);
        for n in 0..1000 {
            queue.push(line(n).as_bytes());
        }
        for n in 0..1000 {
            assert_eq!(reader.reads(), line(n));
        }
        assert!(queue.flush_within(PATIENCE));
    }

    /// without a reader, the queue is bounded and a push returns. Later lines come after the
    /// report.
    #[test]
    fn full_queue_drops_lines_and_reports_their_number() {
        let (queue, reader) = Reader::start(3 * SIZE);
        queue.push(line(0).as_bytes());
        assert_eq!(reader.sees(), line(0), "the first line is taken, and the queue is empty");
        for n in 1..10_000 {
            queue.push(line(n).as_bytes());
        }
        assert_eq!(queue.0.state().lines.len(), 3);
        // The line would fit, but it belongs after the gap.
        queue.push(b"");
        reader.go_on.send(()).unwrap();
        for n in 1..=3 {
            assert_eq!(reader.reads(), line(n));
        }
        assert_eq!(reader.sees(), "9997 dropped");
        queue.push(b"after");
        reader.go_on.send(()).unwrap();
        assert_eq!(reader.reads(), "after");
        assert!(queue.flush_within(PATIENCE));
    }

    /// a closed pipe or a full disk.
    #[test]
    fn lines_that_cannot_be_written_are_reported_once_they_can() {
        let (queue, reader) = Reader::start(1000 * SIZE);
        reader.broken.store(true, Ordering::SeqCst);
        for n in 0..5 {
            queue.push(line(n).as_bytes());
            assert!(queue.flush_within(PATIENCE), "the thread does not try again by itself");
        }
        reader.broken.store(false, Ordering::SeqCst);
        queue.push(b"after");
        assert_eq!(reader.reads(), "5 dropped");
        assert_eq!(reader.reads(), "after");
    }

    ///
    #[test]
    fn flush_gives_up_after_its_limit() {
        let (queue, reader) = Reader::start(1000 * SIZE);
        assert!(queue.flush_within(Duration::ZERO), "there is nothing to wait for");
        queue.push(b"stuck");
        assert_eq!(reader.sees(), "stuck");
        assert!(!queue.flush_within(Duration::from_millis(1)));
        reader.go_on.send(()).unwrap();
        assert!(queue.flush_within(PATIENCE));
    }
}
