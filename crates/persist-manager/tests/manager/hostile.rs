//! Texts that no configuration should be.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use persist_core::ErrorKind;
use persist_manager::Plan;
use proptest::prelude::*;

use crate::support::{options, problem, shown};

fn quickly<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    result
}

#[test]
fn alias_bombs_are_refused() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let row = vec![format!("*a{}", level - 1); 9].join(", ");
        writeln!(laughs, "a{level}: &a{level} [{row}]").unwrap();
    }
    let line = quickly(|| problem(&laughs));
    assert!(line.contains("with all aliases replaced there are over 100000 parts"), "{line}");
    let mut long = format!("a: &a {}\nb: [", "x".repeat(500_000));
    long.push_str(&"*a, ".repeat(1000));
    long.push_str("]\n");
    let line = quickly(|| problem(&long));
    assert!(line.contains("or 4194304 bytes"), "{line}");
}

#[test]
fn anchors_within_anchors_stay_small() {
    let mut nested = "&a [".repeat(60);
    nested.push_str(&"x,".repeat(90_000));
    nested.push_str(&"]".repeat(60));
    let line = quickly(|| problem(&nested));
    assert!(line.contains("over 100000 parts"), "{line}");
}

#[test]
fn deep_nesting_is_refused() {
    for (deep, place) in [
        ("[".repeat(200_000), "1:"),
        ("{a: ".repeat(200_000), "1:"),
        ((0..5000).fold(String::new(), |text, level| text + &" ".repeat(level % 300) + "-\n"), ""),
        ((0..200).fold(String::new(), |text, level| text + &" ".repeat(level) + "a:\n"), ""),
    ] {
        let line = quickly(|| problem(&deep));
        assert!(line.starts_with(&format!("<yaml>:{place}")), "{line}");
    }
    let fine = format!("server: {}{}\nstorages: {{a: {{type: probe}}}}", "[".repeat(62), "]".repeat(62));
    assert!(problem(&fine).contains("unknown key `server`"));
    let deep = format!("server: {}{}\nstorages: {{a: {{type: probe}}}}", "[".repeat(64), "]".repeat(64));
    assert!(problem(&deep).contains("more than 64 levels deep"), "{}", problem(&deep));
}

#[test]
fn a_file_over_one_mebibyte_is_refused() {
    let large = format!("# {}\nstorages: {{a: {{type: probe}}}}\n", "x".repeat(1 << 20));
    assert!(problem(&large).contains("and may have 1048576"), "{}", problem(&large));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.yaml");
    std::fs::write(&path, &large).unwrap();
    let error = Plan::from_file(&path, &options(&[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.message().contains("and may have 1048576"), "{error}");
    std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    let error = Plan::from_file(&path, &options(&[])).unwrap_err();
    assert!(error.message().contains("cannot be read"), "{error}");
}

#[test]
fn yaml_that_surprises_is_refused() {
    let cases = [
        ("a: 1\na: 2\n", "2:1: the key `a` was given before, in line 1; keep one"),
        (
            "storages:\n  a: {type: probe, port: 1, \"port\": 2}\n",
            "2:29: the key `port` was given before, in line 2",
        ),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "3:3: merge keys (`<<`) are not supported"),
        ("a: !!str 5\n", "1:4: tags"),
        ("a: !secret x\n", "1:4: tags"),
        ("a: !!python/object:os.system x\n", "1:4: tags"),
        ("? [a, b]\n: 1\n", "1:3: a key must be a text, and this is a list"),
        ("~: 1\n", "1:1: a key must be a text, and this is nothing"),
        ("a: 1\n---\nb: 2\n", "2:1: a second document begins here"),
        ("a: &x [*x]\n", "1:8: "),
        ("a: *nowhere\n", "1:4: this is not YAML"),
        ("a:\n\t- b\n", "2:2: this is not YAML"),
        ("storages:\n\ta: b\n", "2:2: this is not YAML"),
        ("a: [1\n", "this is not YAML"),
        ("a: \"open\n", "this is not YAML"),
        ("a: b: c\n", "1:5: this is not YAML"),
        ("a: 'x' y\n", "this is not YAML"),
        ("\u{0}", "this is not YAML"),
    ];
    for (yaml, wanted) in cases {
        let line = problem(yaml);
        assert!(
            line.starts_with("<yaml>:") && line.contains(wanted),
            "{yaml:?}\n  got    {line}\n  wanted {wanted}"
        );
    }
}

#[test]
fn aliases_and_blocks_of_text_work() {
    let yaml = "
storages:
  a: { type: probe, pool: &pool { size: 3, hosts: [x, y] } }
  b:
    type: probe
    pool: *pool
    url: >-
      redis://one
default_storage: a
";
    let shown = shown(&crate::support::plan(yaml, &[]));
    let storages = &shown["persistence"]["storages"];
    assert_eq!(storages["a"]["pool"], storages["b"]["pool"]);
    assert_eq!(storages["b"]["pool"]["hosts"][1], "y");
    assert_eq!(storages["b"]["url"], "redis://one");
}

proptest! {
    /// Whatever the text, the answer is a plan or an error with a place; never a panic.
    #[test]
    fn any_text_is_answered(text in "[ \\n\\-:{}\\[\\]&*!|>'\"%@`,?#a-z0-9~<$\t]{0,200}") {
        if let Err(error) = Plan::from_yaml(&text, &options(&[])) {
            prop_assert!(error.message().starts_with("<yaml>:"), "{}", error);
        }
    }

    /// The same with texts that begin well.
    #[test]
    fn any_section_is_answered(text in "[ \\n\\-:{}\\[\\]&*!|>'\"a-z0-9~<$,]{0,80}") {
        let yaml = format!("storages:\n  a:\n    type: probe\n    {text}");
        if let Err(error) = Plan::from_yaml(&yaml, &options(&[])) {
            prop_assert!(error.message().starts_with("<yaml>:"), "{}", error);
        }
    }
}
