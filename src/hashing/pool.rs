//! Hashing for commands: many hashes on several threads.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::HashingError;

/// Runs `job` for each of `jobs` on up to `threads` threads, the caller's included. Returns the
/// results in the order in which they were ready.
///
/// Calls `progress` from these threads with the number of finished jobs and the number of all jobs.
///
/// # Errors
/// Fails with the error of a job, or if one panics.
pub(crate) fn run<J: Sync, R: Send>(
    jobs: &[J],
    threads: NonZeroUsize,
    job: impl Fn(&J) -> Result<R, HashingError> + Sync,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<R>, HashingError> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(jobs.len())));
    let work = || -> Result<(), HashingError> {
        while let Some(next) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = job(next)?;
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push(result);
            progress(done.len(), jobs.len());
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads = threads.get().min(jobs.len());
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let ours = work();
        others
            .into_iter()
            .map(|other| other.join().unwrap_or(Err(HashingError::Panicked)))
            .chain([ours])
            .collect::<Result<(), _>>()
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREADS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(2);

    #[test]
    fn every_job_runs_once_and_an_error_is_returned() {
        let jobs: Vec<_> = (0..50).collect();
        let mut results = run(&jobs, THREADS, |job| Ok(job * 2), &|_, _| {}).unwrap();
        results.sort_unstable();
        assert_eq!(results, jobs.iter().map(|job| job * 2).collect::<Vec<_>>());
        let fails = |job: &i32| if *job == 7 { Err(HashingError::Panicked) } else { Ok(*job) };
        assert!(matches!(run(&jobs, THREADS, fails, &|_, _| {}), Err(HashingError::Panicked)));
        let panics = |job: &i32| if *job == 7 { panic!("on purpose") } else { Ok(*job) };
        // The thread that panics may be the caller's.
        let panicked =
            std::panic::catch_unwind(|| run(&jobs, THREADS, panics, &|_, _| {}).is_err());
        assert!(panicked.unwrap_or(true));
    }
}
