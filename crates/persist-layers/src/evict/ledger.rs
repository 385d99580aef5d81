use std::collections::{BTreeSet, HashMap};

use persist_core::{Key, Metadata, Timestamp, Version};

use super::config::{EvictConfig, EvictPolicy};

/// What is known of a value.
#[derive(Clone, Debug)]
struct Account {
    bytes: u64,
    cost: f64,
    uses: u64,
    pinned: bool,
    holds: usize,
    version: Version,
    expires_at: Option<Timestamp>,
    rank: Rank,
}

/// The place of a value in the order in which values go: the lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Orders like the number that it is made of, which is never negative.
    priority: u64,
    /// Of equal ones the one that was used first goes first.
    turn: u64,
}

/// Who is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Victim {
    pub(super) key: Key,
    pub(super) version: Version,
}

/// The bytes of all values, and the order in which they go.
///
/// `Cost` is GreedyDual-Size: Cao and Irani, "Cost-aware WWW proxy caching algorithms" (USENIX Symposium on Internet Technologies and
/// Systems, 1997). A value is worth its cost for each byte, on top of what the last one that went was worth when it went, so that
/// what is not used grows cheaper compared with all that comes later.
#[derive(Debug)]
pub(super) struct Ledger {
    policy: EvictPolicy,
    cost_tag: String,
    pin_tag: String,
    pinned: Vec<String>,
    accounts: HashMap<Key, Account>,
    order: BTreeSet<(Rank, Key)>,
    bytes: u64,
    /// What the last one that went was worth.
    inflation: f64,
    turn: u64,
}

impl Ledger {
    pub(super) fn new(config: &EvictConfig) -> Self {
        Self {
            policy: config.policy,
            cost_tag: config.cost_tag.clone(),
            pin_tag: config.pin_tag.clone(),
            pinned: config.pinned.clone(),
            accounts: HashMap::new(),
            order: BTreeSet::new(),
            bytes: 0,
            inflation: 0.0,
            turn: 0,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What a value takes.
    pub(super) fn size(key: &Key, metadata: &Metadata) -> u64 {
        key.len() as u64 + metadata.size + metadata.tags.byte_size() as u64
    }

    /// The bytes of a key that are in the books.
    pub(super) fn bytes_of(&self, key: &Key) -> u64 {
        self.accounts.get(key).map_or(0, |account| account.bytes)
    }

    /// Enters a value that was stored, found or touched. A key keeps its uses.
    pub(super) fn enter(&mut self, key: &Key, metadata: &Metadata) {
        let old = self.remove(key);
        let cost = metadata.tags.get(&self.cost_tag).and_then(|text| text.trim().parse().ok());
        let pinned = metadata.tags.get(&self.pin_tag) == Some("true")
            || self.pinned.iter().any(|prefix| key.starts_with(prefix.as_str()));
        let account = Account {
            bytes: Self::size(key, metadata),
            cost: cost.filter(|cost: &f64| cost.is_finite() && *cost > 0.0).unwrap_or(1.0),
            uses: old.as_ref().map_or(1, |old| old.uses + 1),
            pinned,
            holds: old.as_ref().map_or(0, |old| old.holds),
            version: metadata.version,
            expires_at: metadata.expires_at,
            rank: Rank { priority: 0, turn: 0 },
        };
        self.bytes += account.bytes;
        self.place(key, account);
    }

    /// Notes that a value was read.
    pub(super) fn used(&mut self, key: &Key) {
        let Some(mut account) = self.accounts.remove(key) else { return };
        self.order.remove(&(account.rank, key.clone()));
        account.uses += 1;
        self.place(key, account);
    }

    fn place(&mut self, key: &Key, mut account: Account) {
        self.turn += 1;
        let worth = match self.policy {
            EvictPolicy::Cost => self.inflation + account.cost / account.bytes.max(1) as f64,
            EvictPolicy::Lru => 0.0,
            EvictPolicy::Lfu => account.uses as f64,
        };
        account.rank = Rank { priority: worth.max(0.0).to_bits(), turn: self.turn };
        if !account.pinned && account.holds == 0 {
            self.order.insert((account.rank, key.clone()));
        }
        self.accounts.insert(key.clone(), account);
    }

    /// Takes a key out of the books, because it is gone.
    pub(super) fn forget(&mut self, key: &Key) {
        self.remove(key);
    }

    fn remove(&mut self, key: &Key) -> Option<Account> {
        let account = self.accounts.remove(key)?;
        self.order.remove(&(account.rank, key.clone()));
        self.bytes -= account.bytes;
        Some(account)
    }

    /// Who goes next, but not this key.
    pub(super) fn victim(&mut self, spared: &[Key]) -> Option<Victim> {
        let (_, key) = self.order.iter().find(|(_, key)| !spared.contains(key))?;
        let account = self.accounts.get(key)?;
        Some(Victim { key: key.clone(), version: account.version })
    }

    /// Takes out who went to make room.
    pub(super) fn evicted(&mut self, key: &Key) {
        if let Some(account) = self.remove(key)
            && self.policy == EvictPolicy::Cost
        {
            self.inflation = self.inflation.max(f64::from_bits(account.rank.priority));
        }
    }

    /// Takes out what has expired; it is gone below.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let over = |account: &Account| account.expires_at.is_some_and(|end| end <= now);
        let gone: Vec<Key> =
            self.accounts.iter().filter(|(_, account)| over(account)).map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.forget(key));
    }

