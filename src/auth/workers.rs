//! A fixed number of threads for work that takes long, behind a bounded queue. What the work is, they
//! don't know.
//!
//! They have the lowest priority there is: a thread that handles requests never waits for one of them to give
//! up a core.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::process::setpriority_process;

type WorkerJob = Box<dyn FnOnce() + Send>;

/// The niceness of the workers: setpriority(2) knows no lower priority.
const NICE: i32 = 19;

/// The threads. Dropped, they finish what they are at and what is queued, and end.
pub(super) struct Workers {
    queue: Arc<JobQueue>,
    threads: Vec<JoinHandle<()>>,
}

/// Why a job was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotTaken {
    /// There was no room in the queue.
    Full,
    /// No thread is left.
    Dead,
}

#[derive(Default)]
struct JobQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    jobs: VecDeque<WorkerJob>,
    /// No more jobs are done than those that wait.
    closed: bool,
    alive: usize,
}

impl Workers {
    /// # Errors
    /// When the system gives no more threads.
    pub(super) fn start(threads: NonZeroUsize) -> io::Result<Self> {
        let mut workers = Self { queue: Arc::default(), threads: Vec::new() };
        for n in 0..threads.get() {
            workers.queue.state().alive += 1;
            let alive = Alive(Arc::clone(&workers.queue));
            let thread = thread::Builder::new().name(format!("hash-{n}"));
            // When one fails to start, those before it are ended by the drop.
            workers.threads.push(thread.spawn(move || work(&alive.0))?);
        }
        Ok(workers)
    }

    /// Has a job done by one of the threads, unless `most` wait already. What still waits when the last thread ends is
    /// dropped.
    pub(super) fn submit(
        &self,
        most: usize,
        job: impl FnOnce() + Send + 'static,
    ) -> Result<(), NotTaken> {
        let mut state = self.queue.state();
        if state.alive == 0 {
            return Err(NotTaken::Dead);
        }
        if state.jobs.len() >= most {
            return Err(NotTaken::Full);
        }
        state.jobs.push_back(Box::new(job));
        drop(state);
        self.queue.changed.notify_one();
        Ok(())
    }

    /// Ends the threads, and returns when they have done what they were at and what was queued. No job is taken any more.
    pub(super) fn finish(&self) {
        let mut state = self.queue.state();
        state.closed = true;
        self.queue.changed.notify_all();
        while state.alive > 0 {
            state = self.queue.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How many threads there are.
    pub(super) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// How many jobs wait for a thread.
    pub(super) fn waiting(&self) -> usize {
        self.queue.state().jobs.len()
    }
}

impl JobQueue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; waits for one. `None` when there will be none any more.
    fn next(&self) -> Option<WorkerJob> {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A thread that lives.
struct Alive(Arc<JobQueue>);

impl Drop for Alive {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.alive -= 1;
        self.0.changed.notify_all();
        if state.alive == 0 {
            // Nobody will do them; who waits for them is to know. They are dropped outside of the lock, since that
            // is foreign code.
            let left = std::mem::take(&mut state.jobs);
            drop(state);
            drop(left);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.finish();
        for thread in self.threads.drain(..) {
            // It catches the panics of its work, so it has none of its own to report.
            let _ = thread.join();
        }
    }
}

fn work(queue: &JobQueue) {
    // Of this thread alone: setpriority(2) says so for Linux.
    if let Err(e) = setpriority_process(None, NICE) {
        log::warn!("cannot lower the priority of a hash worker: {e}");
    }
    while let Some(job) = queue.next() {
        // A panic costs the one who asked their answer, not the others their worker. It has been
        // reported by the panic hook.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use rustix::process::getpriority_process;

    use super::*;

    fn one_worker() -> Workers {
        Workers::start(NonZeroUsize::MIN).unwrap()
    }

    /// Has `work` done, and gives what it gave.
    fn run<T: Send + 'static>(workers: &Workers, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, is_done) = channel();
        workers.submit(usize::MAX, move || done.send(work()).unwrap()).unwrap();
        is_done.recv().unwrap()
    }

    /// P-18
    #[test]
    fn a_panic_loses_the_answer_and_not_the_worker() {
        let workers = one_worker();
        let (held, dropped) = channel::<()>();
        workers
            .submit(1, move || {
                let _held = held;
                panic!("on purpose")
            })
            .unwrap();
        dropped.recv().unwrap_err();
        assert_eq!(run(&workers, || 7), 7);
    }

    /// B-04
    #[test]
    fn the_queue_is_bounded() {
        let workers = one_worker();
        let (begun, has_begun) = channel();
        let (go_on, may_go_on) = channel::<()>();
        workers.submit(0, || ()).expect_err("a queue of none is full");
        workers
            .submit(1, move || {
                begun.send(()).unwrap();
                may_go_on.recv().unwrap();
            })
            .unwrap();
        has_begun.recv().unwrap();
        for n in 0..3 {
            assert_eq!(workers.waiting(), n);
            workers.submit(3, || ()).unwrap();
        }
        assert_eq!(workers.submit(3, || ()), Err(NotTaken::Full));
        go_on.send(()).unwrap();
        run(&workers, || ());
        assert_eq!(workers.waiting(), 0);
    }

    /// P-18
    #[test]
    fn without_a_thread_a_job_is_not_taken() {
        let workers = one_worker();
        workers.finish();
        let (held, dropped) = channel::<()>();
        assert_eq!(workers.submit(1, move || drop(held)), Err(NotTaken::Dead));
        dropped.recv().unwrap_err();
        assert_eq!(workers.waiting(), 0);
    }

    #[test]
    fn workers_give_way_to_all_other_threads() {
        let ours = getpriority_process(None).unwrap();
        assert_eq!(run(&one_worker(), || getpriority_process(None).unwrap()), NICE);
        assert_eq!(getpriority_process(None).unwrap(), ours);
    }

    #[test]
    fn finishing_waits_for_what_they_are_at_and_for_the_queue() {
        let workers = one_worker();
        let (begun, has_begun) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let held = Arc::new(());
        let holds = [Arc::clone(&held), Arc::clone(&held)];
        let [first, second] = holds;
        workers
            .submit(2, move || {
                begun.send(()).unwrap();
                may_go_on.recv().unwrap();
                drop(first);
            })
            .unwrap();
        has_begun.recv().unwrap();
        workers.submit(2, move || drop(second)).unwrap();
        go_on.send(()).unwrap();
        workers.finish();
        assert_eq!(Arc::strong_count(&held), 1, "the work has ended");
    }
}
