/// How alike two names must be for one to be offered for the other, from 0 to 1.
const ALIKE: f64 = 0.8;

/// The name that `given` was most likely meant to be.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_lowercase();
    let scored = known.into_iter().map(|name| (strsim::jaro_winkler(&given, &name.to_lowercase()), name));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(score, _)| *score >= ALIKE).map(|(_, name)| name)
}

/// The end of a message about an unknown name: the nearest one, or all there are.
pub(crate) fn hint<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(given, known.iter().copied()) {
        Some(near) => format!("; did you mean `{near}`?"),
        None if known.is_empty() => String::new(),
        None => format!("; known: {}", listed(known)),
    }
}

/// Names in quotes, with commas.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_recognised_and_strangers_are_not() {
        let known = ["base_path", "durability", "read_only"];
        assert_eq!(nearest("base_pth", known), Some("base_path"));
        assert_eq!(nearest("BASE_PATH", known), Some("base_path"));
        assert_eq!(nearest("durabilty", known), Some("durability"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(hint("colour", known), "; known: `base_path`, `durability`, `read_only`");
        assert_eq!(hint("readonly", known), "; did you mean `read_only`?");
        assert_eq!(hint("x", []), "");
    }
}