    /// Keeps a value as long as somebody holds it.
    pub(super) fn hold(&mut self, key: &Key) {
        if let Some(account) = self.accounts.get_mut(key) {
            account.holds += 1;
            self.order.remove(&(account.rank, key.clone()));
        }
    }

    pub(super) fn release(&mut self, key: &Key) {
        if let Some(account) = self.accounts.get_mut(key) {
            account.holds = account.holds.saturating_sub(1);
            if account.holds == 0 && !account.pinned {
                self.order.insert((account.rank, key.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use persist_core::{Descriptor, StoreOptions, Value};

    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn enter(ledger: &mut Ledger, name: &str, size: usize, options: &StoreOptions) {
        let metadata = Descriptor::new("s", "memory").draft_metadata(&Value::bytes(vec![0; size]), options);
        ledger.enter(&key(name), &metadata);
    }

    fn next(ledger: &mut Ledger) -> String {
        let victim = ledger.victim(&[]).map_or_else(|| "none".to_owned(), |victim| victim.key.to_string());
        if let Ok(key) = Key::new(victim.clone()) {
            ledger.evicted(&key);
        }
        victim
    }

    fn ledger(policy: EvictPolicy) -> Ledger {
        Ledger::new(&EvictConfig { policy, pinned: vec!["keep/".to_owned()], ..EvictConfig::new(1) })
    }

    fn cost(cost: &str) -> StoreOptions {
        StoreOptions::new().tag("cost", cost)
    }

    #[test]
    fn by_cost_the_cheapest_byte_goes_first_and_what_is_not_used_grows_cheap() {
        let mut ledger = ledger(EvictPolicy::Cost);
        enter(&mut ledger, "dear", 100, &cost("50"));
        enter(&mut ledger, "cheap", 100, &cost("1"));
        enter(&mut ledger, "large", 10_000, &cost("50"));
        assert_eq!([next(&mut ledger), next(&mut ledger)], ["large", "cheap"]);
        // Each one that goes lifts what comes later, until even a dear one is cheaper.
        for round in 0..100 {
            enter(&mut ledger, "new", 100, &cost("1"));
            if next(&mut ledger) == "dear" {
                assert!((30..60).contains(&round), "{round}");
                return;
            }
        }
        panic!("what nobody uses stays for ever");
    }

    #[test]
    fn the_one_used_longest_ago_or_least_often_goes_first() {
        for (policy, expected) in [(EvictPolicy::Lru, ["b", "c", "a"]), (EvictPolicy::Lfu, ["c", "b", "a"])] {
            let mut ledger = ledger(policy);
            ["a", "b", "c"].iter().for_each(|name| enter(&mut ledger, name, 10, &cost("1")));
            ["b", "b", "c", "a", "a", "a"].iter().take(3).for_each(|name| ledger.used(&key(name)));
            ["a", "a", "a"].iter().for_each(|name| ledger.used(&key(name)));
            assert_eq!([next(&mut ledger), next(&mut ledger), next(&mut ledger)], expected, "{policy:?}");
            assert_eq!((ledger.accounts.len(), ledger.bytes()), (0, 0));
        }
    }

    #[test]
    fn what_is_pinned_or_held_stays_and_what_is_let_go_does_not() {
        let mut ledger = ledger(EvictPolicy::Lru);
        enter(&mut ledger, "keep/1", 10, &cost("1"));
        enter(&mut ledger, "pinned", 10, &StoreOptions::new().tag("pin", "true"));
        enter(&mut ledger, "held", 10, &cost("1"));
        ledger.hold(&key("held"));
        ledger.hold(&key("held"));
        assert_eq!(next(&mut ledger), "none");
        ledger.release(&key("held"));
        assert_eq!(next(&mut ledger), "none");
        // Stored anew it is held still, and no longer pinned.
        enter(&mut ledger, "held", 20, &cost("1"));
        enter(&mut ledger, "pinned", 10, &cost("1"));
        assert_eq!(next(&mut ledger), "pinned");
        ledger.release(&key("held"));
        assert_eq!(next(&mut ledger), "held");
        assert_eq!(
            ledger.bytes(),
            Ledger::size(
                &key("keep/1"),
                &Descriptor::new("s", "m").draft_metadata(&Value::bytes(vec![0; 10]), &cost("1"))
            )
        );
    }

    #[test]
    fn costs_that_are_no_numbers_count_as_one() {
        let mut ledger = ledger(EvictPolicy::Cost);
        for (name, text) in [("a", "x"), ("b", "-5"), ("c", "NaN"), ("d", "inf"), ("e", "0")] {
            enter(&mut ledger, name, 10, &cost(text));
        }
        let priorities: Vec<f64> = ledger
            .accounts
            .values()
            .map(|account| f64::from_bits(account.rank.priority) * account.bytes as f64)
            .collect();
        assert!(priorities.iter().all(|worth| (worth - 1.0).abs() < 1e-9), "{priorities:?}");
    }
}
