//! What a storage may show after a crash, computed from the lines of its worker.
//!
//! For each key the history keeps every state that is still possible. An acknowledged change leaves only states with
//! it; one that was attempted, or failed with its outcome unknown, may or may not have taken place; one that failed
//! otherwise must not have. A transaction took place for all of its keys or for none. Each key has at most one change
//! under way at a time: workers own their keys.

use std::collections::{BTreeMap, BTreeSet};

use super::protocol::{Held, Line, Seen, Verb, parse_lines};
use super::sample;

/// What was found in a reopened storage, key by key; keys that are absent are left out or [`Seen::Absent`].
pub type View = BTreeMap<String, Seen>;

/// The oracle: everything that one or several workers said about one storage.
#[derive(Clone, Debug, Default)]
pub struct History {
    keys: BTreeMap<String, KeyHistory>,
    acknowledged: usize,
    failed: usize,
    last_generation: u64,
    complaints: Vec<String>,
}

#[derive(Clone, Debug)]
struct KeyHistory {
    possible: Vec<Possible>,
    attempt: Option<Change>,
    versions: BTreeMap<u64, u64>,
}

#[derive(Clone, Debug)]
struct Change {
    generation: u64,
    verb: Verb,
    batch: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Possible {
    state: Option<State>,
    batches: BTreeMap<String, bool>,
}

/// Value of one generation, last changed (value or expiry) by another or the same.
#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    generation: u64,
    changed: u64,
}

impl History {
    /// Nothing was stored yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what a worker wrote.
    ///
    /// # Errors
    /// A line that is none of the protocol, in words.
    pub fn feed(&mut self, text: &str) -> Result<(), String> {
        for line in parse_lines(text)? {
            self.add(&line);
        }
        Ok(())
    }

    /// Adds one line.
    pub fn add(&mut self, line: &Line) {
        match line {
            Line::Opened | Line::Done | Line::Note(_) => {}
            Line::Attempt { key, generation, verb, batch } => {
                self.attempt(key, Change { generation: *generation, verb: *verb, batch: batch.clone() });
            }
            Line::Acknowledged { key, generation, version } => {
                self.acknowledge(key, *generation, *version);
            }
            Line::Failed { key, generation, unknown, .. } => self.fail(key, *generation, *unknown),
            Line::Read { key, seen } => {
                if let Err(complaint) = self.matching(key, seen) {
                    self.complaints.push(format!("read back by the living process: {complaint}"));
                }
            }
            Line::Broken(text) => self.complaints.push(format!("the worker gave up: {text}")),
        }
    }

    fn attempt(&mut self, key: &str, change: Change) {
        self.last_generation = self.last_generation.max(change.generation);
        let entry = self.keys.entry(key.to_owned()).or_default();
        entry.give_up_attempt();
        entry.attempt = Some(change);
    }

    fn acknowledge(&mut self, key: &str, generation: u64, version: Option<u64>) {
        let Some((entry, change)) = self.end(key, generation) else { return };
        entry.possible = entry.after(&change);
        let earlier = entry.versions.values().max().copied();
        if let Some(version) = version {
            entry.versions.insert(generation, version);
        }
        self.acknowledged += 1;
        if version.is_some() && version <= earlier {
            let text = format!("version {version:?} of {key:?} generation {generation} follows {earlier:?}");
            self.complaints.push(text);
        }
    }

    fn fail(&mut self, key: &str, generation: u64, unknown: bool) {
        let Some((entry, change)) = self.end(key, generation) else { return };
        let mut without = entry.before(&change);
        if unknown {
            without.extend(entry.after(&change));
        }
        entry.possible = without;
        self.failed += 1;
    }

    fn end(&mut self, key: &str, generation: u64) -> Option<(&mut KeyHistory, Change)> {
        let found = self.keys.get_mut(key).and_then(|entry| {
            let change = entry.attempt.take_if(|change| change.generation == generation)?;
            Some((entry, change))
        });
        if found.is_none() {
            self.complaints.push(format!("the worker ended {key:?} generation {generation}, never begun"));
        }
        found
    }

    /// How many changes were acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// How many changes failed with an error.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// The greatest generation that was attempted; a later worker on the same storage starts above it.
    pub fn last_generation(&self) -> u64 {
        self.last_generation
    }

