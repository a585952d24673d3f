//! Which connections are kept when there are more than the limit.
//!
//! There is no share per source while there is room. When all seats are taken, the source with the most
//! connections loses the one that has been idle for longest. A source with one connection keeps it.
//! Exempt connections (trusted proxies, Unix sockets) are never evicted. A connection that nothing can be
//! evicted for waits for a free seat.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};

use crate::auth::Source;

/// So many connections that leave are a crowd, whose memory is worth a look.
const CROWD: u64 = 256;

/// All connections of a server.
pub(super) struct Admission {
    start: Instant,
    seats: Mutex<Seats>,
    /// Told when a crowd has left.
    crowd_left: Notify,
}

#[derive(Default)]
struct Seats {
    table: Table,
    next: Id,
    left: u64,
    /// Where each connection listens for its fate.
    fates: HashMap<Id, Fate>,
}

/// The ends of a connection's channels that the table holds: dropping one is the message.
struct Fate {
    seated: Option<oneshot::Sender<()>>,
    _evicted: oneshot::Sender<()>,
}

/// The right to be served. Dropped, it makes room for another connection.
pub(super) struct Seat {
    id: Id,
    admission: Arc<Admission>,
    last_active: Arc<AtomicU64>,
    evicted: oneshot::Receiver<()>,
}

impl Admission {
    /// Allows `most` connections at once.
    pub(super) fn new(most: usize) -> Self {
        let seats = Seats { table: Table { most, ..Table::default() }, ..Seats::default() };
        Self { start: Instant::now(), seats: Mutex::new(seats), crowd_left: Notify::new() }
    }

    /// Waits for a seat. A connection without a source is exempt.
    pub(super) async fn enter(self: &Arc<Self>, source: Option<Source>) -> Seat {
        let last_active = Arc::new(AtomicU64::new(self.now()));
        let (seated, is_seated) = oneshot::channel();
        let (evict, evicted) = oneshot::channel();
        let id = {
            let mut seats = self.seats();
            let id = seats.next;
            seats.next += 1;
            let entered = seats.table.enter(id, source, Arc::clone(&last_active));
            let seated = matches!(entered, Entered::Waiting).then_some(seated);
            seats.fates.insert(id, Fate { seated, _evicted: evict });
            if let Entered::InPlaceOf(victim) = entered {
                seats.fates.remove(&victim);
            }
            id
        };
        let seat = Seat { id, admission: Arc::clone(self), last_active, evicted };
        // The sender is dropped when the seat is there.
        let _ = is_seated.await;
        seat
    }

    /// Returns when many connections have left since it returned last.
    pub(super) async fn crowd_left(&self) {
        self.crowd_left.notified().await;
    }

    /// Milliseconds since the start.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Returns when the connection is to be closed in favour of another one.
    pub(super) async fn evicted(&mut self) {
        // The sender sends nothing: it is dropped.
        let _ = (&mut self.evicted).await;
    }

    /// Returns what notes that the connection was in use.
    pub(super) fn activity(&self) -> Activity {
        let (admission, last_active) = (Arc::clone(&self.admission), Arc::clone(&self.last_active));
        Activity { admission, last_active }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.admission.seats();
        seats.fates.remove(&self.id);
        seats.left += 1;
        if seats.left.is_multiple_of(CROWD) {
            self.admission.crowd_left.notify_one();
        }
        if let Some(next) = seats.table.leave(self.id)
            && let Some(fate) = seats.fates.get_mut(&next)
        {
            fate.seated = None;
        }
    }
}

/// Notes that a connection was in use.
pub(super) struct Activity {
    admission: Arc<Admission>,
    last_active: Arc<AtomicU64>,
}

impl Activity {
    pub(super) fn note(&self) {
        self.last_active.store(self.admission.now(), Ordering::Relaxed);
    }
}

type Id = u64;

