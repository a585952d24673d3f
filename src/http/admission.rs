//! Admission of connections up to a limit.
//!
//! There is no share per source while there is room. When all seats are taken, the source with the
//! most connections loses the one that has been idle for longest. A source with one connection
//! keeps it. Exempt connections (trusted proxies, Unix sockets) are never evicted. If nothing can
//! be evicted for a connection, it waits for a free seat. Knows neither sockets nor HTTP.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use tokio::sync::{Notify, oneshot};

use crate::auth::{EndStream, Source};

/// The number of closed connections after which memory is given back.
const CROWD: u64 = 256;

/// The seated and the waiting connections of a server.
pub(super) struct Admission {
    start: Instant,
    seats: Mutex<Seats>,
    /// Notified when [`CROWD`] connections have left.
    crowd_left: Notify,
}

#[derive(Default)]
struct Seats {
    table: SeatTable,
    next: Id,
    left: u64,
    /// The waiting connections. Dropping a sender tells its connection that there is a seat.
    waiting: BTreeMap<Id, oneshot::Sender<()>>,
}

/// The right to be served. Dropping it makes room for another connection.
pub(super) struct Seat {
    id: Id,
    admission: Arc<Admission>,
    occupant: Arc<Occupant>,
}

/// The activity and the eviction of a connection.
pub(super) struct Occupant {
    start: Instant,
    /// The time at which it entered, in nanoseconds since the start of the server.
    entered: u64,
    /// The time at which its last request was read, in nanoseconds since the start of the server.
    last_active: AtomicU64,
    evicted: AtomicBool,
    /// It was evicted because its user may not log in any more.
    cut: AtomicBool,
    /// The task of the connection.
    task: AtomicWaker,
}

impl Admission {
    /// Allows at most `most` connections at once.
    pub(super) fn new(most: usize) -> Self {
        let seats = Seats { table: SeatTable { most, ..SeatTable::default() }, ..Seats::default() };
        Self { start: Instant::now(), seats: Mutex::new(seats), crowd_left: Notify::new() }
    }

    /// Waits for a seat. A connection without a source is exempt.
    pub(super) async fn enter(self: &Arc<Self>, source: Option<Source>) -> Seat {
        let occupant = Arc::new(Occupant::new(self.start));
        let (seat, is_seated) = {
            let mut seats = self.seats();
            let id = seats.next;
            seats.next += 1;
            let seat = Seat { id, admission: Arc::clone(self), occupant: Arc::clone(&occupant) };
            let is_seated = match seats.table.enter(id, source, occupant) {
                Entered::Seated => None,
                Entered::InPlaceOf(victim) => {
                    victim.evict();
                    None
                }
                Entered::Waiting => {
                    let (seated, is_seated) = oneshot::channel();
                    seats.waiting.insert(id, seated);
                    Some(is_seated)
                }
            };
            (seat, is_seated)
        };
        if let Some(is_seated) = is_seated {
            let _ = is_seated.await;
        }
        seat
    }

    /// Returns true if some connection has not sent its first request yet.
    pub(super) fn has_fresh(&self) -> bool {
        self.seats().table.seated.values().any(|seated| seated.occupant.is_fresh())
    }