    /// Every key that was ever touched.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// What is wrong with what was found (and with what the workers themselves read back), in words.
    pub fn check(&self, view: &View) -> Vec<String> {
        let mut complaints = self.complaints.clone();
        let keys: BTreeSet<&String> = self.keys.keys().chain(view.keys()).collect();
        let mut batches: BTreeMap<String, Vec<(&str, BTreeSet<bool>)>> = BTreeMap::new();
        for key in keys {
            match self.matching(key, view.get(key).unwrap_or(&Seen::Absent)) {
                Err(complaint) => complaints.push(complaint),
                Ok(possible) => join_batches(&mut batches, key, &possible),
            }
        }
        complaints.extend(batches.iter().filter_map(|(batch, members)| torn_batch(batch, members)));
        complaints
    }

    /// Takes what was found as the truth from now on, for a further worker on the same storage.
    pub fn settle(&mut self, view: &View) {
        self.complaints.clear();
        let found: Vec<(String, Vec<Possible>)> = self
            .keys
            .keys()
            .map(|key| (key.clone(), self.matching(key, view.get(key).unwrap_or(&Seen::Absent))))
            .filter_map(|(key, possible)| Some((key, possible.ok()?)))
            .collect();
        for (key, mut possible) in found {
            possible.iter_mut().for_each(|possible| possible.batches.clear());
            possible.dedup();
            if let Some(entry) = self.keys.get_mut(&key) {
                entry.possible = possible;
                entry.attempt = None;
            }
        }
    }

    /// The possible states of a key that agree with what was found.
    fn matching(&self, key: &str, seen: &Seen) -> Result<Vec<Possible>, String> {
        let Some(entry) = self.keys.get(key) else {
            return match seen {
                Seen::Absent => Ok(vec![Possible::default()]),
                found => Err(format!("{key:?} was never stored, found {found:?}")),
            };
        };
        let mut all = entry.clone();
        all.give_up_attempt();
        let agree: Vec<Possible> =
            all.possible.iter().filter(|possible| entry.agrees(possible, seen)).cloned().collect();
        if agree.is_empty() {
            let states: Vec<_> = all.possible.iter().map(|possible| possible.state).collect();
            return Err(format!("{key:?}: found {seen:?}, possible were {states:?}"));
        }
        Ok(agree)
    }
}

impl Default for KeyHistory {
    fn default() -> Self {
        Self { possible: vec![Possible::default()], attempt: None, versions: BTreeMap::new() }
    }
}

impl KeyHistory {
    /// The attempt has no answer: it may or may not have taken place.
    fn give_up_attempt(&mut self) {
        if let Some(change) = self.attempt.take() {
            let mut possible = self.before(&change);
            possible.extend(self.after(&change));
            self.possible = possible;
        }
    }

    fn before(&self, change: &Change) -> Vec<Possible> {
        self.possible.iter().map(|possible| possible.noting(change, false)).collect()
    }

    fn after(&self, change: &Change) -> Vec<Possible> {
        let mut after: Vec<Possible> = Vec::new();
        for possible in &self.possible {
            let mut next = possible.noting(change, true);
            next.state = change.apply(possible.state);
            if !after.contains(&next) {
                after.push(next);
            }
        }
        after
    }

    fn agrees(&self, possible: &Possible, seen: &Seen) -> bool {
        match (possible.state, seen) {
            (None, Seen::Absent) => true,
            (Some(state), Seen::Value(held)) => self.agrees_in_full(state, held),
            _ => false,
        }
    }

    fn agrees_in_full(&self, state: State, held: &Held) -> bool {
        let version = self.versions.get(&state.changed);
        held.generation == state.generation
            && held.expires_at == sample::expiry(state.changed)
            && (version.is_none() || held.version.is_none() || held.version.as_ref() == version)
    }
}

impl Change {
    fn apply(&self, state: Option<State>) -> Option<State> {
        match self.verb {
            Verb::Put => Some(State { generation: self.generation, changed: self.generation }),
            Verb::Delete => None,
            Verb::Touch => state.map(|state| State { changed: self.generation, ..state }),
        }
    }
}

impl Possible {
    fn noting(&self, change: &Change, took_place: bool) -> Self {
        let mut noted = self.clone();
        if let Some(batch) = &change.batch {
            noted.batches.insert(batch.clone(), took_place);
        }
        noted
    }
}

