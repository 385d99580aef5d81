//! Keeps `docs/contract.md` and the suite in step.

use std::collections::HashSet;
use std::path::Path;

use persist_testkit::conformance::{GROUPS, clauses};

/// Headings and clauses of the document, in its order: `## name` or `id title`.
fn document() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/contract.md");
    let text = std::fs::read_to_string(path).expect("docs/contract.md is there");
    // A title may be wrapped; joining the lines of an item undoes that.
    let joined = text.replace("\n  ", " ");
    let lines = joined.lines().filter(|line| line.starts_with("## ") || line.starts_with("- **C"));
    lines
        .map(|line| {
            line.strip_prefix("- **")
                .map_or(line, |item| item.split_once(".**").map_or(item, |(title, _)| title))
                .to_owned()
        })
        .collect()
}

#[test]
fn the_document_and_the_suite_have_the_same_clauses() {
    let mut suite = Vec::new();
    for group in GROUPS {
        suite.push(format!("## {}", group.name));
        suite.extend(group.clauses.iter().map(|clause| format!("{} {}", clause.id, clause.title)));
    }
    let document = document();
    for line in &suite {
        assert!(document.contains(line), "docs/contract.md lacks: {line}");
    }
    assert_eq!(document, suite, "docs/contract.md has other clauses, or another order");
}

#[test]
fn numbers_and_names_are_unique_and_there_are_enough() {
    let ids: HashSet<_> = clauses().map(|clause| clause.id).collect();
    let names: HashSet<_> = clauses().map(persist_testkit::conformance::Clause::test_name).collect();
    let checks: HashSet<_> = clauses().map(|clause| clause.check as usize).collect();
    assert_eq!((ids.len(), names.len()), (clauses().count(), clauses().count()));
    assert_eq!(checks.len(), clauses().count(), "two clauses share a check");
    assert!(clauses().count() >= 120);
    assert!(ids.iter().all(|id| id.len() == 4 && id[1..].parse::<u16>().is_ok()));
}