    /// Returns when [`CROWD`] connections have left since it returned last.
    pub(super) async fn crowd_left(&self) {
        self.crowd_left.notified().await;
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    pub(super) fn occupant(&self) -> Arc<Occupant> {
        Arc::clone(&self.occupant)
    }

    /// Awaits `doing` until the connection is evicted. Returns `None` after an eviction.
    pub(super) async fn hold<T>(&self, doing: impl Future<Output = T>) -> Option<T> {
        let mut doing = pin!(doing);
        poll_fn(|context| match doing.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.occupant.is_evicted(context) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.admission.seats();
        seats.waiting.remove(&self.id);
        seats.left += 1;
        if seats.left.is_multiple_of(CROWD) {
            self.admission.crowd_left.notify_one();
        }
        if let Some(next) = seats.table.leave(self.id) {
            seats.waiting.remove(&next);
        }
    }
}

impl Occupant {
    fn new(start: Instant) -> Self {
        let entered = nanoseconds_since(start);
        Self {
            start,
            entered,
            last_active: AtomicU64::new(entered),
            evicted: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            task: AtomicWaker::new(),
        }
    }

    /// Records that the connection is in use.
    pub(super) fn note_activity(&self) {
        self.last_active.store(nanoseconds_since(self.start), Ordering::Relaxed);
    }

    /// Returns true if it was not in use yet.
    fn is_fresh(&self) -> bool {
        self.last_active.load(Ordering::Relaxed) == self.entered
    }

    /// Returns true if the connection has to be closed, in favor of another one or because it was
    /// cut. Otherwise wakes the task when that happens.
    pub(super) fn is_evicted(&self, context: &mut Context<'_>) -> bool {
        self.task.register(context.waker());
        self.was_evicted()
    }

    /// Returns the same for a task that is registered already.
    pub(super) fn was_evicted(&self) -> bool {
        self.evicted.load(Ordering::Acquire)
    }

    /// Returns true if the connection was cut. Nothing more may be sent on it.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    fn evict(&self) {
        self.evicted.store(true, Ordering::Release);
        self.task.wake();
    }
}

fn nanoseconds_since(start: Instant) -> u64 {
    let since = start.elapsed();
    since.as_secs() * 1_000_000_000 + u64::from(since.subsec_nanos())
}

/// Cuts the connection.
impl EndStream for Occupant {
    fn end(&self) {
        self.cut.store(true, Ordering::Release);
        self.evict();
    }
}

type Id = u64;

/// The seated and the waiting connections as a pure state machine.
#[derive(Default)]
struct SeatTable {
    most: usize,
    seated: BTreeMap<Id, Seated>,
    /// Made for the first eviction, and dropped when half of the seats are free: while there is room,
    /// a connection costs one entry.
    sources: Option<Sources>,
    waiting: VecDeque<(Id, Option<Source>, Arc<Occupant>)>,
}

/// The seated connections by their source.
#[derive(Default, PartialEq, Eq, Debug)]
struct Sources {
    /// The connections of each source, the longest idle first, by the activity that was noted last.
    /// It may be outdated, and is updated before an eviction.
    connections: HashMap<Source, BTreeSet<(u64, Id)>>,
    /// The sources by the number of their connections.
    largest: BTreeSet<(usize, Source)>,
}

struct Seated {
    source: Option<Source>,
    /// The time under which it is listed in its source.
    noted: u64,
    occupant: Arc<Occupant>,
}

enum Entered {
    Seated,
    /// Seated in place of this connection, which has to be evicted.
    InPlaceOf(Arc<Occupant>),
    Waiting,
}

impl SeatTable {
    fn enter(&mut self, id: Id, source: Option<Source>, occupant: Arc<Occupant>) -> Entered {
        if self.seated.len() < self.most {
            self.seat(id, source, occupant);
            return Entered::Seated;
        }
        let Some(victim) = self.victim(source).and_then(|victim| self.remove(victim)) else {
            self.waiting.push_back((id, source, occupant));
            return Entered::Waiting;
        };
        self.seat(id, source, occupant);
        Entered::InPlaceOf(victim)
    }

    /// Frees the seat or the place in the queue. Returns the connection that gets the seat.
    fn leave(&mut self, id: Id) -> Option<Id> {
        if self.remove(id).is_none() {
            self.waiting.retain(|(waiting, ..)| *waiting != id);
            return None;
        }
        let (next, source, occupant) = self.waiting.pop_front()?;
        self.seat(next, source, occupant);
        Some(next)
    }

    /// Returns the connection that makes room for one of `source`.
    fn victim(&mut self, source: Option<Source>) -> Option<Id> {
        let sources = self.sources.get_or_insert_with(|| Sources::of(&self.seated));
        let loser = sources.loser(source)?;
        sources.longest_idle(loser, &mut self.seated)
    }

    fn seat(&mut self, id: Id, source: Option<Source>, occupant: Arc<Occupant>) {
        let noted = occupant.last_active.load(Ordering::Relaxed);
        if let (Some(sources), Some(source)) = (&mut self.sources, source) {
            sources.add(source, noted, id);
        }
        self.seated.insert(id, Seated { source, noted, occupant });
    }

    fn remove(&mut self, id: Id) -> Option<Arc<Occupant>> {
        let Seated { source, noted, occupant } = self.seated.remove(&id)?;
        if self.seated.len() < self.most / 2 {
            self.sources = None;
        } else if let (Some(sources), Some(source)) = (&mut self.sources, source) {
            sources.remove(source, noted, id);
        }
        Some(occupant)
    }
}

impl Sources {
    /// Lists the seated connections.
    fn of(seated: &BTreeMap<Id, Seated>) -> Self {
        let mut sources = Self::default();
        for (id, seated) in seated {
            if let Some(source) = seated.source {
                sources.add(source, seated.noted, *id);
            }
        }
        sources
    }

