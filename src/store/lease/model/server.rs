//! A server, and the steps of its readings.
//!
//! Times are ages in ticks on the clock of the server, so that equal states at different times are
//! one state.

use std::time::Duration;

use super::request::Request;
use super::world::{StepLabel, Steps, World};
use super::{LATE, LEASE, LENGTH, Model, Renewal, SLIP, TICK};
use crate::store::Revision;
use crate::store::lease::changed_names::ChangeLog;
use crate::store::lease::{Answer, Changes, Follower, Lease, Reading};

/// The time on the clock of each server.
const NOW: Duration = Duration::from_secs(1);

/// A server of the database, as a server is connected to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Site {
    Primary,
    Standby,
    Former,
}

/// A reading of a revision by its age.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Dated {
    pub(super) revision: u64,
    pub(super) age: u8,
}

impl Dated {
    fn of(reading: Reading) -> Self {
        Self { revision: reading.revision.0, age: super::ticks(NOW - reading.sent) }
    }

    fn lease(self) -> Lease {
        let lease = Lease::default();
        lease.publish(Reading::new(Revision(self.revision), at(self.age), LENGTH));
        lease
    }
}

fn at(age: u8) -> Duration {
    NOW - TICK * age.into()
}

/// The reading that the timer takes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Poll {
    Idle,
    /// The clock was read.
    Sent {
        age: u8,
    },
    /// The database has taken the reading.
    Answered {
        age: u8,
        answer: Answer,
    },
    /// The answer was accepted. Its parts take effect one after the other.
    Accepted {
        changes: Option<Changes>,
        reading: Option<Dated>,
        revision: u64,
    },
}

/// The cache entry of the old password.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) hash: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Server {
    pub(super) site: Site,
    pub(super) follower: Follower,
    pub(super) names: ChangeLog,
    poll: Poll,
    pub(super) lease: Option<Dated>,
    pub(super) entry: Option<Entry>,
    pub(super) requests: Vec<Request>,
    /// The ticks since the clock skipped one.
    pub(super) since_slip: u8,
}

impl Server {
    pub(super) fn new() -> Self {
        Self {
            site: Site::Primary,
            follower: Follower::default(),
            names: ChangeLog::default(),
            poll: Poll::Idle,
            lease: None,
            entry: None,
            requests: Vec::new(),
            since_slip: SLIP,
        }
    }

    pub(super) fn tick(&mut self, model: &Model) {
        if model.scenario.slow_clocks {
            self.since_slip = SLIP.min(self.since_slip + 1);
        }
        if let Poll::Sent { age } | Poll::Answered { age, .. } = &mut self.poll {
            // A later answer is rejected as well.
            *age = LATE.min(*age + 1);
        }
        for age in self.ages() {
            *age += 1;
        }
        let mut sorted: Vec<u8> = self.ages().into_iter().map(|age| *age).collect();
        sorted.sort_unstable();
        // Times are compared by differences up to the lease, so longer ones are all equal.
        let mut shrunk = 0;
        let mut before = 0;
        for old in sorted {
            let next = shrunk + LEASE.min(old - before);
            self.ages().into_iter().filter(|age| **age == old).for_each(|age| *age = next);
            (shrunk, before) = (next, old);
        }
        let oldest = self.requests.iter().filter_map(|request| request.phase.age()).max();
        if self.lease.is_some_and(|lease| lease.age >= LEASE + oldest.unwrap_or(0)) {
            // No request can rely on it.
            self.lease = None;
        }
    }

    /// Returns the ages that are compared with each other.
    fn ages(&mut self) -> Vec<&mut u8> {
        let reading = match &mut self.poll {
            Poll::Accepted { reading: Some(reading), .. } => Some(&mut reading.age),
            _ => None,
        };
        let lease = self.lease.as_mut().map(|lease| &mut lease.age);
        let requests = self.requests.iter_mut().filter_map(|request| request.phase.age_mut());
        reading.into_iter().chain(lease).chain(requests).collect()
    }

