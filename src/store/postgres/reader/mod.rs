//! The store as a server reads it: one thread with a connection, which renews the lease by a timer.
//!
//! Decides when the revision is read, and what happens without a connection. No other thread waits
//! for the network, except hash workers for the record of a user.

mod queries;
mod schedule;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::boot_clock::boot_time;
use super::connect::{ConnectionParams, Link};
use super::schema;
use super::session::runtime;
use super::transaction;
use super::url::PostgresUrl;
use crate::domain::{StoredHash, User, UserName};
use crate::store::lease::{ChangedNames, Follower, Lease, Rejected};
use crate::store::owned::{cannot_start, lost};
use crate::store::{FoundUser, Revision, StoreError, UserReader, replace_hash_in};
#[cfg(test)]
pub(super) use queries::STATE;
use queries::{Lookups, StateReading, read_state};
use schedule::{Due, Schedule};

/// The limit of the time of a query. The connection is given up after it.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause after an attempt to connect, or to read over a new connection, that has failed.
pub(super) const RETRY: Duration = Duration::from_millis(250);

/// The pause in an interruption of more than [`LONG`], when many servers may be trying.
const LATE_RETRY: Duration = Duration::from_secs(1);

const LONG: Duration = Duration::from_secs(30);

/// Users as a server reads them.
pub(in crate::store) struct PostgresReader {
    params: Arc<ConnectionParams>,
    shared: Arc<Shared>,
    /// `None` while the thread ends.
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
    runtime: Handle,
}

/// The state that the thread shares with requests.
struct Shared {
    lease: Lease,
    changed: ChangedNames,
    /// The time of the last request in milliseconds.
    used: AtomicU64,
    /// Wakes the thread when a request comes after a pause.
    wake: Notify,
    /// Changes with each reading, and with each failure.
    readings: watch::Sender<u64>,
    connection: Mutex<ConnectionState>,
}

#[derive(Debug)]
enum ConnectionState {
    /// The thread has not tried to connect yet.
    Starting,
    Up,
    Down {
        since: Duration,
        why: String,
    },
}

/// A look-up of one user, for the thread.
struct Job {
    name: UserName,
    with_groups: bool,
    reply: Reply,
}

type Jobs = mpsc::UnboundedReceiver<Job>;

enum Reply {
    /// To a thread that waits.
    Blocking(std::sync::mpsc::SyncSender<Result<Option<FoundUser>, StoreError>>),
    Later(oneshot::Sender<Result<Option<FoundUser>, StoreError>>),
}

impl Reply {
    /// The other end may be gone. Then the answer is dropped.
    fn send(self, found: Result<Option<FoundUser>, StoreError>) {
        match self {
            Self::Blocking(reply) => drop(reply.send(found)),
            Self::Later(reply) => drop(reply.send(found)),
        }
    }
}

impl PostgresReader {
    /// Starts the thread, and returns without a connection.
    pub(super) fn start(params: ConnectionParams) -> Result<Self, StoreError> {
        let params = Arc::new(params);
        let shared = Arc::new(Shared {
            lease: Lease::default(),
            changed: ChangedNames::default(),
            used: AtomicU64::new(millis(boot_time())),
            wake: Notify::new(),
            readings: watch::Sender::new(0),
            connection: Mutex::new(ConnectionState::Starting),
        });
        let (jobs, waiting) = mpsc::unbounded_channel();
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let of_thread = (Arc::clone(&params), Arc::clone(&shared));
        let work = move || {
            let (params, shared) = of_thread;
            runtime.block_on(follow(&params, &shared, waiting));
        };
        let thread = thread::Builder::new().name("database".to_owned()).spawn(work);
        let thread = Some(thread.map_err(cannot_start)?);
        Ok(Self { params, shared, jobs: Some(jobs), thread, runtime: handle })
    }

    fn submit(&self, name: &UserName, with_groups: bool, reply: Reply) {
        let job = Job { name: name.clone(), with_groups, reply };
        // A thread that has ended drops the reply, which the other end notices.
        if let Some(jobs) = &self.jobs {
            drop(jobs.send(job));
        }
    }

    /// Looks users up, and blocks until all are read.
    fn look_up_all(
        &self,
        names: &[&UserName],
        with_groups: bool,
    ) -> Vec<Result<Option<FoundUser>, StoreError>> {
        let begin = |name: &&UserName| {
            let (reply, found) = sync_channel(1);
            self.submit(name, with_groups, Reply::Blocking(reply));
            found
        };
        let begun: Vec<_> = names.iter().map(begin).collect();
        begun.into_iter().map(|found| found.recv().unwrap_or_else(|_| Err(lost()))).collect()
    }