/// A pure state machine: who has a seat, and who waits.
#[derive(Default)]
struct Table {
    most: usize,
    seated: HashMap<Id, Seated>,
    /// The connections of each source, the longest idle first, by the time that was last looked at. It may be
    /// too early, and is corrected when a connection is to be evicted.
    sources: HashMap<Source, BTreeSet<(u64, Id)>>,
    /// The sources by the number of their connections.
    largest: BTreeSet<(usize, Source)>,
    waiting: VecDeque<(Id, Option<Source>, Arc<AtomicU64>)>,
}

struct Seated {
    source: Option<Source>,
    /// Under which time it stands in its source.
    noted: u64,
    last_active: Arc<AtomicU64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entered {
    Seated,
    /// Seated, and this connection is evicted.
    InPlaceOf(Id),
    Waiting,
}

impl Table {
    fn enter(&mut self, id: Id, source: Option<Source>, last_active: Arc<AtomicU64>) -> Entered {
        if self.seated.len() < self.most {
            self.seat(id, source, last_active);
            return Entered::Seated;
        }
        let Some(victim) = self.victim(source) else {
            self.waiting.push_back((id, source, last_active));
            return Entered::Waiting;
        };
        self.remove(victim);
        self.seat(id, source, last_active);
        Entered::InPlaceOf(victim)
    }

    /// Frees the seat or the place in the queue; returns the connection that has a seat now.
    fn leave(&mut self, id: Id) -> Option<Id> {
        if !self.remove(id) {
            self.waiting.retain(|(waiting, ..)| *waiting != id);
            return None;
        }
        let (next, source, last_active) = self.waiting.pop_front()?;
        self.seat(next, source, last_active);
        Some(next)
    }

    /// The connection that makes room for one of `source`.
    fn victim(&mut self, source: Option<Source>) -> Option<Id> {
        let (most, largest) = *self.largest.last()?;
        let own = source.map_or(0, |source| self.sources.get(&source).map_or(0, BTreeSet::len));
        // Another source has to have more even afterwards: two sources do not push each other out by turns.
        let loser = match source {
            _ if most > own + 1 => largest,
            Some(source) if own > 1 => source,
            _ => return None,
        };
        self.longest_idle(loser)
    }

    fn longest_idle(&mut self, source: Source) -> Option<Id> {
        let idle = self.sources.get_mut(&source)?;
        loop {
            let (noted, id) = *idle.first()?;
            let seated = self.seated.get_mut(&id)?;
            seated.noted = seated.last_active.load(Ordering::Relaxed);
            if seated.noted <= noted {
                seated.noted = noted;
                return Some(id);
            }
            idle.remove(&(noted, id));
            idle.insert((seated.noted, id));
        }
    }

    fn seat(&mut self, id: Id, source: Option<Source>, last_active: Arc<AtomicU64>) {
        let noted = last_active.load(Ordering::Relaxed);
        if let Some(source) = source {
            let connections = self.sources.entry(source).or_default();
            self.largest.remove(&(connections.len(), source));
            connections.insert((noted, id));
            self.largest.insert((connections.len(), source));
        }
        self.seated.insert(id, Seated { source, noted, last_active });
    }