    /// Returns the source that loses a connection to one of `source`.
    fn loser(&self, source: Option<Source>) -> Option<Source> {
        let (most, largest) = *self.largest.last()?;
        let own = source.and_then(|source| self.connections.get(&source)).map_or(0, BTreeSet::len);
        // Another source must have more connections even after the eviction, so that two sources do
        // not evict each other in turn.
        match source {
            _ if most > own + 1 => Some(largest),
            Some(source) if own > 1 => Some(source),
            _ => None,
        }
    }

    fn longest_idle(&mut self, source: Source, seated: &mut BTreeMap<Id, Seated>) -> Option<Id> {
        let idle = self.connections.get_mut(&source)?;
        loop {
            let (noted, id) = *idle.first()?;
            let seated = seated.get_mut(&id)?;
            seated.noted = seated.occupant.last_active.load(Ordering::Relaxed);
            if seated.noted <= noted {
                seated.noted = noted;
                return Some(id);
            }
            idle.remove(&(noted, id));
            idle.insert((seated.noted, id));
        }
    }

    fn add(&mut self, source: Source, noted: u64, id: Id) {
        let connections = self.connections.entry(source).or_default();
        self.largest.remove(&(connections.len(), source));
        connections.insert((noted, id));
        self.largest.insert((connections.len(), source));
    }

    fn remove(&mut self, source: Source, noted: u64, id: Id) {
        let Some(connections) = self.connections.get_mut(&source) else { return };
        self.largest.remove(&(connections.len(), source));
        connections.remove(&(noted, id));
        if connections.is_empty() {
            self.connections.remove(&source);
        } else {
            self.largest.insert((connections.len(), source));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn source(n: u8) -> Source {
        Source::of(IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)))
    }

    /// A table and its occupants, which record the time of their last activity.
    struct Bench {
        table: SeatTable,
        occupants: Vec<Arc<Occupant>>,
    }

    /// The result of [`SeatTable::enter`], with the number of the evicted connection.
    #[derive(PartialEq, Eq, Debug)]
    enum Seen {
        Seated,
        InPlaceOf(Id),
        Waiting,
    }

    impl Bench {
        fn new(most: usize) -> Self {
            Self { table: SeatTable { most, ..SeatTable::default() }, occupants: Vec::new() }
        }

        /// Enters the next connection of this source. Source 0 is exempt.
        fn enter(&mut self, from: u8, now: u64) -> Seen {
            let id = self.occupants.len() as Id;
            let occupant = Arc::new(Occupant::new(Instant::now()));
            occupant.last_active.store(now, Ordering::Relaxed);
            self.occupants.push(Arc::clone(&occupant));
            let of = (from > 0).then(|| source(from));
            let entered = self.table.enter(id, of, occupant);
            self.check();
            match entered {
                Entered::Seated => Seen::Seated,
                Entered::Waiting => Seen::Waiting,
                Entered::InPlaceOf(victim) => {
                    let is_victim = |one: &Arc<Occupant>| Arc::ptr_eq(one, &victim);
                    Seen::InPlaceOf(self.occupants.iter().position(is_victim).unwrap() as Id)
                }
            }
        }

        fn leave(&mut self, id: Id) -> Option<Id> {
            let next = self.table.leave(id);
            self.check();
            next
        }

        fn check(&self) {
            let SeatTable { most, seated, sources, waiting } = &self.table;
            assert!(seated.len() <= *most);
            assert!(waiting.is_empty() || seated.len() == *most, "a free seat is taken");
            let listed = self.sources();
            let counted = seated.values().filter(|one| one.source.is_some()).count();
            assert_eq!(listed.connections.values().map(BTreeSet::len).sum::<usize>(), counted);
            let sizes = listed.connections.iter().map(|(of, all)| (all.len(), *of));
            assert_eq!(sizes.collect::<BTreeSet<_>>(), listed.largest);
            assert!(sources.as_ref().is_none_or(|sources| *sources == listed), "{sources:?}");
            assert!(sources.is_none() || seated.len() >= most / 2, "kept for a crowd only");
        }

        fn sources(&self) -> Sources {
            Sources::of(&self.table.seated)
        }
    }

