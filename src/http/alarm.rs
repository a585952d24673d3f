//! An alarm that goes off again and again, for timeouts that cost a request nothing.
//!
//! Decides when a tick is over, and not what follows from it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_web::rt::time::{Sleep, sleep};

/// A clock that ticks while it is looked at.
#[derive(Default)]
pub(super) struct Alarm(Option<Tick>);

struct Tick {
    sleep: Pin<Box<Sleep>>,
    /// The task that the end of this tick wakes.
    waker: Waker,
}

impl Alarm {
    /// Waits for the end of a tick, which begins with the first call after the previous one.
    /// Otherwise wakes the task then.
    pub(super) fn poll_tick(&mut self, tick: Duration, context: &mut Context<'_>) -> Poll<()> {
        // Timers are slow to ask. One that has not gone off, and will wake this task, need not be.
        if let Some(Tick { sleep, waker }) = &self.0
            && !sleep.is_elapsed()
            && waker.will_wake(context.waker())
        {
            return Poll::Pending;
        }
        let mut sleep = match self.0.take() {
            Some(tick) => tick.sleep,
            None => Box::pin(sleep(tick)),
        };
        if sleep.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        self.0 = Some(Tick { sleep, waker: context.waker().clone() });
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use tokio::time::advance;

    use super::*;

    const TICK: Duration = Duration::from_secs(1);

    #[derive(Default)]
    struct Wakes(AtomicU32);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Wakes {
        fn poll(self: &Arc<Self>, alarm: &mut Alarm) -> bool {
            let waker = Waker::from(Arc::clone(self));
            alarm.poll_tick(TICK, &mut Context::from_waker(&waker)).is_ready()
        }

        fn number(&self) -> u32 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn alarm_wakes_the_task_that_has_asked_last() {
        let (first, second) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
        let mut alarm = Alarm::default();
        for n in 1..=3 {
            assert!(!first.poll(&mut alarm));
            assert!(!first.poll(&mut alarm));
            assert!(!second.poll(&mut alarm), "another task took over");
            advance(TICK - Duration::from_millis(10)).await;
            assert!(!second.poll(&mut alarm), "the tick is not over");
            assert_eq!(second.number(), n - 1);
            advance(Duration::from_millis(20)).await;
            assert_eq!((first.number(), second.number()), (0, n));
            assert!(second.poll(&mut alarm), "the tick is over");
        }
    }
}
