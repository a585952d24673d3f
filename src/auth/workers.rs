//! A fixed number of threads behind a bounded queue, for jobs that take long.
//!
//! The workers have the lowest priority of the system, so that a request thread never waits for a
//! worker to yield a core. Knows nothing of the jobs.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::process::setpriority_process;

type WorkerJob = Box<dyn FnOnce() + Send>;

/// The niceness of the workers. setpriority(2) knows no lower priority.
const NICE: i32 = 19;

/// The worker threads. Dropping them finishes the running and the queued jobs first.
pub(super) struct Workers {
    queue: Arc<JobQueue>,
    threads: Vec<JoinHandle<()>>,
}

/// The reason why a job was rejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotTaken {
    /// The queue is full.
    Full,
    /// No worker is left.
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
    /// The workers end as soon as the queue is empty.
    closed: bool,
    alive: usize,
}

impl Workers {
    /// Starts the workers.
    ///
    /// # Errors
    /// Fails if the system gives no threads.
    pub(super) fn start(threads: NonZeroUsize) -> io::Result<Self> {
        let mut workers = Self { queue: Arc::default(), threads: Vec::new() };
        for n in 0..threads.get() {
            workers.queue.state().alive += 1;
            let alive = Alive(Arc::clone(&workers.queue));
            let thread = thread::Builder::new().name(format!("hash-{n}"));
            // If a thread fails to start, dropping `workers` ends the threads before it.
            workers.threads.push(thread.spawn(move || work(&alive.0))?);
        }
        Ok(workers)
    }

    /// Queues a job, unless `most` jobs are queued already. Jobs that are still queued when the
    /// last worker ends are dropped.
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

    /// Ends the workers, and returns when they have finished the running and the queued jobs. Later
    /// jobs are rejected.
    pub(super) fn finish(&self) {
        let mut state = self.queue.state();
        state.closed = true;
        self.queue.changed.notify_all();
        while state.alive > 0 {
            state = self.queue.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns the number of workers.
    pub(super) fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Returns the number of queued jobs.
    pub(super) fn waiting(&self) -> usize {
        self.queue.state().jobs.len()
    }
}

impl JobQueue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the next job, and waits for one. Returns `None` after [`Workers::finish`], when the
    /// queue is empty.
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

/// A guard that counts a worker as alive.
struct Alive(Arc<JobQueue>);

impl Drop for Alive {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.alive -= 1;
        self.0.changed.notify_all();
        if state.alive == 0 {
            // The remaining jobs never run. Dropping them tells the requests that wait for them.
            // The lock is released first, because dropping a job runs code of the caller.
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
            // A worker catches the panics of its jobs, so it has none of its own to report.
            let _ = thread.join();
        }
    }
}

fn work(queue: &JobQueue) {
    // On Linux, this changes the priority of the calling thread only (setpriority(2)).
    if let Err(e) = setpriority_process(None, NICE) {
        log::warn!("cannot lower the priority of a hash worker: {e}");
    }
    while let Some(job) = queue.next() {
        // A panic loses the answer of one job, and the worker goes on. The panic hook has reported
        // it.
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

    /// Runs `work` on a worker, and returns its result.
    fn run<T: Send + 'static>(workers: &Workers, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, is_done) = channel();
        workers.submit(usize::MAX, move || done.send(work()).unwrap()).unwrap();
        is_done.recv().unwrap()
    }

    /// P-18
    #[test]
    fn panic_loses_the_answer_and_keeps_the_worker() {
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
    fn full_queue_rejects_the_next_job() {
        let workers = one_worker();
        let (begun, has_begun) = channel();
        let (go_on, may_go_on) = channel::<()>();
        workers.submit(0, || ()).expect_err("a queue of 0 jobs is full");
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
    fn job_is_rejected_without_a_worker() {
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
    fn finishing_waits_for_running_and_queued_jobs() {
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
        assert_eq!(Arc::strong_count(&held), 1, "both jobs have ended");
    }
}
