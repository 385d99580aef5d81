//! Every mistake is named with file, line, column, storage and key.

use persist_manager::{LoadOptions, Plan};

use crate::support::{options, problem, problems};

/// One storage `docs`, whose settings begin in line 4 and column 5.
fn section(settings: &str) -> String {
    format!("storages:\n  docs:\n    type: probe\n{settings}")
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest_key() {
    assert_eq!(
        problem(&section("    base_pth: x\n")),
        "<yaml>:4:5: storage \"docs\": unknown key `base_pth`; did you mean `base_path`?"
    );
    assert_eq!(
        problem(&section("    pool:\n      size: 2\n      host: [a]\n")),
        "<yaml>:6:7: storage \"docs\": `pool`: unknown key `host`; did you mean `hosts`?"
    );
    let stranger = problem(&section("    colour: red\n"));
    assert!(
        stranger.starts_with("<yaml>:4:5: storage \"docs\": unknown key `colour`; known: "),
        "{stranger}"
    );
    assert!(stranger.contains("`max_bytes`"), "{stranger}");
}

#[test]
fn a_wrong_value_is_named_with_its_place_and_what_is_wanted() {
    let cases = [
        (
            "    port: many\n",
            "4:11",
            "`port`: \"many\" was given where a whole number from 0 to 65535 is wanted",
        ),
        (
            "    port: 70000\n",
            "4:11",
            "`port`: 70000 was given where a whole number from 0 to 65535 is wanted",
        ),
        ("    port: -1\n", "4:11", "`port`: -1 was given where a whole number from 0 to 65535 is wanted"),
        ("    port: 1.5\n", "4:11", "`port`: 1.5 was given where a whole number from 0 to 65535 is wanted"),
        (
            "    port: [1]\n",
            "4:11",
            "`port`: a list was given where a whole number from 0 to 65535 is wanted",
        ),
        ("    ratio: half\n", "4:12", "`ratio`: \"half\" was given where a number is wanted"),
        ("    read_only: yes\n", "4:16", "`read_only`: \"yes\" was given where `true` or `false` is wanted"),
        ("    read_only: 1\n", "4:16", "`read_only`: 1 was given where `true` or `false` is wanted"),
        ("    read_only:\n", "4:14", "`read_only`: nothing was given where `true` or `false` is wanted"),
        ("    base_path: {a: b}\n", "4:16", "`base_path`: a mapping was given where a text is wanted"),
        (
            "    mode: strct\n",
            "4:11",
            "`mode`: \"strct\" is not one of `strict`, `relaxed`; did you mean `strict`?",
        ),
        ("    mode: [strict]\n", "4:11", "`mode`: a list was given where one choice is wanted"),
        ("    ttl: soon\n", "4:10", "`ttl`: \"soon\" is not a duration: a number of seconds"),
        ("    ttl: -1\n", "4:10", "`ttl`: \"-1\" is not a duration"),
        ("    max_bytes: huge\n", "4:16", "`max_bytes`: \"huge\" is not a size"),
        ("    pool: 5\n", "4:11", "`pool`: 5 was given where a mapping is wanted"),
        ("    pool: {}\n", "4:11", "`pool`: the key `size` is missing"),
        (
            "    pool: {size: 1, hosts: [a, [b]]}\n",
            "4:32",
            "`pool.hosts[1]`: a list was given where a text is wanted",
        ),
        ("    password: [a]\n", "4:15", "`password`: a list was given where a secret"),
        (
            "    path: a\n    base_path: b\n",
            "5:5",
            "the key `base_path` is given twice, once under another name",
        ),
    ];
    for (settings, place, wanted) in cases {
        let line = problem(&section(settings));
        let wanted = format!("<yaml>:{place}: storage \"docs\": {wanted}");
        assert!(line.starts_with(&wanted), "{settings}\n  got    {line}\n  wanted {wanted}");
    }
}

#[test]
fn what_the_backend_refuses_is_named_with_the_place_of_its_section() {
    assert_eq!(
        problem(&section("    port: 0\n")),
        "<yaml>:3:5: storage \"docs\": port 0 is no port; write 1 to 65535"
    );
}

#[test]
fn columns_are_counted_in_characters() {
    let yaml = "storages: { \"dö\": { type: probe } }\n";
    assert!(
        problem(yaml).starts_with("<yaml>:1:13: storage \"dö\": \"dö\" cannot name a storage"),
        "{}",
        problem(yaml)
    );
    let yaml = "storages: { docs: { type: probe, base_path: \"ö\", prt: 1 } }\n";
    assert!(
        problem(yaml).starts_with("<yaml>:1:50: storage \"docs\": unknown key `prt`"),
        "{}",
        problem(yaml)
    );
}

#[test]
fn all_mistakes_are_told_at_once() {
    let yaml = "
default_storage: man
storages:
  main: { type: prob }
  docs: { type: probe, port: x }
  9bad: { type: probe }
routes:
  - { prefix: a/, storage: dosc }
  - { prefix: a/, storage: docs }
  - { prefix: '', storage: docs }
  - { prefix: b/ }
  - nonsense
maintenance: { interval: 10ms }
";
    let lines = problems(yaml, &options(&[]));
    let wanted = [
        "<yaml>:2:18: there is no storage `man`; did you mean `main`?",
        "<yaml>:4:17: storage \"main\": unknown type `prob`; did you mean `probe`?",
        "<yaml>:5:30: storage \"docs\": `port`: \"x\" was given",
        "<yaml>:6:3: storage \"9bad\": \"9bad\" cannot name a storage",
        "<yaml>:8:5: there is no storage `dosc`; did you mean `docs`?",
        "<yaml>:9:5: `routes[1]`: the prefix \"a/\" has two routes; keep one",
        "<yaml>:10:5: `routes[2]`: a route needs a prefix",
        "<yaml>:11:5: `routes[3]`: the key `storage` is missing",
        "<yaml>:12:5: `routes[4]`: \"nonsense\" was given where a mapping is wanted",
        "<yaml>:13:14: `maintenance.interval`: the shortest interval is one second",
    ];
    for wanted in wanted {
        assert!(lines.iter().any(|line| line.starts_with(wanted)), "{wanted}\n{lines:#?}");
    }
    assert_eq!(lines.len(), wanted.len(), "{lines:#?}");
}

#[test]
fn sections_are_checked_wherever_they_stand() {
    let cases = [
        ("", "<yaml>:1:1: the configuration is empty"),
        ("# nothing\n", "<yaml>:1:1: the configuration is empty"),
        (
            "just text\n",
            "<yaml>:1:1: a single value was given where a mapping with `persistence` or `storages`",
        ),
        ("[1]\n", "<yaml>:1:1: a list was given where"),
        ("{}\n", "<yaml>:1:1: no storage is configured"),
        ("storages:\n", "<yaml>:1:1: no storage is configured"),
        (
            "storages: []\n",
            "<yaml>:1:11: `storages`: a list was given where a mapping from names to storages",
        ),
        ("persistence:\n", "<yaml>:1:12: `persistence`: nothing was given where a mapping with `storages`"),
        (
            "persistance:\n  storages: {}\n",
            "<yaml>:1:1: unknown key `persistance`; did you mean `persistence`?",
        ),
        ("storage:\n  a: {type: probe}\n", "<yaml>:1:1: unknown key `storage`; did you mean `storages`?"),
        ("storages: {a: {}}\n", "<yaml>:1:15: storage \"a\": the key `type` is missing; there are: `probe`"),
        (
            "storages: {a: probe}\n",
            "<yaml>:1:15: storage \"a\": a single value was given where a mapping with `type`",
        ),
        (
            "storages: {a: {type: [probe]}}\n",
            "<yaml>:1:22: storage \"a\": `type`: a list was given where a text",
        ),
        ("storages: {a: {type: probe}, b: {type: probe}}\n", "<yaml>:1:12: there are several storages"),
        (
            "storages: {a: {type: probe}}\nroutes: 5\n",
            "<yaml>:2:9: `routes`: a single value was given where a list",
        ),
        (
            "persistence: {storages: {a: {type: probe}}}\nstorages: {}\n",
            "<yaml>:2:1: `storages` stands beside `persistence`; write it below",
        ),
    ];
    for (yaml, wanted) in cases {
        let line = problem(yaml);
        assert!(line.starts_with(wanted), "{yaml:?}\n  got    {line}\n  wanted {wanted}");
    }
}

#[test]
fn a_section_of_another_program_is_left_alone() {
    let yaml = "server: { port: 80 }\npersistence:\n  storages: { a: { type: probe } }\nlogging: debug\n";
    let plan = Plan::from_yaml(yaml, &options(&[])).unwrap();
    assert_eq!(plan.names().collect::<Vec<_>>(), ["a"]);
    assert!(plan.warnings().is_empty(), "{:?}", plan.warnings());

    let yaml = "persistence:\n  storages: { a: { type: probe, password: x } }\nroutes: [nonsense]\n";
    let plan = Plan::from_yaml(yaml, &options(&[])).unwrap();
    assert_eq!(plan.warnings().len(), 2, "{:?}", plan.warnings());
    let wanted =
        "<yaml>:3:1: `routes` stands beside `persistence` and is not read; write it below if it is meant";
    assert_eq!(plan.warnings()[0], wanted);
}

#[test]
fn the_file_is_named_as_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("persist.yaml");
    std::fs::write(&path, section("    base_pth: x\n")).unwrap();
    let error = Plan::from_file(&path, &options(&[])).unwrap_err();
    let wanted = format!("{}:4:5: storage \"docs\": unknown key `base_pth`", path.display());
    assert!(error.to_string().starts_with(&wanted), "{error}");
    let missing = Plan::from_file(folder.path().join("none.yaml"), &LoadOptions::new()).unwrap_err();
    assert!(missing.message().contains("none.yaml` cannot be read"), "{missing}");
}
