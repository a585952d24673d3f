//! A state of everything, and the steps of the database, of commands and of time.

use super::database::{Change, Node, Row};
use super::request::Claim;
use super::server::{Server, Site};
use super::{LEASE, LENGTH, Model, Renewal, SLIP, ticks};
use crate::store::lease::wait_for_machines;

/// A step in a trace: its name, and the server that takes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepLabel {
    pub(super) name: &'static str,
    pub(super) server: Option<usize>,
}

/// A command that has not returned. A command that returns without a wait and revokes nothing is
/// only its change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Command {
    /// The ticks until it may return.
    left: u8,
    is_done: bool,
    /// The old password was wrong in the state that this command has made or seen.
    revokes: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct World {
    pub(super) primary: Node,
    standby: Option<Node>,
    /// The primary from before the failover, which answers readings only.
    former: Option<Node>,
    command: Option<Command>,
    /// A command has returned that revoked the old password, and no later state has it again.
    revoked: bool,
    pub(super) changes: u8,
    pub(super) servers: Vec<Server>,
    pub(super) violation: Option<&'static str>,
}

pub(super) type Steps = Vec<(StepLabel, World)>;

pub(super) fn label(name: &'static str) -> StepLabel {
    StepLabel { name, server: None }
}

impl World {
    pub(super) fn new(model: &Model) -> Self {
        let primary = Node::new();
        let standby = model.scenario.has_standby.then(|| primary.with_read_only(true));
        Self {
            primary,
            standby,
            former: None,
            command: None,
            revoked: false,
            changes: 0,
            servers: vec![Server::new(); model.scenario.servers],
            violation: None,
        }
    }

    pub(super) fn node(&self, site: Site) -> Option<&Node> {
        match site {
            Site::Primary => Some(&self.primary),
            Site::Standby => self.standby.as_ref(),
            Site::Former => self.former.as_ref(),
        }
    }

    /// Returns the claim of a request with the old password that arrives now.
    pub(super) fn claim(&self) -> Claim {
        match self.primary.row {
            _ if self.revoked => Claim::Revoked,
            Row::Old(_) => Claim::Valid,
            Row::None | Row::New => Claim::Unclear,
        }
    }

    pub(super) fn steps(&self, model: &Model) -> Steps {
        let mut steps = Vec::new();
        self.change_steps(model, &mut steps);
        self.command_steps(model, &mut steps);
        self.failover_steps(model, &mut steps);
        self.tick_steps(model, &mut steps);
        for server in 0..self.servers.len() {
            self.server_steps(model, server, &mut steps);
        }
        steps
    }

    /// Returns the state after a commit, or `None` if there is nothing to change.
    pub(super) fn changed(&self, change: Change, model: &Model) -> Option<Self> {
        if self.changes == model.scenario.changes {
            return None;
        }
        let unique = self.changes + 1;
        let primary = self.primary.changed(change, unique, model.scenario.log, model.rules)?;
        Some(Self { primary, changes: unique, ..self.clone() }.settled())
    }

    /// Brings the claims up to date with the row of the primary, which is what the database holds.
    fn settled(mut self) -> Self {
        let is_valid = matches!(self.primary.row, Row::Old(_));
        if is_valid {
            self.revoked = false;
            self.command = self.command.map(|command| Command { revokes: false, ..command });
        }
        for request in self.servers.iter_mut().flat_map(|server| &mut server.requests) {
            request.claim = match request.claim {
                Claim::Revoked if is_valid => Claim::Unclear,
                Claim::Valid if !is_valid => Claim::Unclear,
                claim => claim,
            };
        }
        self
    }

    /// Changes by clients that do not wait, e.g. psql.
    fn change_steps(&self, model: &Model, steps: &mut Steps) {
        for (change, name) in [
            (Change::Remove, "psql removes roy"),
            (Change::SetPassword, "psql sets roy's password"),
            (Change::Restore, "psql inserts roy with the old password"),
            (Change::Insert, "psql inserts roy with a new password"),
            (Change::Rehash, "another server rehashes roy's password"),
            (Change::Other, "psql changes ann"),
        ] {
            if model.scenario.external.contains(&change)
                && let Some(world) = self.changed(change, model)
            {
                steps.push((label(name), world));
            }
        }
    }

