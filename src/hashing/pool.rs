//! Hashing for commands: many hashes on several threads.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::{HashingError, lanes};

/// Runs `batch` for all of `jobs`, up to four at a time, on up to `threads` threads, the caller's
/// included. Returns the results in the order in which they were ready.
///
/// A thread takes several jobs at a time only if there are enough for all threads. Calls `progress`
/// from these threads with the number of finished jobs and the number of all jobs.
///
/// # Errors
/// Fails with the error of a job, or if one panics.
pub(crate) fn run<J: Sync, R: Send>(
    jobs: &[J],
    threads: NonZeroUsize,
    batch: impl Fn(&[J]) -> Result<Vec<R>, HashingError> + Sync,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<R>, HashingError> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(jobs.len())));
    let size = jobs.len().div_ceil(threads.get()).clamp(1, lanes::MAX);
    let work = || -> Result<(), HashingError> {
        while let Some(rest) = jobs.get(next.fetch_add(size, Ordering::Relaxed)..)
            && !rest.is_empty()
        {
            let results = batch(&rest[..size.min(rest.len())])?;
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.extend(results);
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
        let double = |jobs: &[i32]| Ok(jobs.iter().map(|job| job * 2).collect());
        let mut results = run(&jobs, THREADS, double, &|_, _| {}).unwrap();
        results.sort_unstable();
        assert_eq!(results, jobs.iter().map(|job| job * 2).collect::<Vec<_>>());
        let fails = |jobs: &[i32]| match jobs.contains(&7) {
            true => Err(HashingError::Panicked),
            false => Ok(jobs.to_vec()),
        };
        assert!(matches!(run(&jobs, THREADS, fails, &|_, _| {}), Err(HashingError::Panicked)));
        let panics = |jobs: &[i32]| match jobs.contains(&7) {
            true => panic!("on purpose"),
            false => Ok(jobs.to_vec()),
        };
        // The thread that panics may be the caller's.
        let panicked =
            std::panic::catch_unwind(|| run(&jobs, THREADS, panics, &|_, _| {}).is_err());
        assert!(panicked.unwrap_or(true));
    }

    /// H-10: lanes are filled when every thread has a job.
    #[test]
    fn threads_take_several_jobs_only_if_there_are_enough() {
        for (jobs, sizes) in
            [(1, vec![1]), (3, vec![1; 3]), (5, vec![2, 2, 1]), (13, vec![4, 4, 4, 1])]
        {
            let seen = Mutex::new(Vec::new());
            let note = |jobs: &[i32]| {
                seen.lock().unwrap().push(jobs.len());
                Ok(jobs.to_vec())
            };
            run(&(0..jobs).collect::<Vec<_>>(), THREADS, note, &|_, _| {}).unwrap();
            let mut seen = seen.into_inner().unwrap();
            seen.sort_unstable_by(|a, b| b.cmp(a));
            assert_eq!(seen, sizes, "{jobs}");
        }
    }
}
