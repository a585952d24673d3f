//! The time until a response, which is limited at no cost for a request: the alarm belongs to the
//! connection of the client, and outlasts the request.

use std::cell::RefCell;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::http::alarm::Alarm;

/// The ticks of a limit.
const TICKS: u32 = 4;

/// The clock of a connection with a client, for one request after the other.
#[derive(Default)]
pub(super) struct ResponseClock(RefCell<Ticker>);

#[derive(Default)]
struct Ticker {
    alarm: Alarm,
    ticks: u32,
}

impl ResponseClock {
    /// Begins a new time.
    pub(super) fn restart(&self) {
        // The first tick may come at once.
        self.0.borrow_mut().ticks = 0;
    }

    /// Returns true if the time is over: at least `limit`, and at most a quarter more. Otherwise
    /// wakes the task at the next tick.
    pub(super) fn poll_over(&self, limit: Duration, context: &mut Context<'_>) -> Poll<()> {
        let Ticker { alarm, ticks } = &mut *self.0.borrow_mut();
        while alarm.poll_tick(limit / TICKS, context).is_ready() {
            *ticks += 1;
            if *ticks > TICKS {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}
