//! The steps of a request that shows the old password of roy.

use super::database::{Change, Row};
use super::server::{Actor, Dated, Entry, Site};
use super::world::{StepLabel, Steps, World};
use super::{EntriesUnder, Renewal};
use crate::store::Revision;
use crate::store::lease::{Changes, StateTag};

/// The outcomes that a request may have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Claim {
    /// A command that revoked the password had returned before the request arrived.
    Revoked,
    /// The password has been valid since the request arrived.
    Valid,
    /// The password was changed meanwhile, or by a command that has not returned.
    Unclear,
}

/// A request that shows the old password of roy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Request {
    pub(super) claim: Claim,
    pub(super) phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Phase {
    /// The clock was read.
    Arrived { age: u8 },
    /// Renews on demand. The lock of the renewal is held.
    Renewing { age: u8 },
    /// The revision was read, and is not published yet.
    Renewed { age: u8, revision: u64 },
    /// The revision of the lease was taken, if there was one.
    Looked { revision: Option<u64> },
    /// The row was read, and the password is compared with this hash.
    Hashing { revision: Option<u64>, hash: u8 },
    /// The row was read for a password that has matched this hash.
    Read { revision: Option<u64>, hash: u8, row: Row, tag: i64, is_cached: bool },
    /// The request was granted, and its hash is to be replaced.
    Replacing { revision: Option<u64> },
    /// The hash was replaced, and the cache entry is not yet.
    Replaced { revision: Option<u64> },
}

impl Phase {
    pub(super) fn age(self) -> Option<u8> {
        match self {
            Self::Arrived { age } | Self::Renewing { age } | Self::Renewed { age, .. } => Some(age),
            _ => None,
        }
    }

    pub(super) fn age_mut(&mut self) -> Option<&mut u8> {
        match self {
            Self::Arrived { age } | Self::Renewing { age } | Self::Renewed { age, .. } => Some(age),
            _ => None,
        }
    }
}

