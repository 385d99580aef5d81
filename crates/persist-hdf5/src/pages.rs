//! Pages that lie over the file: what was changed and may not be written into it yet.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The size of a page in bytes.
pub(crate) const PAGE: usize = 4096;

/// A page, and which part of it differs from the file below.
#[derive(Clone)]
pub(crate) struct Page {
    pub(crate) bytes: Box<[u8; PAGE]>,
    pub(crate) dirty: Range<usize>,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("dirty", &self.dirty).finish_non_exhaustive()
    }
}

impl Page {
    /// A page of the file that nobody has changed yet.
    pub(crate) fn clean(bytes: Box<[u8; PAGE]>) -> Self {
        Self { bytes, dirty: 0..0 }
    }

    /// Puts bytes in place.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        self.bytes[at..end].copy_from_slice(bytes);
        self.mark(&(at..end));
    }

    /// The same over bytes that are on the disk for good: those that stay the same do not count as changed.
    pub(crate) fn update(&mut self, at: usize, bytes: &[u8]) {
        let before = &mut self.bytes[at..at + bytes.len()];
        let differs = |(old, new): (&u8, &u8)| old != new;
        let Some(first) = before.iter().zip(bytes).position(differs) else { return };
        let last = before.iter().zip(bytes).rposition(differs).unwrap_or(first);
        before[first..=last].copy_from_slice(&bytes[first..=last]);
        self.mark(&(at + first..at + last + 1));
    }

    /// Counts a part as changed.
    pub(crate) fn mark(&mut self, part: &Range<usize>) {
        self.dirty = match (self.dirty.is_empty(), part.is_empty()) {
            (_, true) => return,
            (true, false) => part.clone(),
            (false, false) => self.dirty.start.min(part.start)..self.dirty.end.max(part.end),
        };
    }
}

/// Pages by their number.
pub(crate) type Pages = HashMap<u64, Arc<Page>>;

/// Cuts `len` bytes from `offset` on at the borders of pages: page, place in the page, place in the buffer, length.
pub(crate) fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done >= len {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % PAGE as u64) as usize;
        let piece = (PAGE - within).min(len - done);
        let from = done;
        done += piece;
        Some((at / PAGE as u64, within, from, piece))
    })
}

/// Lays pages over what was read from the file.
pub(crate) fn patch(pages: &Pages, offset: u64, buffer: &mut [u8]) {
    if pages.is_empty() {
        return;
    }
    for (page, within, from, len) in pieces(offset, buffer.len()) {
        if let Some(found) = pages.get(&page) {
            buffer[from..from + len].copy_from_slice(&found.bytes[within..within + len]);
        }
    }
}

/// A set of pages as ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default)]
pub(crate) struct PageSet {
    /// Where each range begins and ends.
    ranges: BTreeMap<u64, u64>,
}

impl PageSet {
    /// True if a page is in it.
    pub(crate) fn contains(&self, page: u64) -> bool {
        self.ranges.range(..=page).next_back().is_some_and(|(_, end)| page < *end)
    }

    /// Adds pages.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        let touching: Vec<(u64, u64)> = self
            .ranges
            .range(..=end)
            .rev()
            .take_while(|(_, last)| **last >= start)
            .map(|(first, last)| (*first, *last))
            .collect();
        for (first, last) in touching {
            self.ranges.remove(&first);
            start = start.min(first);
            end = end.max(last);
        }
        self.ranges.insert(start, end);
    }

    /// Takes pages out.
    pub(crate) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let overlapping: Vec<(u64, u64)> = self
            .ranges
            .range(..range.end)
            .rev()
            .take_while(|(_, last)| **last > range.start)
            .map(|(first, last)| (*first, *last))
            .collect();
        for (first, last) in overlapping {
            self.ranges.remove(&first);
            if first < range.start {
                self.ranges.insert(first, range.start);
            }
            if last > range.end {
                self.ranges.insert(range.end, last);
            }
        }
    }

    /// Its ranges in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }

    /// True if nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_of_pages_is_a_set(steps in prop::collection::vec((any::<bool>(), 0_u64..40, 0_u64..12), 1..60)) {
            let (mut set, mut model) = (PageSet::default(), BTreeSet::new());
            for (add, start, len) in steps {
                if add {
                    set.insert(start..start + len);
                    model.extend(start..start + len);
                } else {
                    set.remove(start..start + len);
                    model.retain(|page| !(start..start + len).contains(page));
                }
                prop_assert_eq!(set.iter().flatten().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
                prop_assert!((0..60).all(|page| set.contains(page) == model.contains(&page)));
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", ranges);
            }
        }
    }

    #[test]
    fn a_buffer_is_cut_at_the_borders_of_pages() {
        let cut: Vec<_> = pieces(PAGE as u64 - 1, PAGE + 2).collect();
        assert_eq!(cut, [(0, PAGE - 1, 0, 1), (1, 0, 1, PAGE), (2, 0, PAGE + 1, 1)]);
        assert_eq!(pieces(7, 0).count(), 0);
    }
}