    fn look_up_one(
        &self,
        name: &UserName,
        with_groups: bool,
    ) -> Result<Option<FoundUser>, StoreError> {
        self.look_up_all(&[name], with_groups).pop().unwrap_or_else(|| Err(lost()))
    }
}

impl Drop for PostgresReader {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl UserReader for PostgresReader {
    fn find(&self, name: &UserName) -> Result<Option<User>, StoreError> {
        Ok(self.look_up_one(name, false)?.map(user_of))
    }

    fn find_with_groups(&self, name: &UserName) -> Result<Option<FoundUser>, StoreError> {
        self.look_up_one(name, true)
    }

    fn find_all(&self, names: &[&UserName]) -> Vec<Result<Option<User>, StoreError>> {
        let found = self.look_up_all(names, false).into_iter();
        found.map(|found| Ok(found?.map(user_of))).collect()
    }

    fn find_all_with_groups(
        &self,
        names: &[&UserName],
    ) -> Vec<Result<Option<FoundUser>, StoreError>> {
        self.look_up_all(names, true)
    }

    fn look_up(
        &self,
        name: &UserName,
    ) -> BoxFuture<'static, Result<Option<FoundUser>, StoreError>> {
        let (reply, found) = oneshot::channel();
        self.submit(name, true, Reply::Later(reply));
        Box::pin(async { found.await.unwrap_or_else(|_| Err(lost())) })
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.shared.ready()
    }

    /// Reads the clock anew, since leases are of a clock that runs on while the machine sleeps. The
    /// time is later than `now`, so less is granted.
    fn revision(&self, _: Instant) -> Result<Revision, StoreError> {
        let now = boot_time();
        self.shared.is_used(now);
        match self.shared.lease.current(now) {
            Some(revision) => Ok(revision),
            None => Err(self.ready().err().unwrap_or(StoreError::Lapsed)),
        }
    }

    fn next_revision(&self, deadline: Instant) -> BoxFuture<'static, Result<Revision, StoreError>> {
        let shared = Arc::clone(&self.shared);
        // On the thread of the database, whose clock limits the time.
        let waiting = self.runtime.spawn(async move {
            let mut readings = shared.readings.subscribe();
            loop {
                if let Some(revision) = shared.lease.current(boot_time()) {
                    return Ok(revision);
                }
                match tokio::time::timeout_at(deadline.into(), readings.changed()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(lost()),
                    Err(_) => return Err(StoreError::Lapsed),
                }
                // The lease of a reading may be over by now. Then the next one counts.
                if let Err(e @ StoreError::Unreachable(_)) = shared.ready() {
                    return Err(e);
                }
            }
        });
        Box::pin(async { waiting.await.unwrap_or_else(|_| Err(lost())) })
    }

    fn is_unchanged(&self, name: &UserName, since: Revision) -> bool {
        self.shared.changed.is_unchanged(name.as_str(), since)
    }

    fn reading_age(&self, _: Instant) -> Option<Duration> {
        self.shared.lease.age(boot_time())
    }

    /// Connects anew, since transactions block.
    fn replace_hash(
        &self,
        name: &UserName,
        old: &StoredHash,
        new: StoredHash,
    ) -> Result<bool, StoreError> {
        replace_hash_in(transaction::begin(Arc::clone(&self.params), None)?, name, old, new)
    }
}

impl Shared {
    /// Records that a request has come.
    fn is_used(&self, now: Duration) {
        let now = millis(now);
        let before = self.used.load(Ordering::Relaxed);
        // Written once a second, so that not every request takes the line from the other threads.
        if now.saturating_sub(before) >= 1000 {
            self.used.store(now, Ordering::Relaxed);
            self.wake.notify_one();
        }
    }

    fn ready(&self) -> Result<(), StoreError> {
        match &*self.connection() {
            ConnectionState::Up => Ok(()),
            ConnectionState::Starting => Err(StoreError::Lapsed),
            ConnectionState::Down { why, .. } => Err(StoreError::Unreachable(why.clone())),
        }
    }

    fn last_used(&self) -> Duration {
        Duration::from_millis(self.used.load(Ordering::Relaxed))
    }

