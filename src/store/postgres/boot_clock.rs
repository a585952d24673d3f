//! The clock of leases: it never goes back, and runs on while the machine sleeps (CLOCK_BOOTTIME).

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Returns the time since the machine was started.
pub(super) fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // Both are positive: the clock begins at the start of the machine.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}