    fn remove(&mut self, id: Id) -> bool {
        let Some(Seated { source, noted, .. }) = self.seated.remove(&id) else { return false };
        if let Some(source) = source
            && let Some(connections) = self.sources.get_mut(&source)
        {
            self.largest.remove(&(connections.len(), source));
            connections.remove(&(noted, id));
            if connections.is_empty() {
                self.sources.remove(&source);
            } else {
                self.largest.insert((connections.len(), source));
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn source(n: u8) -> Source {
        Source::of(IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)))
    }

    /// A table, and the time at which each connection was last active.
    struct Bench {
        table: Table,
        active: Vec<Arc<AtomicU64>>,
    }

    impl Bench {
        fn new(most: usize) -> Self {
            Self { table: Table { most, ..Table::default() }, active: Vec::new() }
        }

        /// The next connection comes from this source; 0 is exempt.
        fn enter(&mut self, from: u8, now: u64) -> Entered {
            let id = self.active.len() as Id;
            self.active.push(Arc::new(AtomicU64::new(now)));
            let of = (from > 0).then(|| source(from));
            let entered = self.table.enter(id, of, Arc::clone(&self.active[id as usize]));
            self.check();
            entered
        }

        fn leave(&mut self, id: Id) -> Option<Id> {
            let next = self.table.leave(id);
            self.check();
            next
        }

        fn check(&self) {
            let Table { most, seated, sources, largest, waiting } = &self.table;
            assert!(seated.len() <= *most);
            assert!(waiting.is_empty() || seated.len() == *most, "a free seat is taken");
            let counted = seated.values().filter(|one| one.source.is_some()).count();
            assert_eq!(sources.values().map(BTreeSet::len).sum::<usize>(), counted);
            let sizes: BTreeSet<_> = sources.iter().map(|(of, all)| (all.len(), *of)).collect();
            assert_eq!(sizes, *largest);
        }
    }

    ///
    #[test]
    fn largest_source_loses_its_longest_idle_connection() {
        let mut bench = Bench::new(5);
        for (now, from) in [1, 1, 1, 1, 2].into_iter().enumerate() {
            assert_eq!(
                bench.enter(from, now as u64),
                Entered::Seated,
                "no share while there is room"
            );
        }
        // The first one was used since.
        bench.active[0].store(10, Ordering::Relaxed);
        assert_eq!(bench.enter(3, 11), Entered::InPlaceOf(1));
        assert_eq!(bench.enter(1, 12), Entered::InPlaceOf(2), "its own, since it has the most");
        assert_eq!(bench.enter(2, 13), Entered::InPlaceOf(3));
        assert_eq!(bench.leave(3), None, "evicted before");
    }

    ///
    #[test]
    fn source_with_one_connection_keeps_it() {
        let mut bench = Bench::new(3);
        for from in [1, 2, 3] {
            assert_eq!(bench.enter(from, 0), Entered::Seated);
        }
        for from in [4, 1, 0] {
            assert_eq!(bench.enter(from, 1), Entered::Waiting);
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
            assert_eq!(bench.enter(from, 0), Entered::Seated);
        }
        assert_eq!(bench.enter(2, 1), Entered::Waiting);
        assert_eq!(bench.leave(0), Some(3));
        assert_eq!(bench.enter(0, 1), Entered::Waiting);
        assert_eq!(bench.leave(2), Some(4));
    }

    /// whatever happens, the table is consistent and one source never keeps another one out.
    #[test]
    fn every_short_history_keeps_the_rules() {
        // Each step is a connection from one of three sources, the exempt one, or the end of one of four connections.
        let steps = 8_usize;
        for history in 0..steps.pow(6) {
            let mut bench = Bench::new(3);
            let mut gone = Vec::new();
            for n in 0..6 {
                let step = history / steps.pow(n) % steps;
                if step >= 4 {
                    let id = (step - 4) as Id;
                    if (id as usize) < bench.active.len() && !gone.contains(&id) {
                        gone.push(id);
                        bench.leave(id);
                    }
                    continue;
                }
                let from = step as u8;
                let sizes = bench.table.largest.clone();
                let own = sizes.iter().find(|(_, of)| from > 0 && *of == source(from));
                let own = own.map_or(0, |(size, _)| *size);
                match bench.enter(from, n.into()) {
                    Entered::Seated => {}
                    Entered::Waiting => {
                        let most = sizes.last().map_or(0, |(size, _)| *size);
                        assert!(own < 2 && most < own + 2, "something could have been evicted");
                    }
                    Entered::InPlaceOf(victim) => {
                        gone.push(victim);
                        let sizes = &bench.table.largest;
                        let alone = sizes.iter().all(|(size, _)| *size > 0);
                        assert!(alone && victim < bench.active.len() as Id - 1);
                    }
                }
            }
        }
    }
}