    fn connection(&self) -> MutexGuard<'_, ConnectionState> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a usable connection. Logs the end of an interruption.
    fn is_up(&self) {
        let before = std::mem::replace(&mut *self.connection(), ConnectionState::Up);
        if let ConnectionState::Down { since, .. } = before {
            let lost = boot_time().saturating_sub(since);
            log::info!("the database is reachable again after {:.1} s", lost.as_secs_f64());
        }
    }

    /// Publishes a reading of the state. Returns the length of its lease.
    ///
    /// # Errors
    /// Returns the reason why the reading does not count.
    fn publish(
        &self,
        url: &PostgresUrl,
        follower: &mut Follower,
        read: StateReading,
    ) -> Result<Duration, Unread> {
        let StateReading { sent, version, answer } = read;
        schema::check(url, Some(version)).map_err(|e| Unread::Failed(e.to_string()))?;
        let length = answer.length;
        let step = follower.answered(sent, boot_time(), answer)?;
        if let Some(changes) = step.changes {
            self.changed.record(changes, step.reading.revision);
        }
        self.lease.publish(step.reading);
        self.is_up();
        self.tell();
        Ok(length)
    }

    /// Records that there is no connection. Logs the first reason. Returns the time until the next
    /// attempt.
    fn is_down(&self, why: String) -> Duration {
        let mut connection = self.connection();
        let since = match &*connection {
            ConnectionState::Down { since, .. } => *since,
            ConnectionState::Up | ConnectionState::Starting => {
                log::error!("cannot reach the database: {why}");
                boot_time()
            }
        };
        *connection = ConnectionState::Down { since, why };
        drop(connection);
        self.tell();
        if boot_time().saturating_sub(since) < LONG { RETRY } else { LATE_RETRY }
    }

    /// Wakes the requests that wait for a reading.
    fn tell(&self) {
        self.readings.send_modify(|count| *count = count.wrapping_add(1));
    }
}

