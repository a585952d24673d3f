//! A fixed number of threads behind a bounded queue, for jobs that compute hashes.
//!
//! A free worker takes several jobs at once if more wait than there are free workers, since a thread
//! computes up to [`LANES`] hashes in little more time than one. A job that comes alone is taken at
//! once and alone.
//!
//! The workers have the lowest priority of the system, so that a request thread never waits for a
//! worker to yield a core. Knows nothing of the jobs but the number of their hashes.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::process::setpriority_process;

use crate::hashing::LANES;

/// The niceness of the workers. setpriority(2) knows no lower priority.
const NICE: i32 = 19;

/// A job for a worker.
pub(super) trait WorkerJob: Send + 'static {
    /// Returns the number of hashes to compute.
    fn hashes(&self) -> usize;
}

/// The worker threads. Dropping them finishes the running and the queued jobs first.
pub(super) struct Workers<J> {
    queue: Arc<JobQueue<J>>,
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

struct JobQueue<J> {
    state: Mutex<QueueState<J>>,
    changed: Condvar,
}

struct QueueState<J> {
    jobs: VecDeque<J>,
    /// The workers end as soon as the queue is empty.
    closed: bool,
    alive: usize,
    /// The workers that wait for a job.
    idle: usize,
}

impl<J: WorkerJob> Workers<J> {
    /// Starts the workers. Each calls `work` with up to four jobs, the oldest first.
    ///
    /// # Errors
    /// Fails if the system gives no threads.
    pub(super) fn start(
        threads: NonZeroUsize,
        work: impl Fn(Vec<J>) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let state = QueueState { jobs: VecDeque::new(), closed: false, alive: 0, idle: 0 };
        let queue = Arc::new(JobQueue { state: Mutex::new(state), changed: Condvar::new() });
        let mut workers = Self { queue, threads: Vec::new() };
        let work = Arc::new(work);
        for n in 0..threads.get() {
            workers.queue.state().alive += 1;
            let (alive, work) = (Alive(Arc::clone(&workers.queue)), Arc::clone(&work));
            let thread = thread::Builder::new().name(format!("hash-{n}"));
            // If a thread fails to start, dropping `workers` ends the threads before it.
            workers.threads.push(thread.spawn(move || run(&alive.0, &*work))?);
        }
        Ok(workers)
    }

