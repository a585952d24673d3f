//! A clock for timeouts that costs a request nothing: its alarm outlasts the request, and is only
//! set again after it has gone off.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::rt::time::{Sleep, sleep};

/// The ticks of a timeout.
const TICKS: u32 = 4;

/// Limits a time to at least the timeout, and at most a quarter more.
#[derive(Default)]
pub(super) struct Ticker {
    alarm: Option<Pin<Box<Sleep>>>,
    ticks: u32,
}

impl Ticker {
    /// Begins a new time.
    pub(super) fn restart(&mut self) {
        // The first tick may come at once.
        self.ticks = 0;
    }

    /// Returns true if the time is over. Otherwise wakes the task at the next tick.
    pub(super) fn poll_over(&mut self, timeout: Duration, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(timeout / TICKS)));
            if alarm.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.alarm = None;
            self.ticks += 1;
            if self.ticks > TICKS {
                return Poll::Ready(());
            }
        }
    }
}
