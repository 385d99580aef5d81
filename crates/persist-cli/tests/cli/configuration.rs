use crate::desk::{Desk, RELAXED};

#[test]
fn the_configuration_is_the_first_of_four() {
    let desk = Desk::bare();
    desk.ok("put main:k --value built-in");
    assert!(desk.has("data/persist.db"));
    desk.file("persist.yaml", "storages:\n  main: { type: file, path: usual }\n");
    desk.ok("put main:k --value usual");
    desk.file("far/variable.yaml", "storages:\n  main: { type: file, path: store }\n");
    let run = |flag: &str| {
        let mut command = desk.command();
        command.env("PERSIST_CONFIG", "far/variable.yaml").args(flag.split_whitespace());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    run("put main:k --value variable");
    // Relative paths start at the file that holds them.
    assert!(desk.has("far/store"));
    desk.file("flag.yaml", "storages:\n  main: { type: file, path: flag }\n");
    desk.ok("--config flag.yaml put main:k --value flag");
    assert_eq!(run("get main:k"), "variable");
    assert_eq!(run("get main:k --config flag.yaml"), "flag");
    assert_eq!(desk.ok("get main:k").text(), "usual");
    std::fs::remove_file(desk.path("persist.yaml")).unwrap();
    assert_eq!(desk.ok("get main:k").text(), "built-in");
}

#[test]
fn a_mistyped_configuration_is_told_with_place_and_cure() {
    let desk = Desk::bare();
    for (text, says) in [
        (
            "storages:\n  main: { type: fiel, path: x }\n",
            "wrong.yaml:2:17: storage \"main\": unknown type `fiel`",
        ),
        ("storages:\n  main: { type: file, base_pth: x }\n", "base_path"),
        ("storages:\n  main: { type: file, path: x, durability: very }\n", "strict"),
        ("storages: [\n", "wrong.yaml"),
        ("", "storages"),
    ] {
        desk.file("wrong.yaml", text);
        for verb in ["config check", "ls", "get main:k", "stores", "put main:k --value v", "health", "verify"]
        {
            desk.say(&format!("--config wrong.yaml {verb}")).fails(6, says);
        }
    }
    desk.say("--config none.yaml ls").fails(6, "none.yaml");
    let run = desk.say("--json --config wrong.yaml config check");
    let error: serde_json::Value = serde_json::from_str(&run.err).unwrap();
    assert_eq!(
        (error["error"]["code"].as_u64(), error["error"]["kind"].as_str()),
        (Some(6), Some("InvalidConfig"))
    );
}

#[test]
fn check_show_and_schema() {
    let desk = Desk::new();
    assert_eq!(desk.ok("config check").text(), "persist.yaml is sound: 3 storages (main, other, hot)\n");
    let answer = desk.ok("--json config check").object();
    assert_eq!(answer["storages"], serde_json::json!(["main", "other", "hot"]));
    assert_eq!(answer["default_storage"], "main");
    let shown = desk.ok("config show");
    assert!(shown.text().contains("durability: relaxed"), "{}", shown.text());
    let json = desk.ok("--json config show").object();
    assert_eq!(json["persistence"]["storages"]["main"]["type"], "file");
    // What is shown is a configuration that says the same.
    desk.file("shown.yaml", shown.text());
    assert_eq!(desk.ok("--config shown.yaml --json config show").object(), json);
    let schema = desk.ok("config schema");
    let schema: serde_json::Value = serde_json::from_str(schema.text()).unwrap();
    assert!(schema["$schema"].as_str().unwrap().contains("json-schema"));
    assert!(!desk.has("data"), "nothing was opened");
}

#[test]
fn profiles_and_overrides_are_applied() {
    let desk = Desk::bare();
    desk.file(
        "persist.yaml",
        "storages:\n  main: { type: file, path: one }\nprofiles:\n  test:\n    storages:\n      main: { path: two }\n",
    );
    let run = desk.say("--profile test put main:k --value v");
    assert_eq!(run.code, 0, "{}", run.err);
    assert!(desk.has("two") && !desk.has("one"));
    desk.say("--profile none ls").fails(6, "test");
    let mut command = desk.command();
    command.env("PERSIST__STORAGES__MAIN__PATH", "three").args(["put", "main:k", "--value", "v"]);
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    assert!(desk.has("three"));
}

#[test]
fn secrets_are_not_shown() {
    let desk = Desk::bare();
    desk.file("persist.yaml", "storages:\n  main: { type: file, path: 'x://user:hunter2@host/p' }\n");
    let mut seen = String::new();
    for verb in ["config show", "--json config show", "config check", "stores", "ls main:", "-vvv health"] {
        let run = desk.say(verb);
        seen += run.text();
        seen += &run.err;
    }
    assert!(!seen.contains("hunter2"), "{seen}");
    desk.say("config check --strict").fails(6, "password");
}

#[test]
fn names_that_nobody_configured_bring_the_nearest() {
    let desk = Desk::new();
    desk.say("get mian:k").fails(3, "did you mean `main`?");
    desk.say("ls othr:").fails(3, "`main`, `other`, `hot`");
    desk.say("health othr").fails(3, "did you mean `other`?");
    desk.say("get").fails(2, "NAME:KEY");
    desk.say("verfy main:").fails(2, "verify");
    desk.say("get main:").fails(2, "write main:KEY");
    desk.say("get file.txt").fails(2, "is a local path");
    desk.say("--json -q ls --frobnicate").fails(2, "--frobnicate");
    assert!(!desk.has("data"), "nothing was opened for writing");
}

#[test]
fn a_storage_that_does_not_exist_yet_is_told_as_such() {
    let desk = Desk::bare();
    for verb in ["ls", "get main:k", "verify main:", "stats main", "du"] {
        desk.say(verb).fails(3, "does not exist yet");
    }
    for verb in ["verify", "stats"] {
        assert!(desk.ok(verb).err.contains("does not exist yet"));
    }
    let health = desk.say("health");
    assert_eq!(health.code, 1, "{}", health.err);
    assert!(
        health.text().starts_with("main: degraded: the storage `main` does not exist yet"),
        "{}",
        health.text()
    );
    assert!(!desk.has("data"));
    // With routes it is enough that one of the storages exists.
    let desk = Desk::new();
    desk.ok("put :weights/w --value v");
    assert_eq!(desk.ok("ls").text(), "weights/w\n");
    assert!(!desk.has("data/main"));
}

#[test]
fn only_what_is_needed_is_opened() {
    let desk = Desk::new();
    desk.file("data/other", "a file where a folder should be");
    desk.ok("put main:k --value v");
    assert_eq!(desk.ok("get main:k").out, b"v");
    assert_ne!(desk.say("ls other:").code, 0);
    assert!(RELAXED.contains("data/other"));
    let stats = desk.say("--json stats");
    assert_ne!(stats.code, 0);
    assert_eq!(stats.json().len(), 2, "one that fails does not hide the others: {}", stats.text());
    let long = desk.ok("--json stores --long").json();
    assert!(long[1]["error"].is_string() && long[0]["capabilities"]["durable"] == true, "{long:?}");
}
