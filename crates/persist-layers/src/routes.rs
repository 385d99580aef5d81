use persist_core::{Key, MAX_KEY_BYTES};

/// Which member of a router a key belongs to: that of the longest prefix it begins with, else the first one.
///
/// Members are numbers; number 0 takes what no prefix claims.
#[derive(Debug)]
pub(crate) struct Routes {
    /// By prefix in byte order, each prefix once.
    table: Vec<(String, usize)>,
}

/// A stretch of the key space in byte order whose keys all belong to one member.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) member: usize,
    /// All keys in it begin with this.
    pub(crate) prefix: String,
    /// All keys in it are greater.
    pub(crate) after: Option<Key>,
    /// All keys in it are smaller.
    pub(crate) until: Option<String>,
}

impl Routes {
    /// The table of some prefixes, each given once.
    pub(crate) fn new(mut table: Vec<(String, usize)>) -> Self {
        table.sort();
        Self { table }
    }

    /// The member that a text belongs to as a key.
    pub(crate) fn member(&self, key: &str) -> usize {
        let below = self.table.partition_point(|(prefix, _)| prefix.as_str() <= key);
        // Of the prefixes up to the key the last one that it begins with is the longest.
        let found = self.table[..below].iter().rev().find(|(prefix, _)| key.starts_with(prefix));
        found.map_or(0, |(_, member)| *member)
    }

    /// All keys that begin with `prefix`, cut into segments, in byte order.
    pub(crate) fn segments(&self, prefix: &str) -> Vec<Segment> {
        let inside: Vec<_> = self
            .table
            .iter()
            .filter(|(route, _)| route.starts_with(prefix) && route.len() > prefix.len())
            .collect();
        let mut segments = Vec::with_capacity(2 * inside.len() + 1);
        cut(prefix, self.member(prefix), &inside, &mut segments);
        segments
    }
}

impl Segment {
    /// True if every key of it is at or before `key`.
    pub(crate) fn is_before(&self, key: &Key) -> bool {
        let key = key.as_str();
        match &self.until {
            Some(until) => key >= until.as_str(),
            None => key > self.prefix.as_str() && !key.starts_with(&self.prefix),
        }
    }

    /// True if a key that begins with the prefix lies beyond the end.
    pub(crate) fn ends_before(&self, key: &Key) -> bool {
        self.until.as_deref().is_some_and(|until| key.as_str() >= until)
    }
}

/// Cuts what begins with `scope` and belongs to `member`, but for the routes inside, which are in byte order.
fn cut(scope: &str, member: usize, mut inside: &[&(String, usize)], segments: &mut Vec<Segment>) {
    let mut after = None;
    while let Some(((route, owner), rest)) = inside.split_first().map(|(first, rest)| (*first, rest)) {
        let nested = rest.iter().take_while(|(inner, _)| inner.starts_with(route.as_str())).count();
        segments.push(Segment { member, prefix: scope.to_owned(), after, until: Some(route.clone()) });
        cut(route, *owner, &rest[..nested], segments);
        after = last_key(route);
        inside = &rest[nested..];
    }
    segments.push(Segment { member, prefix: scope.to_owned(), after, until: None });
}

/// The greatest key that begins with `prefix`: filled up to the longest key with the greatest characters.
pub(crate) fn last_key(prefix: &str) -> Option<Key> {
    let mut text = prefix.to_owned();
    for greatest in ['\u{10FFFF}', '\u{FFFF}', '\u{7FF}', '\u{7F}'] {
        while text.len() + greatest.len_utf8() <= MAX_KEY_BYTES {
            text.push(greatest);
        }
    }
    Key::new(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(table: &[(&str, usize)]) -> Routes {
        Routes::new(table.iter().map(|(prefix, member)| ((*prefix).to_owned(), *member)).collect())
    }

    #[test]
    fn the_longest_prefix_wins() {
        let routes = routes(&[("a/", 1), ("a/b/", 2), ("a/b/c", 0), ("z", 3)]);
        let cases = [
            ("a", 0),
            ("a/", 1),
            ("a/x", 1),
            ("a/b", 1),
            ("a/b/", 2),
            ("a/b/c", 0),
            ("a/b/cc", 0),
            ("a/b/d", 2),
            ("a0", 0),
            ("y", 0),
            ("z", 3),
            ("zz/a/", 3),
        ];
        for (key, member) in cases {
            assert_eq!(routes.member(key), member, "{key}");
        }
    }

    #[test]
    fn segments_follow_each_other_and_hold_every_key_once() {
        let routes = routes(&[("b/", 1), ("b/m/", 2), ("b/m/x", 1), ("c", 2), ("cc", 0)]);
        let keys =
            ["a", "b", "b/", "b/a", "b/m", "b/m/", "b/m/x", "b/m/y", "b/z", "b0", "c", "cb", "cc", "cd", "d"];
        for prefix in ["", "b", "b/", "b/m", "b/m/", "b/m/x", "c", "cc", "d", "nothing"] {
            let mut seen = Vec::new();
            for segment in routes.segments(prefix) {
                for key in keys.iter().map(|key| Key::new(*key).unwrap()) {
                    let inside = key.as_str().starts_with(&segment.prefix)
                        && segment.after.as_ref().is_none_or(|after| key > *after)
                        && !segment.ends_before(&key);
                    if inside {
                        assert_eq!(segment.member, routes.member(key.as_str()), "{key:?} in {segment:?}");
                        seen.push(key.as_str().to_owned());
                    }
                }
            }
            let wanted: Vec<_> = keys.iter().filter(|key| key.starts_with(prefix)).collect();
            assert_eq!(seen.iter().collect::<Vec<_>>(), wanted, "prefix {prefix:?}");
        }
    }

    #[test]
    fn the_last_key_of_a_prefix_is_a_key_and_the_greatest() {
        for prefix in ["a".to_owned(), "x".repeat(1021), "x".repeat(1022), "x".repeat(1023), "x".repeat(1024)]
        {
            let last = last_key(&prefix).unwrap();
            assert_eq!(last.as_str().len(), MAX_KEY_BYTES);
            assert!(last.as_str().starts_with(&prefix));
            let rest: String = "\u{10FFFF}".repeat((MAX_KEY_BYTES - prefix.len()) / 4);
            assert!(last.as_str() >= format!("{prefix}{rest}").as_str());
        }
    }
}
