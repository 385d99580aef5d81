use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What the cache counts over its life. The names under which `stats` shows them stand in [`Counters::figures`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Values that were read.
    pub(crate) hits: Tally,
    /// Reads that found nothing, or something that had expired.
    pub(crate) misses: Tally,
    /// Values handed out after their expiry by `get_or_refresh`.
    pub(crate) stale_hits: Tally,
    /// Values stored.
    pub(crate) stores: AtomicU64,
    /// Values deleted by key.
    pub(crate) deletes: AtomicU64,
    /// Records that had to make room.
    pub(crate) evictions: AtomicU64,
    /// Values that expired.
    pub(crate) expirations: AtomicU64,
    /// Values forgotten by tag or prefix.
    pub(crate) invalidations: AtomicU64,
    /// Values refused because they would not fit if the cache were empty.
    pub(crate) refusals: AtomicU64,
    /// Refreshes begun in the background.
    pub(crate) refreshes: AtomicU64,
    /// Refreshes that failed, panicked or were given up.
    pub(crate) refresh_failures: AtomicU64,
    /// Refreshes whose value was not taken because the key had been changed meanwhile.
    pub(crate) refreshes_outrun: AtomicU64,
}

impl Counters {
    /// All of them by name.
    pub(crate) fn figures(&self) -> BTreeMap<&'static str, u64> {
        let tallies = [("hits", &self.hits), ("misses", &self.misses), ("stale_hits", &self.stale_hits)];
        let counters = [
            ("stores", &self.stores),
            ("deletes", &self.deletes),
            ("evictions", &self.evictions),
            ("expirations", &self.expirations),
            ("invalidations", &self.invalidations),
            ("refusals", &self.refusals),
            ("refreshes", &self.refreshes),
            ("refresh_failures", &self.refresh_failures),
            ("refreshes_outrun", &self.refreshes_outrun),
        ];
        let tallies = tallies.into_iter().map(|(name, tally)| (name, tally.sum()));
        tallies
            .chain(counters.into_iter().map(|(name, counter)| (name, counter.load(Ordering::Relaxed))))
            .collect()
    }
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// How many lanes a tally has.
const LANES: usize = 16;

/// A counter that many threads raise at once without getting into each other's way: each has a lane of its own (but
/// for every sixteenth).
#[derive(Debug, Default)]
pub(crate) struct Tally([Lane; LANES]);

/// A counter in two cache lines of its own; processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lane(AtomicU64);

impl Tally {
    pub(crate) fn count(&self) {
        self.0[lane()].0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().map(|lane| lane.0.load(Ordering::Relaxed)).sum()
    }
}

/// The lane of this thread.
fn lane() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static LANE: Cell<usize> = const { Cell::new(usize::MAX) });
    LANE.with(|lane| {
        if lane.get() == usize::MAX {
            lane.set(NEXT.fetch_add(1, Ordering::Relaxed) % LANES);
        }
        lane.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_loses_nothing_of_what_many_threads_count() {
        let tally = Tally::default();
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| (0..1000).for_each(|_| tally.count()));
            }
        });
        assert_eq!(tally.sum(), 40_000);
        let busy = tally.0.iter().filter(|lane| lane.0.load(Ordering::Relaxed) > 0).count();
        assert_eq!(busy, LANES);
    }
}
