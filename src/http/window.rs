//! How much content of a request is read before something takes it.
//!
//! The HTTP library reads while there is room in its buffers, which grow to 128 KiB and more for
//! each connection. Here a connection reads one window of content, and the next one when all of it
//! was taken. Decides nothing about time, and knows no bytes.

use std::cell::Cell;
use std::task::{Context, Poll, Waker};

/// The content that is read ahead of its receiver, in bytes. The last read may exceed it.
pub(super) const WINDOW: usize = 32 * 1024;

/// The window of the content of one request at a time.
pub(super) struct ReceiveWindow {
    left: Cell<usize>,
    /// The task that waits for the next window.
    reader: Cell<Option<Waker>>,
}

impl Default for ReceiveWindow {
    fn default() -> Self {
        Self { left: Cell::new(WINDOW), reader: Cell::default() }
    }
}

impl ReceiveWindow {
    /// Records content that was read.
    pub(super) fn read(&self, bytes: usize) {
        self.left.set(self.left.get().saturating_sub(bytes));
    }

    /// Waits until content may be read.
    pub(super) fn poll_open(&self, context: &Context<'_>) -> Poll<()> {
        if self.left.get() > 0 {
            return Poll::Ready(());
        }
        self.reader.set(Some(context.waker().clone()));
        Poll::Pending
    }

    /// Records that all content was taken, or that another request begins.
    pub(super) fn reopen(&self) {
        self.left.set(WINDOW);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}
