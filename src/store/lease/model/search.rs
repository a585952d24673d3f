//! The breadth-first search, which finds a shortest trace to a violation.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use super::Model;
use super::world::{StepLabel, World};

pub(super) struct Explored {
    pub(super) states: usize,
    /// The names of all steps that were taken.
    pub(super) steps: BTreeSet<&'static str>,
    pub(super) counterexample: Option<Counterexample>,
}

/// A violation, and the steps that lead to it from the start.
pub(super) struct Counterexample {
    pub(super) violation: &'static str,
    trace: Vec<StepLabel>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.violation)?;
        for StepLabel { name, server } in &self.trace {
            write!(f, "\n    {name}")?;
            if let Some(server) = server {
                write!(f, " [server {server}]")?;
            }
        }
        Ok(())
    }
}

/// A state that was found, and the step that led to it from another one.
struct Found {
    world: Rc<World>,
    from: Option<(usize, StepLabel)>,
}

/// Explores all states, or those up to a violation that is `sought`.
pub(super) fn explore(model: &Model, sought: impl Fn(&str) -> bool) -> Explored {
    let start = Rc::new(World::new(model));
    let mut seen = HashSet::<_, BuildHasherDefault<FastHasher>>::from_iter([Rc::clone(&start)]);
    let mut found = vec![Found { world: start, from: None }];
    let mut steps = BTreeSet::new();
    let mut counterexample = None;
    let mut next = 0;
    while next < found.len() && counterexample.is_none() {
        let world = Rc::clone(&found[next].world);
        for (label, mut world) in world.steps(model) {
            steps.insert(label.name);
            if let Some(violation) = world.violation.take().filter(|violation| sought(violation)) {
                let trace = trace(&found, next, label);
                counterexample = Some(Counterexample { violation, trace });
                break;
            }
            let world = Rc::new(world);
            if seen.insert(Rc::clone(&world)) {
                found.push(Found { world, from: Some((next, label)) });
            }
        }
        next += 1;
    }
    Explored { states: found.len(), steps, counterexample }
}

fn trace(found: &[Found], mut last: usize, label: StepLabel) -> Vec<StepLabel> {
    let mut trace = vec![label];
    while let Some((before, label)) = found[last].from {
        trace.push(label);
        last = before;
    }
    trace.reverse();
    trace
}

/// A multiplicative hash, which is much faster than the default one without optimization.
#[derive(Default)]
struct FastHasher(u64);

impl Hasher for FastHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_i64(&mut self, value: i64) {
        self.write_u64(value.cast_unsigned());
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_usize(value.cast_unsigned());
    }

    fn finish(&self) -> u64 {
        // The table takes the lowest bits, and the product mixes the highest best.
        self.0.rotate_left(26)
    }
}
