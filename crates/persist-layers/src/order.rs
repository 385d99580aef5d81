use std::fmt::Write as _;

/// Two layers of which the first must stand before the second, that is outside of it, and why.
const RULES: &[(&str, &str, &str)] = &[
    ("compress", "encrypt", "encrypted bytes cannot be compressed"),
    ("verify", "compress", "below it there are only encoded bytes, which the storage checks itself"),
    ("verify", "encrypt", "below it there are only encoded bytes, which the storage checks itself"),
    ("size_limit", "compress", "the limit is about the values of the program, not about encoded ones"),
    ("size_limit", "encrypt", "the limit is about the values of the program, not about encoded ones"),
    ("read_only", "compress", "what is refused need not be compressed first"),
    ("read_only", "encrypt", "what is refused need not be encrypted first"),
    ("compress", "retry", "what is repeated need not be compressed again"),
    ("encrypt", "retry", "what is repeated need not be encrypted again"),
    ("retry", "timeout", "a limit of time is for one attempt; the `deadline` of `retry` is for all of them"),
    ("retry", "circuit_breaker", "the breaker must see every attempt"),
    ("retry", "rate_limit", "every attempt counts"),
    ("retry", "concurrency", "a call that waits for its next attempt must not keep its place"),
    ("circuit_breaker", "timeout", "a call that took too long is what the breaker counts"),
    ("concurrency", "timeout", "waiting for a place must not count as time of the storage"),
    ("rate_limit", "timeout", "waiting for a turn must not count as time of the storage"),
    ("dedup", "compress", "compressed values have few chunks in common"),
    ("dedup", "encrypt", "encrypted values are never equal"),
    ("verify", "dedup", "below it there are only chunks, which the storage checks itself"),
    ("size_limit", "dedup", "the limit is about the values of the program, not about chunks"),
    ("ttl_clamp", "dedup", "a chunk must live as long as a value needs it"),
    ("read_only", "dedup", "what is refused need not be cut first"),
    (
        "write_behind",
        "dedup",
        "a chunk must be written before the values that need it, and only changes of one key keep their order",
    ),
    ("dedup", "retry", "what is repeated need not be cut again"),
    ("evict", "dedup", "a chunk that goes would damage many values"),
    ("size_limit", "evict", "what is refused must cost no other value its place"),
    ("write_behind", "evict", "what is not yet written must not go"),
    ("size_limit", "write_behind", "what is refused must be refused before it is acknowledged"),
    ("ttl_clamp", "write_behind", "the lifetime that was answered must be the one that is written"),
    ("read_only", "write_behind", "what is refused must be refused before it is acknowledged"),
    ("verify", "write_behind", "below it there is only what is written already"),
    ("encrypt", "write_behind", "its journal holds values as it is given them"),
    (
        "write_behind",
        "retry",
        "what is written later is what may be repeated; the caller does not wait for it",
    ),
    (
        "write_behind",
        "circuit_breaker",
        "the breaker is about the storage, which the caller does not wait for",
    ),
    ("write_behind", "concurrency", "the limit is about the storage, which the caller does not wait for"),
    ("write_behind", "rate_limit", "the limit is about the storage, which the caller does not wait for"),
    ("write_behind", "timeout", "the limit is about the storage, which the caller does not wait for"),
];

/// The layer that must stand after all others.
const INNERMOST: &str = "namespace";

/// What is wrong with the order of some layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misplaced {
    /// The position in the list, from 0, of the layer that should move or go.
    pub index: usize,
    /// What is wrong and what to do.
    pub message: String,
}

/// Checks the order of layers, which are named from the outside to the inside: a value passes the first one first on its
/// way in and last on its way out. Layers that persist does not know may stand anywhere.
///
/// ```
/// assert!(persist_layers::check_order(&["compress", "encrypt"]).is_ok());
/// let misplaced = persist_layers::check_order(&["encrypt", "compress"]).unwrap_err();
/// assert_eq!(misplaced.index, 1);
/// assert!(misplaced.message.starts_with("`compress` must stand before `encrypt`"));
/// ```
///
/// # Errors
/// The first layer that stands in the wrong place, and why.
pub fn check_order(names: &[&str]) -> Result<(), Misplaced> {
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            let message = format!("the layer `{name}` is named twice; keep one");
            return Err(Misplaced { index, message });
        }
        for before in &names[..index] {
            if let Some(why) = why_not(before, name) {
                let mut message = format!("`{name}` must stand before `{before}`: {why}");
                let _ = write!(message, " (layers are listed from the outside to the inside)");
                return Err(Misplaced { index, message });
            }
        }
    }
    Ok(())
}

/// Why `outer` cannot stand before `inner`.
fn why_not(outer: &str, inner: &str) -> Option<&'static str> {
    if outer == INNERMOST {
        return Some("what stands outside of a namespace sees the keys of that namespace alone");
    }
    let rule = RULES.iter().find(|(first, second, _)| *first == inner && *second == outer);
    rule.map(|(_, _, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_holds_in_one_direction_alone() {
        for (outer, inner, why) in RULES {
            assert_eq!(check_order(&[outer, inner]), Ok(()), "{outer}, {inner}");
            let misplaced = check_order(&["other", inner, outer]).unwrap_err();
            assert_eq!(misplaced.index, 2, "{outer}, {inner}");
            assert!(misplaced.message.contains(why), "{}", misplaced.message);
        }
    }

    #[test]
    fn a_namespace_is_innermost_and_nothing_stands_twice() {
        assert_eq!(check_order(&["metrics", "retry", "namespace"]), Ok(()));
        assert_eq!(check_order(&["namespace", "metrics"]).unwrap_err().index, 1);
        assert_eq!(check_order(&["verify", "metrics", "verify"]).unwrap_err().index, 2);
    }

    /// All rules together leave an order in which every layer can stand.
    #[test]
    fn the_rules_do_not_contradict_each_other() {
        // What keeps the order of chunks and values, and what keeps a journal from holding plain values, leave no place for all three.
        for (without, names) in [
            ("dedup", "compress encrypt write_behind evict"),
            ("encrypt", "write_behind evict dedup compress"),
        ] {
            let all = format!(
                "metrics tracing read_only size_limit ttl_clamp verify {names} retry circuit_breaker concurrency \
                 rate_limit timeout fault namespace"
            );
            let all: Vec<&str> = all.split(' ').collect();
            assert_eq!(check_order(&all), Ok(()), "without {without}");
        }
    }
}
