//! The figures of this process, as the system gives them.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::status::ProcessStatus;

impl ProcessStatus {
    /// Reads the figures of this process.
    pub(super) fn read() -> Self {
        Self {
            cpu_seconds: processor_time(),
            resident_bytes: resident_memory(),
            open_files: open_files(),
            max_files: getrlimit(Resource::Nofile).current,
        }
    }
}

/// Returns the processor time of all threads in seconds (proc_pid_stat(5), fields 14 and 15).
fn processor_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name in parentheses, which may hold blanks.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Returns the resident memory in bytes (proc_pid_statm(5), field 2).
fn resident_memory() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages = statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?;
    Some(pages * u64::try_from(rustix::param::page_size()).ok()?)
}

fn open_files() -> Option<u64> {
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them is the folder itself.
    u64::try_from(open.saturating_sub(1)).ok()
}