fn join_batches<'k>(
    batches: &mut BTreeMap<String, Vec<(&'k str, BTreeSet<bool>)>>,
    key: &'k str,
    possible: &[Possible],
) {
    let names: BTreeSet<&String> = possible.iter().flat_map(|possible| possible.batches.keys()).collect();
    for name in names {
        let verdicts = possible.iter().filter_map(|possible| possible.batches.get(name)).copied().collect();
        batches.entry(name.clone()).or_default().push((key, verdicts));
    }
}

fn torn_batch(batch: &str, members: &[(&str, BTreeSet<bool>)]) -> Option<String> {
    let agreed = [false, true].iter().any(|verdict| members.iter().all(|(_, set)| set.contains(verdict)));
    (!agreed).then(|| format!("transaction {batch} took place in part: {members:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(generation: u64, changed: u64) -> Seen {
        Seen::Value(Held { generation, expires_at: sample::expiry(changed), version: None })
    }

    fn complaints(text: &str, view: &[(&str, Seen)]) -> usize {
        let mut history = History::new();
        history.feed(text).unwrap();
        history.check(&view.iter().map(|(key, seen)| ((*key).into(), seen.clone())).collect()).len()
    }

    #[test]
    fn an_acknowledged_change_must_be_there() {
        let text = "A k 1 put\nK k 1\nA k 2 put\nK k 2\n";
        assert_eq!(complaints(text, &[("k", held(2, 2))]), 0);
        assert_eq!(complaints(text, &[("k", held(1, 1))]), 1);
        assert_eq!(complaints(text, &[("k", held(2, 1))]), 1, "expiry of another generation");
        assert_eq!(complaints(text, &[]), 1);
        assert_eq!(complaints("A k 1 put\nK k 1\nA k 2 del\nK k 2\n", &[("k", held(1, 1))]), 1);
        assert_eq!(complaints("", &[("k", held(1, 1))]), 1, "a key from nowhere");
    }

    #[test]
    fn an_open_change_may_or_may_not_be_there() {
        for end in ["", "E k 2 Timeout?\n"] {
            let text = format!("A k 1 put\nK k 1\nA k 2 put\n{end}");
            assert_eq!(complaints(&text, &[("k", held(2, 2))]), 0);
            assert_eq!(complaints(&text, &[("k", held(1, 1))]), 0);
            assert_eq!(complaints(&text, &[]), 1);
        }
        let refused = "A k 1 put\nK k 1\nA k 2 put\nE k 2 Capacity\n";
        assert_eq!(complaints(refused, &[("k", held(1, 1))]), 0);
        assert_eq!(complaints(refused, &[("k", held(2, 2))]), 1);
    }

    #[test]
    fn a_touch_changes_the_expiry_alone() {
        let text = "A k 1 put\nK k 1\nA k 2 touch\nK k 2\n";
        assert_eq!(complaints(text, &[("k", held(1, 2))]), 0);
        assert_eq!(complaints(text, &[("k", held(1, 1))]), 1);
        assert_eq!(complaints("A k 2 touch\nK k 2\n", &[]), 0);
    }

    #[test]
    fn a_transaction_is_whole_or_absent() {
        let text = "A a 1 put\nK a 1\nA a 2 put b1\nA b 3 put b1\n";
        assert_eq!(complaints(text, &[("a", held(1, 1))]), 0);
        assert_eq!(complaints(text, &[("a", held(2, 2)), ("b", held(3, 3))]), 0);
        assert_eq!(complaints(text, &[("a", held(2, 2))]), 1);
        assert_eq!(complaints(text, &[("a", held(1, 1)), ("b", held(3, 3))]), 1);
    }

    #[test]
    fn versions_must_grow_and_agree() {
        let versioned = |version| {
            Seen::Value(Held { generation: 2, expires_at: sample::expiry(2), version: Some(version) })
        };
        let text = "A k 1 put\nK k 1 10\nA k 2 put\nK k 2 11\n";
        assert_eq!(complaints(text, &[("k", versioned(11))]), 0);
        assert_eq!(complaints(text, &[("k", versioned(10))]), 1);
        assert_eq!(complaints("A k 1 put\nK k 1 10\nA k 2 put\nK k 2 10\n", &[("k", versioned(10))]), 1);
    }

    #[test]
    fn settling_keeps_what_was_found() {
        let mut history = History::new();
        history.feed("A k 1 put\nK k 1\nA k 2 put\n").unwrap();
        let view = View::from([("k".into(), held(1, 1))]);
        history.settle(&view);
        assert!(history.check(&view).is_empty());
        assert_eq!(history.check(&View::from([("k".into(), held(2, 2))])).len(), 1);
    }
}