impl Actor<'_> {
    pub(super) fn arrival_steps(&self, steps: &mut Steps) {
        let server = self.server();
        if server.requests.len() == self.model.scenario.requests {
            return;
        }
        let claim = self.world.claim();
        let add = |phase| {
            self.step("a request arrives", |server| {
                server.requests.push(Request { claim, phase });
                server.requests.sort_unstable();
            })
        };
        let arrived = add(Phase::Arrived { age: 0 });
        if self.model.scenario.pauses {
            steps.push(arrived);
        } else {
            self.finish(arrived, steps);
        }
        if !self.model.rules.reads_row_after_arrival {
            for request in &server.requests {
                if matches!(request.phase, Phase::Read { is_cached: false, .. }) {
                    steps.push(add(request.phase));
                }
            }
        }
    }

    /// Adds the states in which a request without pauses can end.
    fn finish(&self, arrived: (StepLabel, World), steps: &mut Steps) {
        let mut open = vec![arrived];
        while let Some((last, world)) = open.pop() {
            if world.servers[self.index].requests.is_empty() {
                steps.push((last, world));
            } else {
                Actor { world: &world, ..*self }.request_steps(0, &mut open);
            }
        }
    }

    pub(super) fn request_steps(&self, slot: usize, steps: &mut Steps) {
        let server = self.server();
        let to = |name, phase| {
            self.step(name, |server| {
                server.requests[slot].phase = phase;
                server.requests.sort_unstable();
            })
        };
        match server.requests[slot].phase {
            Phase::Arrived { age } => match (self.model.scenario.renewal, server.current(age)) {
                (Renewal::Timer, Some(revision)) => {
                    let phase = Phase::Looked { revision: Some(revision) };
                    steps.push(to("a request takes the revision", phase));
                }
                (Renewal::Timer, None) => {
                    steps.push(self.end(slot, "a request is unavailable without a lease"));
                    let phase = Phase::Looked { revision: None };
                    steps.push(to("a request goes on without a lease", phase));
                }
                (Renewal::OnDemand, current) => {
                    let is_locked = server.requests.iter().any(|request| {
                        matches!(request.phase, Phase::Renewing { .. } | Phase::Renewed { .. })
                    });
                    if current.is_some() && (is_locked || !server.ends_soon(age)) {
                        let phase = Phase::Looked { revision: current };
                        steps.push(to("a request takes the revision", phase));
                    } else if !is_locked {
                        steps.push(to("a request renews the lease", Phase::Renewing { age }));
                    }
                }
            },
            Phase::Renewing { age } => {
                let revision = self.world.primary.data_version();
                steps.push(to("the revision is read", Phase::Renewed { age, revision }));
                let phase = Phase::Looked { revision: None };
                let (label, mut failed) = to("the renewal fails", phase);
                failed.servers[self.index].lease = None;
                steps.push((label, failed));
            }
            Phase::Renewed { age, revision } => {
                let phase = Phase::Looked { revision: Some(revision) };
                let (label, mut world) = to("the renewed lease is published", phase);
                let server = &mut world.servers[self.index];
                server.names.record(Changes::Unknown, Revision(revision));
                let age = if self.model.rules.dates_before_sending { age } else { 0 };
                server.lease = Some(Dated { revision, age });
                steps.push((label, world));
            }
            Phase::Looked { revision } => match (revision, server.entry) {
                (Some(current), Some(entry)) => {
                    if entry.revision == current {
                        steps.push(self.grant(slot, "the cache grants at its revision"));
                    } else if server.names.is_unchanged("roy", Revision(entry.revision)) {
                        steps.push(self.grant(slot, "the cache grants an unchanged user"));
                    } else {
                        let name = "the row of an outdated entry is read";
                        steps.push(match self.row() {
                            Some((row, tag)) => {
                                let (hash, is_cached) = (entry.hash, true);
                                to(name, Phase::Read { revision, hash, row, tag, is_cached })
                            }
                            None => self.end(slot, "a row is unavailable"),
                        });
                    }
                }
                _ => steps.push(match self.row() {
                    Some((Row::Old(hash), _)) => {
                        to("a password is hashed", Phase::Hashing { revision, hash })
                    }
                    Some(_) => self.refuse(slot, "a request is refused"),
                    None => self.end(slot, "a row is unavailable"),
                }),
            },
            Phase::Hashing { revision, hash } => steps.push(match self.row() {
                Some((row, tag)) => {
                    let phase = Phase::Read { revision, hash, row, tag, is_cached: false };
                    to("the row is read after the hash", phase)
                }
                None => self.end(slot, "a row is unavailable"),
            }),
            Phase::Read { revision, hash, row, tag, is_cached } => match row {
                Row::Old(now) if now == hash => {
                    steps.push(self.grant_by_row(
                        slot,
                        self.revision_of_entry(revision, tag),
                        hash,
                        is_cached,
                    ));
                }
                Row::Old(_) if !is_cached && !self.model.rules.verifies_replaced_hash_again => {
                    steps.push(self.refuse(slot, "a request is refused for its replaced hash"));
                }
                Row::None | Row::New if !is_cached => {
                    steps.push(self.refuse(slot, "a request is refused"));
                }
                _ => {
                    let phase = Phase::Looked { revision };
                    let (label, mut world) = to("the row differs from the verified one", phase);
                    if is_cached {
                        world.servers[self.index].entry = None;
                    }
                    steps.push((label, world));
                }
            },
            Phase::Replacing { revision } => {
                let is_primary = server.site == Site::Primary;
                match self.world.changed(Change::Rehash, self.model).filter(|_| is_primary) {
                    Some(mut world) => {
                        world.servers[self.index].requests[slot].phase =
                            Phase::Replaced { revision };
                        world.servers[self.index].requests.sort_unstable();
                        steps.push((self.label("a hash is replaced"), world));
                    }
                    None => steps.push(self.end(slot, "a hash is not replaced")),
                }
            }
            Phase::Replaced { revision } => {
                let (label, mut world) = self.end(slot, "the entry of a replaced hash is made");
                let server = &mut world.servers[self.index];
                server.entry =
                    revision.map(|revision| Entry { revision, hash: 1 }).or(server.entry);
                steps.push((label, world));
            }
        }
    }

    /// Reads the row of roy, and the tag of its state.
    fn row(&self) -> Option<(Row, i64)> {
        let node = self.world.node(self.server().site)?;
        let is_accepted = !node.read_only || !self.model.rules.rejects_read_only_rows;
        is_accepted.then_some((node.row, node.tag.0))
    }

    /// Returns the revision of an entry by a row that was read in the state `tag`, for a request
    /// that arrived at `revision`.
    fn revision_of_entry(&self, revision: Option<u64>, tag: i64) -> Option<u64> {
        let arrival = revision?;
        match (self.model.rules.entries, self.model.scenario.renewal) {
            (EntriesUnder::LastRevision, _) => self.server().current(0),
            (EntriesUnder::StateOfRow, Renewal::Timer) => {
                let seen = self.server().follower.revision_of(StateTag(tag));
                // The entry of another state is outdated.
                Some(seen.map_or(0, |revision| revision.0))
            }
            _ => Some(arrival),
        }
    }

    fn end(&self, slot: usize, name: &'static str) -> (StepLabel, World) {
        self.step(name, |server| {
            server.requests.remove(slot);
        })
    }

    fn grant(&self, slot: usize, name: &'static str) -> (StepLabel, World) {
        let (label, mut world) = self.end(slot, name);
        if self.server().requests[slot].claim == Claim::Revoked {
            world.violation = Some("a revoked password was granted");
        }
        (label, world)
    }

    fn refuse(&self, slot: usize, name: &'static str) -> (StepLabel, World) {
        let (label, mut world) = self.end(slot, name);
        if self.server().requests[slot].claim == Claim::Valid {
            world.violation = Some("a valid password was refused");
        }
        (label, world)
    }

    fn grant_by_row(
        &self,
        slot: usize,
        revision: Option<u64>,
        hash: u8,
        is_cached: bool,
    ) -> (StepLabel, World) {
        let name = if is_cached { "the row grants" } else { "the row grants after the hash" };
        let (label, mut world) = self.grant(slot, name);
        let server = &mut world.servers[self.index];
        server.entry = revision.map(|revision| Entry { revision, hash }).or(server.entry);
        if self.model.scenario.rehashes && !is_cached && hash == 0 {
            let claim = Claim::Unclear;
            server.requests.push(Request { claim, phase: Phase::Replacing { revision } });
            server.requests.sort_unstable();
        }
        (label, world)
    }
}
