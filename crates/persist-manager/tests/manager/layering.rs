//! Variables, overrides and profiles.

use persist_manager::{Environment, LoadOptions, Plan};
use serde_json::json;

use crate::support::{options, plan, problem, problems, shown};

const BASE: &str = "
persistence:
  default_storage: main
  storages:
    main: { type: probe, base_path: data, port: 1, pool: { size: 1, hosts: [a, b] } }
    side-car: { type: probe }
  routes:
    - { prefix: s/, storage: side-car }
  profiles:
    production:
      default_storage: side-car
      storages:
        main: { port: 2, pool: { hosts: [c] } }
    other-type:
      storages:
        main: { type: probing, base_path: elsewhere }
    typo:
      storages:
        main: { prt: 2 }
";

fn storage(plan: &Plan, name: &str) -> serde_json::Value {
    shown(plan)["persistence"]["storages"][name].clone()
}

#[test]
fn variables_are_expanded_in_quotes_and_without_and_read_as_what_is_wanted() {
    let yaml = "
storages:
  main:
    type: \"${TYPE}\"
    base_path: '${HOME}/data'
    port: \"${PORT:-6379}\"
    ratio: ${RATIO}
    read_only: \"${RO}\"
    max_bytes: \"${SIZE:-64MiB}\"
    ttl: ${TTL}
    url: \"${URL:-redis://127.0.0.1:6379}\"
";
    let variables =
        [("TYPE", "probe"), ("HOME", "/home/ada"), ("RATIO", "0.5"), ("RO", "true"), ("TTL", "3600")];
    let main = storage(&plan(yaml, &variables), "main");
    assert_eq!(main["base_path"], "/home/ada/data");
    assert_eq!(main["port"], 6379);
    assert_eq!(main["ratio"], 0.5);
    assert_eq!(main["read_only"], true);
    assert_eq!(main["max_bytes"], 64 << 20);
    assert_eq!(main["ttl"], "1h");
    assert_eq!(main["url"], "redis://127.0.0.1:6379");
}

#[test]
fn braces_within_braces_need_quotes_and_the_message_says_so() {
    let line = problem("storages:\n  main: { type: probe, base_path: ${DIR} }\n");
    assert!(line.starts_with("<yaml>:2:") && line.ends_with("; put `${…}` in quotes"), "{line}");
}

#[test]
fn the_environment_cannot_inject_yaml() {
    let yaml = "storages:\n  main: { type: probe, base_path: '${DIR}' }\n";
    for hostile in [
        "x, port: 9 }",
        "x\nread_only: true",
        "*a",
        "&a",
        "!!int 5",
        "${OTHER}",
        "# no",
        "\"",
        "null",
        "true",
    ] {
        let main = storage(&plan(yaml, &[("DIR", hostile), ("OTHER", "seen")]), "main");
        assert_eq!(main["base_path"], hostile);
        assert!(main.get("port").is_none() && main["read_only"] == false, "{main}");
    }
}

#[test]
fn what_a_variable_holds_is_not_shown_in_errors() {
    let yaml = "storages:\n  main: { type: probe, port: '${TOKEN}', mode: strict }\n";
    let lines = problems(yaml, &options(&[("TOKEN", "sk-live-12345")]));
    assert_eq!(
        lines,
        [
            "<yaml>:2:30: storage \"main\": `port`: \"${TOKEN}\" was given where a whole number from 0 to 65535 is wanted"
        ]
    );
    let yaml = "storages:\n  main: { type: probe, ttl: 'x${TOKEN}' }\n";
    let lines = problems(yaml, &options(&[("TOKEN", "\"quoted\"\n")]));
    assert!(lines.len() == 1 && lines[0].contains("\"x${TOKEN}\" is not a duration"), "{lines:?}");
}

#[test]
fn every_missing_variable_is_named_with_its_place() {
    let yaml = "storages:\n  main: { type: probe, base_path: '${A}', url: '${B:?where is redis}' }\n";
    assert_eq!(
        problems(yaml, &options(&[])),
        [
            "<yaml>:2:35: the variable A is not set; set it, or write `${A:-default}`",
            "<yaml>:2:48: the variable B is not set: where is redis",
        ]
    );
}

#[test]
fn variables_override_the_file() {
    let variables = [
        ("PERSIST__STORAGES__MAIN__PORT", "9"),
        ("PERSIST__STORAGES__MAIN__URL", "k8s://cluster/${NOT_EXPANDED}"),
        ("PERSIST__STORAGES__MAIN__POOL__SIZE", "7"),
        ("PERSIST__STORAGES__MAIN__POOL__HOSTS__1", "z"),
        ("PERSIST__STORAGES__SIDE_CAR__TTL", "90"),
        ("PERSIST__DEFAULT_STORAGE", "side-car"),
        ("PERSIST__ROUTES__0__STORAGE", "main"),
        ("PERSIST__MAINTENANCE__INTERVAL", "5m"),
        ("PERSIST_PROFILE", "not a setting"),
        ("PERSIST_CONFIG", "not a setting either"),
        ("PERSISTENCE", "nor this"),
    ];
    let plan = plan(BASE, &variables);
    let main = storage(&plan, "main");
    assert_eq!(main["port"], 9);
    assert_eq!(main["url"], "k8s://cluster/${NOT_EXPANDED}");
    assert_eq!(main["pool"], json!({ "size": 7, "hosts": ["a", "z"] }));
    assert_eq!(main["base_path"], "data");
    assert_eq!(storage(&plan, "side-car")["ttl"], "1m 30s");
    assert_eq!(plan.default_storage(), "side-car");
    assert_eq!(plan.routes().collect::<Vec<_>>(), [("s/", "main")]);
    assert_eq!(plan.maintenance_interval().unwrap().as_secs(), 300);
}

