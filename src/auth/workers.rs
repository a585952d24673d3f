//! A fixed number of threads for work that takes long, behind a bounded queue. What the work is, they
//! don't know.

use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// The threads. Dropped, they finish what they are at and what is queued, and end.
pub(super) struct Workers {
    /// `None` only while being dropped.
    queue: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// Why there is no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lost {
    /// The queue was full, and the work was not begun.
    Full,
    /// The work panicked, or no worker is left.
    Died,
}

impl Workers {
    /// # Errors
    /// When the system gives no more threads.
    pub(super) fn start(threads: NonZeroUsize, queue: usize) -> io::Result<Self> {
        let (sender, jobs) = sync_channel::<Job>(queue);
        let jobs = Arc::new(Mutex::new(jobs));
        let threads = (0..threads.get())
            .map(|n| {
                let jobs = Arc::clone(&jobs);
                thread::Builder::new().name(format!("hash-{n}")).spawn(move || work(&jobs))
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { queue: Some(sender), threads })
    }

    /// Has `work` done by one of the threads. It is skipped if nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let (reply, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            if !reply.is_closed() {
                // Nobody may wait for it any more by now: then it is dropped.
                let _ = reply.send(work());
            }
        });
        match self.queue.as_ref().map(|queue| queue.try_send(job)) {
            Some(Ok(())) => result.await.map_err(|_| Lost::Died),
            Some(Err(TrySendError::Full(_))) => Err(Lost::Full),
            Some(Err(TrySendError::Disconnected(_))) | None => Err(Lost::Died),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            // It catches the panics of its work, so it has none of its own to report.
            let _ = thread.join();
        }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        // One waits for the queue, the others for the lock: either way for work.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // A panic costs the one who asked their answer, not the others their worker. It has been
        // reported by the panic hook.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::mpsc::channel;
    use std::task::{Context, Poll, Waker};

    use futures_executor::block_on;

    use super::*;

    fn one_worker(queue: usize) -> Workers {
        Workers::start(NonZeroUsize::MIN, queue).unwrap()
    }

    /// P-18
    #[test]
    fn a_panic_loses_the_answer_and_not_the_worker() {
        let workers = one_worker(1);
        let lost = block_on(workers.run(|| panic!("on purpose")));
        assert_eq!(lost, Err::<(), _>(Lost::Died));
        assert_eq!(block_on(workers.run(|| 7)), Ok(7));
    }

    #[test]
    fn the_queue_is_bounded_and_what_nobody_waits_for_is_skipped() {
        let workers = one_worker(1);
        let (begun, has_begun) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let mut idle = Context::from_waker(Waker::noop());

        let mut first = pin!(workers.run(move || {
            begun.send(()).unwrap();
            may_go_on.recv().unwrap();
        }));
        assert_eq!(first.as_mut().poll(&mut idle), Poll::Pending);
        has_begun.recv().unwrap();
        {
            let mut queued = pin!(workers.run(|| panic!("nobody waits for this")));
            assert_eq!(queued.as_mut().poll(&mut idle), Poll::<Result<(), _>>::Pending);
            assert_eq!(block_on(workers.run(|| ())), Err(Lost::Full));
        }
        go_on.send(()).unwrap();
        assert_eq!(block_on(first), Ok(()));
    }

    #[test]
    fn dropping_the_workers_waits_for_what_they_are_at() {
        let workers = one_worker(1);
        let (begun, has_begun) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let held = Arc::new(());
        let holds = Arc::clone(&held);
        let mut work = Box::pin(workers.run(move || {
            begun.send(()).unwrap();
            may_go_on.recv().unwrap();
            drop(holds);
        }));
        let mut idle = Context::from_waker(Waker::noop());
        assert_eq!(work.as_mut().poll(&mut idle), Poll::Pending);
        has_begun.recv().unwrap();
        drop(work);
        go_on.send(()).unwrap();
        drop(workers);
        assert_eq!(Arc::strong_count(&held), 1, "the work has ended");
    }
}