    fn command_steps(&self, model: &Model, steps: &mut Steps) {
        match self.command {
            Some(command) if !command.is_done => {
                steps.extend(self.commit_steps(model, Change::Remove, command.left));
            }
            Some(Command { left: 0, revokes, .. }) => {
                let revoked = self.revoked || revokes;
                let world = Self { command: None, revoked, ..self.clone() };
                steps.push((label("the command returns"), world));
            }
            // Another command cannot revoke more.
            None if self.revoked => {}
            None if !model.rules.waits_from_answer => {
                let command = Command { left: model.wait(), is_done: false, revokes: false };
                let world = Self { command: Some(command), ..self.clone() };
                steps.push((label("a command begins to wait, before its commit"), world));
            }
            None => {
                for change in model.scenario.commands {
                    steps.extend(self.commit_steps(model, *change, model.wait()));
                }
            }
            Some(_) => {}
        }
    }

    /// The commit of a command that waits for `wait` ticks, with each of its outcomes.
    fn commit_steps(&self, model: &Model, change: Change, wait: u8) -> Steps {
        let rules = model.rules;
        let waiting = |world: Self, name, waits| {
            let revokes = !matches!(world.primary.row, Row::Old(_));
            let left = if waits { wait } else { 0 };
            let command = Some(Command { left, is_done: true, revokes });
            (label(name), Self { command, ..world })
        };
        let Some(world) = self.changed(change, model) else {
            let is_needless = change != Change::Remove || self.primary.row != Row::None;
            let name = "a command finds that roy is removed already";
            let world =
                (!is_needless).then(|| waiting(self.clone(), name, rules.waits_after_no_change));
            return world.into_iter().collect();
        };
        if change.is_insert() {
            let waits = rules.insert_waits.waits(&self.primary);
            return vec![waiting(world, "a command inserts roy with a new password", waits)];
        }
        vec![
            waiting(world.clone(), "a command revokes the old password", true),
            waiting(
                world,
                "a command revokes the old password, and its answer is lost",
                rules.waits_after_unknown_outcome,
            ),
        ]
    }

    fn failover_steps(&self, model: &Model, steps: &mut Steps) {
        let Some(standby) = &self.standby else { return };
        let current = self.primary.with_read_only(true);
        if *standby != current {
            let world = Self { standby: Some(current.clone()), ..self.clone() };
            steps.push((label("the standby replicates"), world));
        }
        let mut world = self.clone();
        world.primary = standby.with_read_only(false);
        world.standby = None;
        world.former = model.scenario.former_primary_lives.then_some(current);
        for server in &mut world.servers {
            server.site = match server.site {
                Site::Primary => Site::Former,
                Site::Standby | Site::Former => Site::Primary,
            };
        }
        steps.push((label("the standby is promoted"), world.settled()));
    }

    fn tick_steps(&self, model: &Model, steps: &mut Steps) {
        let mut next = self.clone();
        if let Some(command) = &mut next.command {
            command.left = command.left.saturating_sub(1);
        }
        let mut all = next.clone();
        all.servers.iter_mut().for_each(|server| server.tick(model));
        steps.push((label("tick"), all));
        for server in 0..self.servers.len() {
            let mut world = next.clone();
            for (other, ticking) in world.servers.iter_mut().enumerate() {
                if other != server {
                    ticking.tick(model);
                }
            }
            let skipping = &mut world.servers[server];
            let name = if !model.rules.clock_runs_in_suspend {
                "tick while the server is suspended"
            } else if model.scenario.slow_clocks && skipping.since_slip == SLIP {
                skipping.since_slip = 0;
                "tick that the slow clock of the server skips"
            } else {
                continue;
            };
            steps.push((StepLabel { name, server: Some(server) }, world));
        }
    }
}

impl Model {
    /// Returns the ticks for which a change waits.
    fn wait(&self) -> u8 {
        self.rules.wait.unwrap_or_else(|| match self.scenario.renewal {
            Renewal::Timer => ticks(wait_for_machines(LENGTH)),
            // The clock of the server is that of the command.
            Renewal::OnDemand => LEASE,
        })
    }
}