#[test]
fn a_variable_that_leads_nowhere_is_an_error_that_names_it() {
    let cases = [
        ("PERSIST__STORAGES__MIAN__PORT", "1", "there is no storage `mian`; did you mean `main`?"),
        ("PERSIST__STORAGES__MAIN__PROT", "1", "storage \"main\": unknown key `prot`; did you mean `port`?"),
        (
            "PERSIST__STORAGES__MAIN__PORT",
            "x",
            "storage \"main\": `port`: \"x\" was given where a whole number",
        ),
        ("PERSIST__STORAGES__MAIN__PORT__X", "1", "`storages.main.port` is a single value without keys"),
        ("PERSIST__STORAGES__MAIN__POOL", "1", "`storages.main.pool` is a mapping; name one value in it"),
        ("PERSIST__STORAGES__MAIN__POOL__HOSTS__2", "x", "`2` is not the number of an item; the list has 2"),
        ("PERSIST__STORAGES__MAIN__POOL__HOSTS__X", "x", "`X` is not the number of an item"),
        ("PERSIST__STORAGES__MAIN", "x", "`storages.main` is a mapping"),
        ("PERSIST__STORAGE__MAIN__PORT", "1", "unknown key `storage`; did you mean `storages`?"),
        ("PERSIST__DEFAULT_STORAGE", "mian", "there is no storage `mian`; did you mean `main`?"),
        ("PERSIST__", "x", "the name has an empty part"),
        ("PERSIST____X", "x", "the name has an empty part"),
        ("PERSIST__STORAGES__MAIN__", "x", "the name has an empty part"),
    ];
    for (variable, text, wanted) in cases {
        let lines = problems(BASE, &options(&[(variable, text)]));
        let wanted = format!("environment variable {variable}: {wanted}");
        assert!(
            lines.len() == 1 && lines[0].starts_with(&wanted),
            "{variable}\n  got    {lines:?}\n  wanted {wanted}"
        );
    }
    let ambiguous = "storages:\n  a-b: {type: probe}\n  a_b: {type: probe}\ndefault_storage: a-b\n";
    let lines = problems(ambiguous, &options(&[("PERSIST__STORAGES__A_B__PORT", "1")]));
    assert!(lines[0].contains("`storages.a_b` means several keys"), "{lines:?}");
}

#[test]
fn a_profile_is_laid_over_the_rest() {
    let plan = Plan::from_yaml(BASE, &options(&[]).profile(Some("production"))).unwrap();
    let main = storage(&plan, "main");
    assert_eq!(main["port"], 2);
    assert_eq!(main["pool"], json!({ "size": 1, "hosts": ["c"] }));
    assert_eq!(main["base_path"], "data");
    assert_eq!(plan.default_storage(), "side-car");
    assert_eq!(plan.profiles(), ["production", "other-type", "typo"]);

    let without = Plan::from_yaml(BASE, &options(&[])).unwrap();
    assert_eq!(storage(&without, "main")["port"], 1);
}

#[test]
fn a_profile_with_a_type_replaces_the_storage() {
    let plan = Plan::from_yaml(BASE, &options(&[]).profile(Some("other-type"))).unwrap();
    let main = storage(&plan, "main");
    assert_eq!(main["base_path"], "elsewhere");
    assert!(main.get("port").is_none(), "{main}");
}

#[test]
fn mistakes_in_profiles_are_told() {
    let lines = problems(BASE, &options(&[]).profile(Some("prodction")));
    let wanted = "<yaml>:3:3: there is no profile `prodction`; did you mean `production`? (there are: `production`, `other-type`, `typo`)";
    assert_eq!(lines, [wanted]);
    let lines = problems(BASE, &options(&[]).profile(Some("typo")));
    assert_eq!(lines, ["<yaml>:19:17: storage \"main\": unknown key `prt`; did you mean `port`?"]);
    let lines = problems("storages: {a: {type: probe}}", &options(&[]).profile(Some("x")));
    assert_eq!(lines, ["<yaml>:1:1: there is no profile `x`: the configuration has none"]);
    assert!(
        problem("storages: {a: {type: probe}}\nprofiles: [x]\n").contains("`profiles`: a list was given")
    );
    assert!(
        problem("storages: {a: {type: probe}}\nprofiles: {x: 1}\n").contains("`profiles`: a single value")
    );
}

#[test]
fn overrides_come_after_the_profile() {
    let options = options(&[("PERSIST__STORAGES__MAIN__PORT", "3")]).profile(Some("production"));
    assert_eq!(storage(&Plan::from_yaml(BASE, &options).unwrap(), "main")["port"], 3);
}

#[test]
fn the_environment_is_never_shown() {
    let options = LoadOptions::new().environment(Environment::from_iter([("TOKEN", "sk-live")]));
    assert!(!format!("{options:?}").contains("sk-live"), "{options:?}");
}
