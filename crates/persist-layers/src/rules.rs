/// The rule with the longest prefix that a key begins with.
pub(crate) fn longest<'a, R>(rules: &'a [R], prefix: impl Fn(&R) -> &str, key: &str) -> Option<&'a R> {
    rules.iter().filter(|rule| key.starts_with(prefix(rule))).max_by_key(|rule| prefix(rule).len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_counts_wherever_it_stands() {
        let rules = ["a/b/", "a/", "x"];
        let found = |key| longest(&rules, |rule| rule, key).copied();
        assert_eq!([found("a/b/c"), found("a/c"), found("y")], [Some("a/b/"), Some("a/"), None]);
    }
}