    /// Queues a job, unless `most` jobs are queued already. Jobs that are still queued when the
    /// last worker ends are dropped.
    pub(super) fn submit(&self, most: usize, job: J) -> Result<(), NotTaken> {
        let mut state = self.queue.state();
        if state.alive == 0 {
            return Err(NotTaken::Dead);
        }
        if state.jobs.len() >= most {
            return Err(NotTaken::Full);
        }
        state.jobs.push_back(job);
        drop(state);
        self.queue.changed.notify_one();
        Ok(())
    }
}

impl<J> Workers<J> {
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

impl<J> JobQueue<J> {
    fn state(&self) -> MutexGuard<'_, QueueState<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J: WorkerJob> JobQueue<J> {
    /// Returns the next jobs, and waits for one. Returns `None` after [`Workers::finish`], when the
    /// queue is empty.
    fn next(&self) -> Option<Vec<J>> {
        let mut state = self.state();
        loop {
            if !state.jobs.is_empty() {
                return Some(state.take());
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

impl<J: WorkerJob> QueueState<J> {
    /// Takes a share of the jobs, the oldest first. The idle workers get the same share, and their
    /// hashes fit into the lanes of one thread.
    fn take(&mut self) -> Vec<J> {
        let share = self.jobs.len().div_ceil(self.idle + 1).min(LANES);
        let mut hashes = 0;
        let fitting = self.jobs.iter().take(share).take_while(|job| {
            hashes += job.hashes();
            hashes <= LANES
        });
        let fitting = fitting.count().max(1);
        self.jobs.drain(..fitting).collect()
    }
}

/// A guard that counts a worker as alive.
struct Alive<J>(Arc<JobQueue<J>>);

impl<J> Drop for Alive<J> {
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

impl<J> Drop for Workers<J> {
    fn drop(&mut self) {
        self.finish();
        for thread in self.threads.drain(..) {
            // A worker catches the panics of its jobs, so it has none of its own to report.
            let _ = thread.join();
        }
    }
}

fn run<J: WorkerJob>(queue: &JobQueue<J>, work: &impl Fn(Vec<J>)) {
    // On Linux, this changes the priority of the calling thread only (setpriority(2)).
    if let Err(e) = setpriority_process(None, NICE) {
        log::warn!("cannot lower the priority of a hash worker: {e}");
    }
    while let Some(jobs) = queue.next() {
        // A panic loses the answers of these jobs, and the worker goes on. The panic hook has
        // reported it.
        let _ = catch_unwind(AssertUnwindSafe(|| work(jobs)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use rustix::process::getpriority_process;

    use super::*;

    /// A job of some hashes.
    struct Job {
        hashes: usize,
        run: Box<dyn FnOnce() + Send>,
    }

    impl WorkerJob for Job {
        fn hashes(&self) -> usize {
            self.hashes
        }
    }

    fn job(run: impl FnOnce() + Send + 'static) -> Job {
        Job { hashes: 1, run: Box::new(run) }
    }

    fn workers(threads: usize) -> Workers<Job> {
        let threads = NonZeroUsize::new(threads).unwrap();
        Workers::start(threads, |jobs: Vec<Job>| jobs.into_iter().for_each(|job| (job.run)()))
            .unwrap()
    }

    fn one_worker() -> Workers<Job> {
        workers(1)
    }

    /// Runs `work` on a worker, and returns its result.
    fn run<T: Send + 'static>(
        workers: &Workers<Job>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let (done, is_done) = channel();
        workers.submit(usize::MAX, job(move || done.send(work()).unwrap())).unwrap();
        is_done.recv().unwrap()
    }

    /// Makes a job that keeps its worker busy, and waits until it has begun.
    fn occupy(workers: &Workers<Job>) -> Sender<()> {
        let (begun, has_begun) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let busy = job(move || {
            begun.send(()).unwrap();
            // The test may have ended.
            let _ = may_go_on.recv();
        });
        workers.submit(usize::MAX, busy).unwrap();
        has_begun.recv().unwrap();
        go_on
    }

    /// P-18
    #[test]
    fn panic_loses_the_answer_and_keeps_the_worker() {
        let workers = one_worker();
        let (held, dropped) = channel::<()>();
        let panics = job(move || {
            let _held = held;
            panic!("on purpose")
        });
        workers.submit(1, panics).unwrap();
        dropped.recv().unwrap_err();
        assert_eq!(run(&workers, || 7), 7);
    }

    /// B-04
    #[test]
    fn full_queue_rejects_the_next_job() {
        let workers = one_worker();
        let full = workers.submit(0, job(|| ()));
        assert_eq!(full, Err(NotTaken::Full), "a queue of 0 jobs is full");
        let go_on = occupy(&workers);
        for n in 0..3 {
            assert_eq!(workers.waiting(), n);
            workers.submit(3, job(|| ())).unwrap();
        }
        assert_eq!(workers.submit(3, job(|| ())), Err(NotTaken::Full));
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
        assert_eq!(workers.submit(1, job(move || drop(held))), Err(NotTaken::Dead));
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
        let go_on = occupy(&workers);
        let held = Arc::new(());
        let queued = Arc::clone(&held);
        workers.submit(2, job(move || drop(queued))).unwrap();
        go_on.send(()).unwrap();
        workers.finish();
        assert_eq!(Arc::strong_count(&held), 1, "the queued job has ended");
    }

    /// A worker whose batches the test sees, and can hold.
    struct Observed {
        // Dropped first, so that a failed test does not wait for a held batch.
        go_on: Sender<()>,
        workers: Workers<Job>,
        batches: Receiver<usize>,
    }

    impl Observed {
        fn start() -> Self {
            let (seen, batches) = channel();
            let (go_on, may_go_on) = channel::<()>();
            let may_go_on = Mutex::new(may_go_on);
            let work = move |jobs: Vec<Job>| {
                seen.send(jobs.len()).unwrap();
                let _ = may_go_on.lock().unwrap().recv();
            };
            let workers = Workers::start(NonZeroUsize::MIN, work).unwrap();
            Self { go_on, workers, batches }
        }

        /// Returns the sizes of the batches of these jobs, which wait while another one runs.
        fn batches_of(&self, hashes: &[usize]) -> Vec<usize> {
            let submit = |hashes| {
                self.workers.submit(usize::MAX, Job { hashes, run: Box::new(|| ()) }).unwrap();
            };
            submit(1);
            assert_eq!(self.batches.recv().unwrap(), 1, "a job alone does not wait for others");
            hashes.iter().copied().for_each(submit);
            let mut sizes = Vec::new();
            while sizes.iter().sum::<usize>() < hashes.len() {
                self.go_on.send(()).unwrap();
                sizes.push(self.batches.recv().unwrap());
            }
            self.go_on.send(()).unwrap();
            sizes
        }
    }

    /// H-11
    #[test]
    fn worker_takes_waiting_jobs_of_up_to_four_hashes() {
        let observed = Observed::start();
        for (hashes, batches) in [
            (&[1][..], &[1][..]),
            (&[1; 4], &[4]),
            (&[1; 9], &[4, 4, 1]),
            (&[2; 3], &[2, 1]),
            (&[1, 2, 2, 1, 1], &[2, 3]),
            (&[1, 1, 1, 2], &[3, 1]),
            (&[5, 1], &[1, 1]),
        ] {
            assert_eq!(observed.batches_of(hashes), batches, "{hashes:?}");
        }
    }

    /// H-11: with one job for each worker, none waits in a lane.
    #[test]
    fn idle_workers_get_a_job_each_before_lanes_are_filled() {
        let share = |jobs: usize, idle| {
            let jobs = (0..jobs).map(|_| job(|| ())).collect();
            QueueState { jobs, closed: false, alive: idle + 1, idle }.take().len()
        };
        for (jobs, idle, expected) in
            [(1, 0, 1), (2, 1, 1), (3, 1, 2), (4, 3, 1), (5, 3, 2), (9, 1, 4), (4, 0, 4)]
        {
            assert_eq!(share(jobs, idle), expected, "{jobs} jobs, {idle} idle workers");
        }
    }
}
