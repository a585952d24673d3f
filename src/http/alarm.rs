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

    use tokio::time::advance;

    use super::super::tests::Wakes;
    use super::*;

    const TICK: Duration = Duration::from_secs(1);

    fn poll(alarm: &mut Alarm, task: &Arc<Wakes>) -> bool {
        alarm.poll_tick(TICK, &mut Context::from_waker(&task.waker())).is_ready()
    }

    #[tokio::test(start_paused = true)]
    async fn alarm_wakes_the_task_that_has_asked_last() {
        let (first, second) = (Arc::new(Wakes::default()), Arc::new(Wakes::default()));
        let mut alarm = Alarm::default();
        for n in 1..=3 {
            assert!(!poll(&mut alarm, &first));
            assert!(!poll(&mut alarm, &first));
            assert!(!poll(&mut alarm, &second), "another task took over");
            advance(TICK - Duration::from_millis(10)).await;
            assert!(!poll(&mut alarm, &second), "the tick is not over");
            assert_eq!(second.number(), n - 1);
            advance(Duration::from_millis(20)).await;
            assert_eq!((first.number(), second.number()), (0, n));
            assert!(poll(&mut alarm, &second), "the tick is over");
        }
    }
}
