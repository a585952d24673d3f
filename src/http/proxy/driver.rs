//! The task that drives a connection with the upstream: it writes requests and reads responses.
//!
//! Decides which wake-ups it needs. The HTTP library wakes it for each piece of a response that was
//! taken, although nothing is left to do after the last one, which is the only one of most responses.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Wake, Waker};

/// The wake-ups of a driver. It runs on the thread of its responses, so that nothing but a step of
/// theirs can wake it during that step.
#[derive(Default)]
pub(super) struct DriverWakeups {
    task: OnceLock<Waker>,
    are_held: AtomicBool,
    is_due: AtomicBool,
}

impl DriverWakeups {
    /// Takes a step that may wake the driver. It is woken after the step, if that says so.
    pub(super) fn hold<T>(&self, step: impl FnOnce() -> (T, bool)) -> T {
        self.are_held.store(true, Ordering::Relaxed);
        let (taken, is_needed) = step();
        self.are_held.store(false, Ordering::Relaxed);
        if self.is_due.swap(false, Ordering::Relaxed) && is_needed {
            self.wake_task();
        }
        taken
    }

    fn wake_task(&self) {
        // Without a task, it is about to be polled for the first time.
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }
}

impl Wake for DriverWakeups {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.are_held.load(Ordering::Relaxed) {
            self.is_due.store(true, Ordering::Relaxed);
        } else {
            self.wake_task();
        }
    }
}

/// Drives a connection to its end. Returns its wake-ups, too.
pub(super) fn drive<F: Future>(driver: F) -> (Arc<DriverWakeups>, impl Future<Output = F::Output>) {
    let wakeups = Arc::<DriverWakeups>::default();
    let (own, waker) = (Arc::clone(&wakeups), Waker::from(Arc::clone(&wakeups)));
    let driven = async move {
        let mut driver = pin!(driver);
        poll_fn(|context| {
            let task = own.task.get_or_init(|| context.waker().clone());
            if task.will_wake(context.waker()) {
                driver.as_mut().poll(&mut Context::from_waker(&waker))
            } else {
                // Another task has taken over. It is always woken.
                driver.as_mut().poll(context)
            }
        })
        .await
    };
    (wakeups, driven)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::task::Poll;

    use super::*;
    use crate::http::tests::Wakes;

    fn poll(driven: &mut (impl Future + Unpin), task: &Arc<Wakes>) {
        let polled = pin!(driven).poll(&mut Context::from_waker(&task.waker()));
        assert!(polled.is_pending());
    }

    /// Makes a driver that never ends, and the waker that it got last.
    fn endless() -> (impl Future<Output = ()>, Rc<RefCell<Waker>>) {
        let last = Rc::new(RefCell::new(Waker::noop().clone()));
        let own = Rc::clone(&last);
        let driver = poll_fn(move |context| {
            own.borrow_mut().clone_from(context.waker());
            Poll::Pending
        });
        (driver, last)
    }

    #[test]
    fn driver_is_woken_for_a_step_only_if_it_is_needed() {
        let (driver, waker) = endless();
        let (wakeups, driven) = drive(driver);
        let (task, mut driven) = (Arc::<Wakes>::default(), Box::pin(driven));
        poll(&mut driven, &task);
        let wake = || waker.borrow().wake_by_ref();
        let step = |does_wake: bool, is_needed: bool| {
            let before = task.number();
            wakeups.hold(|| {
                if does_wake {
                    wake();
                    assert_eq!(task.number(), before, "not during the step");
                }
                ((), is_needed)
            });
            task.number() - before
        };
        assert_eq!(step(true, false), 0);
        assert_eq!(step(false, true), 0, "the wake-up of an earlier step is over");
        assert_eq!(step(true, true), 1);
        assert_eq!(step(false, false), 0);
        let before = task.number();
        wake();
        assert_eq!(task.number() - before, 1, "no step holds it");
    }

    #[test]
    fn task_that_takes_over_is_woken() {
        let (driver, waker) = endless();
        let (wakeups, driven) = drive(driver);
        let (first, second) = (Arc::<Wakes>::default(), Arc::<Wakes>::default());
        let mut driven = Box::pin(driven);
        poll(&mut driven, &first);
        poll(&mut driven, &second);
        wakeups.hold(|| (waker.borrow().wake_by_ref(), false));
        assert_eq!((first.number(), second.number()), (0, 1));
        poll(&mut driven, &first);
        waker.borrow().wake_by_ref();
        assert_eq!((first.number(), second.number()), (1, 1));
    }
}