    pub(super) fn current(&self, age: u8) -> Option<u64> {
        Some(self.lease?.lease().current(at(age))?.0)
    }

    pub(super) fn ends_soon(&self, age: u8) -> bool {
        self.lease.is_none_or(|lease| lease.lease().ends_soon(at(age)))
    }

    /// Lets the next part of an accepted answer take effect.
    fn advance(&mut self, model: &Model) {
        let Poll::Accepted { changes, reading, revision } = &mut self.poll else { return };
        let publishes =
            changes.is_none() || (reading.is_some() && !model.rules.records_before_publishing);
        if publishes {
            self.lease = reading.take();
        } else if let Some(changes) = changes.take() {
            self.names.record(changes, Revision(*revision));
        }
        if let Poll::Accepted { changes: None, reading: None, .. } = self.poll {
            self.poll = Poll::Idle;
        }
    }
}

/// The steps of one server.
pub(super) struct Actor<'a> {
    pub(super) world: &'a World,
    pub(super) model: &'a Model,
    pub(super) index: usize,
}

impl World {
    pub(super) fn server_steps(&self, model: &Model, index: usize, steps: &mut Steps) {
        let actor = Actor { world: self, model, index };
        if model.scenario.renewal == Renewal::Timer {
            actor.poll_steps(steps);
        }
        actor.arrival_steps(steps);
        for slot in 0..self.servers[index].requests.len() {
            actor.request_steps(slot, steps);
        }
    }
}

impl Actor<'_> {
    pub(super) fn server(&self) -> &Server {
        &self.world.servers[self.index]
    }

    pub(super) fn label(&self, name: &'static str) -> StepLabel {
        StepLabel { name, server: Some(self.index) }
    }

    /// Makes a step that changes this server only.
    pub(super) fn step(
        &self,
        name: &'static str,
        change: impl FnOnce(&mut Server),
    ) -> (StepLabel, World) {
        let mut world = self.world.clone();
        change(&mut world.servers[self.index]);
        (self.label(name), world)
    }

    fn poll_steps(&self, steps: &mut Steps) {
        let server = self.server();
        match &server.poll {
            Poll::Idle => {
                steps.push(self.step("dates a reading", |server| {
                    server.poll = Poll::Sent { age: 0 };
                }));
            }
            Poll::Sent { age } => {
                if let Some(node) = self.world.node(server.site) {
                    let answer = node.answer(server.follower.last(), self.model.rules);
                    let age = *age;
                    steps.push(self.step("the database answers the reading", |server| {
                        server.poll = Poll::Answered { age, answer };
                    }));
                }
                self.reconnect_steps("the reading fails", steps);
            }
            Poll::Answered { age, answer } => self.answer_steps(*age, answer, steps),
            Poll::Accepted { .. } => {
                steps.push(self.step("a part of the answer takes effect", |server| {
                    server.advance(self.model);
                }));
            }
        }
    }

    fn answer_steps(&self, age: u8, answer: &Answer, steps: &mut Steps) {
        self.reconnect_steps("the answer is lost", steps);
        let mut follower = self.server().follower.clone();
        let Ok(step) = follower.answered(at(age), NOW, answer.clone()) else {
            return self.reconnect_steps("the answer is rejected", steps);
        };
        let mut reading = Dated::of(step.reading);
        if !self.model.rules.dates_before_sending {
            reading.age = 0;
        }
        steps.push(self.step("the answer is accepted", |server| {
            server.follower = follower;
            server.poll = Poll::Accepted {
                changes: step.changes,
                reading: Some(reading),
                revision: reading.revision,
            };
            while !self.model.scenario.pauses && server.poll != Poll::Idle {
                server.advance(self.model);
            }
        }));
    }

    /// Gives a connection up, and makes one to any server of the database.
    fn reconnect_steps(&self, name: &'static str, steps: &mut Steps) {
        for site in [Site::Primary, Site::Standby, Site::Former] {
            if self.world.node(site).is_some() {
                steps.push(self.step(name, |server| {
                    server.poll = Poll::Idle;
                    server.site = site;
                }));
            }
        }
    }
}
