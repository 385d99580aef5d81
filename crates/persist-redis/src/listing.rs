use std::collections::VecDeque;

use persist_core::{ErrorKind, Key, ListOptions, MAX_PAGE, Page, Timestamp};
use tokio::time::Instant;

use crate::answer;
use crate::engine::{Body, Call, Engine};
use crate::fault::Fault;
use crate::keyspace::Tag;
use crate::script;

/// How many keys are asked of each tag beyond its share of a page: shares are never quite equal.
const MARGIN: usize = 8;

/// What a tag has told of its part of a page.
struct Shelf {
    tag: Tag,
    keys: VecDeque<Key>,
    /// Where to go on asking; `None`: there is no more.
    from: Option<Vec<u8>>,
}

impl Engine {
    /// One page: the lists of all tags, merged.
    pub(crate) async fn page(
        &self,
        prefix: &str,
        options: &ListOptions,
        limit: usize,
        now: Timestamp,
        deadline: Instant,
    ) -> Result<Page, Fault> {
        let from = lower(prefix, options.after.as_ref());
        let to = upper(prefix);
        let shelf = |tag| Shelf { tag, keys: VecDeque::new(), from: Some(from.clone()) };
        let mut shelves: Vec<_> = self.keyspace.tags().map(shelf).collect();
        // One more than the page holds tells whether there is a next one.
        let share = match shelves.len() {
            1 => limit + 1,
            tags => (limit + 1).div_ceil(tags) + MARGIN,
        };
        let mut found = Vec::with_capacity((limit + 1).min(MAX_PAGE));
        while found.len() <= limit {
            if Instant::now() >= deadline {
                return Err(too_many_expired());
            }
            self.refill(&mut shelves, &to, share.min(limit + 1), now, deadline).await?;
            if !take(&mut shelves, &mut found, limit + 1) {
                break;
            }
        }
        Ok(Page::collect(found, limit))
    }

    /// Asks every tag that has nothing left in hand and is not exhausted.
    async fn refill(
        &self,
        shelves: &mut [Shelf],
        to: &[u8],
        share: usize,
        now: Timestamp,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let mut empty: Vec<&mut Shelf> =
            shelves.iter_mut().filter(|shelf| shelf.keys.is_empty() && shelf.from.is_some()).collect();
        let ask = |shelf: &&mut Shelf| {
            let tag = shelf.tag;
            let mut cmd = script::LIST.call(&[self.keyspace.index(tag), self.keyspace.expiry(tag)]);
            cmd.arg(now.as_millis()).arg(shelf.from.as_deref().unwrap_or_default()).arg(to).arg(share);
            Call { tag, bytes: 0, body: Body::Read(cmd) }
        };
        let answers = self.run(empty.iter().map(ask).collect(), deadline).await;
        for (shelf, answer) in empty.iter_mut().zip(answers) {
            shelf.fill(answer?)?;
        }
        Ok(())
    }
}

impl Shelf {
    fn fill(&mut self, answer: redis::Value) -> Result<(), Fault> {
        let mut values = answer::array(answer)?.into_iter();
        let exhausted = answer::text(values.next().unwrap_or_default())? == "1";
        let last = answer::bytes(values.next().unwrap_or_default())?.unwrap_or_default();
        let next = (!exhausted).then(|| [b"(".as_slice(), &last].concat());
        if next.is_some() && (last.is_empty() || next == self.from) {
            return Err(Fault::garbled("a listing that goes nowhere"));
        }
        self.from = next;
        for value in values {
            let key = Key::new(answer::text(value)?).map_err(|_| Fault::garbled("a key that is none"))?;
            self.keys.push_back(key);
        }
        Ok(())
    }

    fn is_waiting(&self) -> bool {
        self.keys.is_empty() && self.from.is_some()
    }
}

/// The time was over before the page was full: so many keys in a row have expired and are not swept yet.
fn too_many_expired() -> Fault {
    let message =
        "the listing passed over expired keys until its time was over; call maintain, or raise timeout";
    Fault::new(ErrorKind::Timeout, message)
}

/// Moves keys in order until one of the shelves has to be filled (true) or all is done (false).
fn take(shelves: &mut [Shelf], found: &mut Vec<Key>, limit: usize) -> bool {
    while found.len() < limit {
        if shelves.iter().any(Shelf::is_waiting) {
            return true;
        }
        let first = shelves
            .iter_mut()
            .filter(|shelf| !shelf.keys.is_empty())
            .min_by(|a, b| a.keys[0].cmp(&b.keys[0]));
        match first.and_then(|shelf| shelf.keys.pop_front()) {
            Some(key) => found.push(key),
            None => return false,
        }
    }
    false
}

/// Where the page begins, as ZRANGEBYLEX has it.
fn lower(prefix: &str, after: Option<&Key>) -> Vec<u8> {
    match after {
        Some(after) if after.as_str() >= prefix => [b"(".as_slice(), after.as_bytes()].concat(),
        _ if prefix.is_empty() => b"-".to_vec(),
        _ => [b"[".as_slice(), prefix.as_bytes()].concat(),
    }
}

/// Where the prefix ends: before the first string of bytes that is greater than all that begin with it.
fn upper(prefix: &str) -> Vec<u8> {
    // UTF-8 has no byte 255, so the last byte can always be counted up.
    match prefix.as_bytes().split_last() {
        Some((last, rest)) => [b"(".as_slice(), rest, &[last + 1]].concat(),
        None => b"+".to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_enclose_the_prefix_alone() {
        let key = |text: &str| Key::new(text).unwrap();
        assert_eq!(lower("", None), b"-");
        assert_eq!(lower("a", None), b"[a");
        assert_eq!(lower("b", Some(&key("a"))), b"[b");
        assert_eq!(lower("a", Some(&key("ab"))), b"(ab");
        assert_eq!(upper(""), b"+");
        assert_eq!(upper("a/"), b"(a0");
        assert_eq!(upper("\u{10ffff}"), b"(\xf4\x8f\xbf\xc0");
    }

    #[test]
    fn shelves_are_merged_in_order() {
        let shelf = |keys: &[&str], more: bool| Shelf {
            tag: Tag(0),
            keys: keys.iter().map(|key| Key::new(*key).unwrap()).collect(),
            from: more.then(Vec::new),
        };
        let mut shelves = [shelf(&["a", "d"], true), shelf(&["b", "c", "e"], false)];
        let mut found = Vec::new();
        assert!(take(&mut shelves, &mut found, 10), "the first shelf may hold something before e");
        assert_eq!(found.iter().map(Key::as_str).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        shelves[0].from = None;
        assert!(!take(&mut shelves, &mut found, 10));
        assert_eq!(found.len(), 5);
    }
}