    ///
    #[test]
    fn largest_source_loses_its_longest_idle_connection() {
        let mut bench = Bench::new(5);
        for (now, from) in [1, 1, 1, 1, 2].into_iter().enumerate() {
            assert_eq!(bench.enter(from, now as u64), Seen::Seated, "no share while there is room");
        }
        assert_eq!(bench.table.sources, None, "not needed yet");
        // The first connection was used since.
        bench.occupants[0].last_active.store(10, Ordering::Relaxed);
        assert_eq!(bench.enter(3, 11), Seen::InPlaceOf(1));
        assert_eq!(bench.enter(1, 12), Seen::InPlaceOf(2), "its own, since it has the most");
        assert_eq!(bench.enter(2, 13), Seen::InPlaceOf(3));
        assert_eq!(bench.leave(3), None, "evicted before");
    }

    #[test]
    fn sources_are_listed_for_a_crowd() {
        let mut bench = Bench::new(4);
        for crowd in 0..2 {
            let first = bench.occupants.len() as Id;
            for _ in 0..4 {
                assert_eq!(bench.enter(1, crowd), Seen::Seated);
                assert_eq!(bench.table.sources, None);
            }
            assert_eq!(bench.enter(1, crowd), Seen::InPlaceOf(first));
            for id in first + 1..first + 5 {
                assert!(bench.table.sources.is_some() || bench.table.seated.len() < 2);
                bench.leave(id);
            }
        }
    }

    ///
    #[test]
    fn source_with_one_connection_keeps_it() {
        let mut bench = Bench::new(3);
        for from in [1, 2, 3] {
            assert_eq!(bench.enter(from, 0), Seen::Seated);
        }
        for from in [4, 1, 0] {
            assert_eq!(bench.enter(from, 1), Seen::Waiting);
        }
        assert_eq!(bench.leave(1), Some(3), "first come, first served");
        assert_eq!(bench.leave(4), None, "it has stopped waiting");
        assert_eq!(bench.leave(3), Some(5));
        assert_eq!(bench.leave(5), None);
    }

    /// proxies and Unix sockets.
    #[test]
    fn exempt_connections_are_never_evicted() {
        let mut bench = Bench::new(3);
        for from in [0, 0, 1] {
            assert_eq!(bench.enter(from, 0), Seen::Seated);
        }
        assert_eq!(bench.enter(2, 1), Seen::Waiting);
        assert_eq!(bench.leave(0), Some(3));
        assert_eq!(bench.enter(0, 1), Seen::Waiting);
        assert_eq!(bench.leave(2), Some(4));
    }

    /// after every history, the table is consistent, and one source never keeps another one
    /// out.
    #[test]
    fn every_short_history_keeps_the_rules() {
        // Each step is a connection from one of three sources, the exempt one, or the end of one of
        // four connections.
        let steps = 8_usize;
        for history in 0..steps.pow(6) {
            let mut bench = Bench::new(3);
            let mut gone = Vec::new();
            for n in 0..6 {
                let step = history / steps.pow(n) % steps;
                if step >= 4 {
                    let id = (step - 4) as Id;
                    if (id as usize) < bench.occupants.len() && !gone.contains(&id) {
                        gone.push(id);
                        bench.leave(id);
                    }
                    continue;
                }
                let from = step as u8;
                let sizes = bench.sources().largest;
                let own = sizes.iter().find(|(_, of)| from > 0 && *of == source(from));
                let own = own.map_or(0, |(size, _)| *size);
                match bench.enter(from, n.into()) {
                    Seen::Seated => {}
                    Seen::Waiting => {
                        let most = sizes.last().map_or(0, |(size, _)| *size);
                        assert!(own < 2 && most < own + 2, "something could have been evicted");
                    }
                    Seen::InPlaceOf(victim) => {
                        gone.push(victim);
                        let sizes = bench.sources().largest;
                        let alone = sizes.iter().all(|(size, _)| *size > 0);
                        assert!(alone && victim < bench.occupants.len() as Id - 1);
                    }
                }
            }
        }
    }

    /// also while it waits for another event.
    #[test]
    fn evicted_connection_is_woken() {
        use futures_executor::block_on;
        let admission = Arc::new(Admission::new(2));
        let [first, second] = [1, 1].map(|n| block_on(admission.enter(Some(source(n)))));
        assert_eq!(block_on(first.hold(async { 7 })), Some(7));
        let waits = std::thread::spawn(move || block_on(first.hold(std::future::pending::<()>())));
        let third = block_on(admission.enter(Some(source(2))));
        assert_eq!(waits.join().unwrap(), None);
        // A waiting connection takes a seat that becomes free.
        let fourth = std::thread::spawn(move || block_on(admission.enter(Some(source(3)))));
        drop(third);
        assert!(!fourth.join().unwrap().occupant.evicted.load(Ordering::Acquire));
        drop(second);
    }
}