fn user_of(found: FoundUser) -> User {
    found.user
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The reason why a reading does not count.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Rejected(#[from] Rejected),
    #[error("{0}")]
    Failed(String),
}

/// The end of a connection.
enum Lost {
    /// It has failed, after it was of use.
    Failed {
        why: String,
        /// The time for which it may be replaced.
        limit: Duration,
    },
    /// It is late, and another one is not.
    Replaced(Link),
    /// There is no connection.
    Down(String),
}

/// Follows the store until the sender of the jobs is gone.
async fn follow(params: &ConnectionParams, shared: &Shared, mut jobs: Jobs) {
    let mut follower = Follower::default();
    let mut lookups = Lookups::default();
    let mut lost = None;
    loop {
        let connected = match lost.take() {
            Some(Lost::Replaced(link)) => Some(Ok(link)),
            Some(Lost::Failed { why, limit }) => {
                let connecting = params.connect();
                replace(&mut jobs, shared, &mut lookups, (why, limit), connecting).await
            }
            Some(Lost::Down(_)) | None => refuse_until(&mut jobs, shared, params.connect()).await,
        };
        let used = match connected {
            None => return,
            Some(Err(e)) => Some(Lost::Down(e.to_string())),
            Some(Ok(link)) => {
                use_link(params, shared, &mut follower, &mut lookups, link, &mut jobs).await
            }
        };
        match &used {
            None => return,
            Some(Lost::Failed { .. } | Lost::Replaced(_)) => lookups.keep_left(),
            Some(Lost::Down(why)) => {
                lookups = Lookups::default();
                let pause = tokio::time::sleep(shared.is_down(why.clone()));
                if refuse_until(&mut jobs, shared, pause).await.is_none() {
                    return;
                }
            }
        }
        lost = used;
    }
}

/// Replaces a connection that has failed. Jobs are kept for as long as the limit says. Then the
/// database is down, and they are refused. Returns `None` if the sender of the jobs is gone.
async fn replace<T, E>(
    jobs: &mut Jobs,
    shared: &Shared,
    lookups: &mut Lookups,
    (why, limit): (String, Duration),
    connecting: impl Future<Output = Result<T, E>>,
) -> Option<Result<T, E>> {
    let mut connecting = std::pin::pin!(connecting);
    let mut in_time = std::pin::pin!(tokio::time::timeout(limit, &mut connecting));
    let connected = loop {
        tokio::select! {
            connected = &mut in_time => break connected,
            job = jobs.recv() => lookups.keep(job?),
        }
    };
    if let Ok(Ok(link)) = connected {
        log::warn!("connected to the database anew: {why}");
        return Some(Ok(link));
    }
    *lookups = Lookups::default();
    shared.is_down(why);
    match connected {
        Ok(failed) => Some(failed),
        Err(_) => refuse_until(jobs, shared, connecting).await,
    }
}

/// Waits without a connection, and refuses all jobs meanwhile. Returns `None` if the sender of the
/// jobs is gone.
async fn refuse_until<T>(
    jobs: &mut Jobs,
    shared: &Shared,
    done: impl Future<Output = T>,
) -> Option<T> {
    let mut done = std::pin::pin!(done);
    loop {
        tokio::select! {
            result = &mut done => return Some(result),
            job = jobs.recv() => {
                let why = match &*shared.connection() {
                    ConnectionState::Down { why, .. } => why.clone(),
                    ConnectionState::Up | ConnectionState::Starting => "not connected yet".to_owned(),
                };
                job?.reply.send(Err(StoreError::Unreachable(why)));
            }
        }
    }
}

/// Uses a connection until it fails. If it is late, another one is opened beside it, and the first of
/// the two that answers in time is used: a busy database may answer sooner on either. Returns `None`
/// if the sender of the jobs is gone.
async fn use_link(
    params: &ConnectionParams,
    shared: &Shared,
    follower: &mut Follower,
    lookups: &mut Lookups,
    link: Link,
    jobs: &mut Jobs,
) -> Option<Lost> {
    let Link { client, mut driver, .. } = link;
    let client = &client;
    let mut closed = std::pin::pin!(driver.ended());
    let mut running: FuturesUnordered<_> =
        lookups.begin().map(|wanted| queries::run(client, wanted)).collect();
    let mut reading = FuturesUnordered::new();
    let mut replacing = FuturesUnordered::new();
    let mut schedule = Schedule::default();
    let failed = |why, schedule: &Schedule| match schedule.time_to_replace(boot_time()) {
        Some(limit) => Lost::Failed { why, limit },
        None => Lost::Down(why),
    };
    loop {
        let now = boot_time();
        let due = schedule.due(now, shared.last_used());
        if due == Due::Now && reading.is_empty() {
            schedule.sent(now);
            reading.push(read_state(client, follower.last()));
        }
        let pause = match due {
            Due::In(pause) => Some(pause),
            Due::Now | Due::WhenUsed => None,
        };
        let late = schedule.until_limit(now).filter(|_| replacing.is_empty());
        tokio::select! {
            why = &mut closed => return Some(failed(why, &schedule)),
            () = sleep(pause) => {}
            () = shared.wake.notified() => {}
            () = sleep(late) => match schedule.time_to_replace(boot_time()) {
                Some(limit) => replacing.push(tokio::time::timeout(limit, connect_at_last(params))),
                None => return Some(Lost::Down(too_late(&schedule))),
            },
            Some(connected) = replacing.next() => {
                let why = too_late(&schedule);
                let Ok(link) = connected else { return Some(Lost::Down(why)) };
                log::warn!("connected to the database anew: {why}");
                return Some(Lost::Replaced(link));
            }
            Some(read) = reading.next() => {
                let read = read.map_err(Unread::Failed);
                match read.and_then(|read| shared.publish(&params.url, follower, read)) {
                    Ok(length) => {
                        schedule.renewed(length);
                        replacing.clear();
                    }
                    // Read again, until the limit is over.
                    Err(Unread::Rejected(Rejected::Late)) => {}
                    Err(e) => return Some(failed(e.to_string(), &schedule)),
                }
            }
            job = jobs.recv() => {
                if let Some(next) = lookups.add(job?) {
                    running.push(queries::run(client, next));
                }
            }
            Some((with_groups, read)) = running.next() => {
                let (read, why) = match read {
                    Ok(read) => (Ok(read), None),
                    Err(e) => (Err(e.repeat()), Some(e)),
                };
                if let Some(next) = lookups.answer(read, with_groups, follower) {
                    running.push(queries::run(client, next));
                }
                if let Some(StoreError::Unreachable(why)) = why {
                    return Some(failed(why, &schedule));
                }
            }
        }
    }
}

/// Tries to connect until it succeeds. A database may have no connection to spare for a moment.
async fn connect_at_last(params: &ConnectionParams) -> Link {
    loop {
        if let Ok(link) = params.connect().await {
            return link;
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn too_late(schedule: &Schedule) -> String {
    format!("no answer in time, within {} ms", schedule.limit().as_millis())
}

/// Sleeps for ever without a time.
async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
