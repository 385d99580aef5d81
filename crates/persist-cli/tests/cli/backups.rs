use std::fs;

use serde_json::Value;

use crate::desk::Desk;

fn name_of(row: &Value) -> String {
    row["snapshot"].as_str().unwrap().to_owned()
}

fn flip_last_byte(path: &str) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn without_any_configuration_a_damaged_database_is_restored() {
    let desk = Desk::bare();
    desk.say("backup main").fails(3, "does not exist yet");
    desk.ok("put main:greeting --value hello");
    let row = desk.ok("--json backup").object();
    assert_eq!((row["keys"].as_u64(), row["type"].as_str()), (Some(1), Some("sqlite")));
    assert_eq!((row["form"].as_str(), row["consistency"].as_str()), (Some("native"), Some("point_in_time")));
    assert!(desk.has(&format!("data/backups/{}/persist.db", name_of(&row))));
    desk.ok("put main:later --value x");
    desk.file("data/persist.db", vec![0xA5; 50_000]);
    desk.say("get main:greeting -").fails(5, "");
    let run = desk.ok("restore main");
    assert!(
        run.text().starts_with(&format!("restored main from {}: 1 key, 5 B", name_of(&row))),
        "{}",
        run.text()
    );
    assert!(run.err.contains("what was there before is kept in"), "{}", run.err);
    assert_eq!(desk.ok("get main:greeting -").text(), "hello");
    assert_eq!(desk.ok("ls main:").lines(), ["greeting"]);
    desk.ok("verify main:");
}

#[test]
fn snapshots_are_taken_listed_and_removed_as_configured() {
    let desk = Desk::new();
    let config = String::from_utf8(desk.read("persist.yaml")).unwrap();
    desk.file("persist.yaml", config + "  backup: { schedule: daily, retention: 2, path: copies }\n");
    desk.ok("put main:k --value v");
    let run = desk.ok("backup");
    assert_eq!(run.lines().len(), 1, "{}", run.text());
    assert!(run.err.contains("does not exist yet") && run.err.contains("lives in the memory"), "{}", run.err);
    desk.ok("put other:k --value v");
    desk.ok("backup main other:");
    let run = desk.ok("backup main");
    assert!(run.err.contains("removed main/"), "{}", run.err);
    let rows = desk.ok("--json snapshots").json();
    let storages: Vec<&str> = rows.iter().map(|row| row["storage"].as_str().unwrap()).collect();
    assert_eq!(storages, ["main", "main", "other"]);
    assert!(name_of(&rows[0]) < name_of(&rows[1]));
    assert_eq!(desk.ok("snapshots other").lines().len(), 1);
    assert!(desk.ok("snapshots hot").err.contains("there is no snapshot in copies"));
    // Into a folder of the user's choice nothing is removed.
    for _ in 0..3 {
        desk.ok("backup main --to elsewhere");
    }
    assert_eq!(desk.ok("snapshots --from elsewhere").lines().len(), 3);
    desk.say("backup nobody").fails(3, "no storage named");
}

#[test]
fn damage_is_found_and_named() {
    let desk = Desk::new();
    desk.ok("put main:k --value v");
    let path = desk.ok("--json backup main").object()["path"].as_str().unwrap().to_owned();
    let path = desk.path(&path).display().to_string();
    assert!(desk.ok("snapshots --verify").text().ends_with("all is well\n"));
    assert_eq!(desk.ok("--json snapshots --verify").object()["clean"], true);
    flip_last_byte(&format!("{path}/entries"));
    assert_eq!(desk.ok("snapshots").lines().len(), 1, "a list does not read everything");
    let run = desk.say("snapshots --verify");
    assert_eq!(run.code, 5);
    assert!(run.text().contains("damaged\n") && run.text().contains("was changed"), "{}", run.text());
    let run = desk.say("--json snapshots --verify");
    assert_eq!((run.code, run.object()["clean"].as_bool()), (5, Some(false)));
    desk.say("restore main").fails(5, "is damaged");
    desk.say("restore main --dry-run").fails(5, "is damaged");
    assert_eq!(desk.ok("get main:k -").text(), "v", "nothing was touched");
    flip_last_byte(&format!("{path}/manifest.json"));
    let run = desk.say("snapshots");
    assert_eq!(run.code, 5);
    assert!(run.text().contains("is damaged"), "{}", run.text());
}

#[test]
fn restored_by_name_by_path_into_another_storage_and_for_show() {
    let desk = Desk::new();
    let config = String::from_utf8(desk.read("persist.yaml")).unwrap();
    let config = config.replace("    hot:", "    base: { type: sqlite, path: data/base.db }\n    hot:");
    desk.file("persist.yaml", config);
    desk.ok("put main:k --value first");
    let first = desk.ok("--json backup main").object();
    desk.ok("put main:k --value second");
    desk.ok("backup main");
    desk.ok("put main:k --value third");
    let run = desk.ok("restore main --dry-run");
    assert!(run.text().starts_with("would restore main from main/"), "{}", run.text());
    assert_eq!(desk.ok("get main:k -").text(), "third");
    desk.ok("restore main");
    assert_eq!(desk.ok("get main:k -").text(), "second");
    let row = desk.ok(&format!("--json restore {}", name_of(&first))).object();
    assert_eq!((row["keys"].as_u64(), row["dry_run"].as_bool()), (Some(1), Some(false)));
    assert!(desk.path(row["kept"].as_str().unwrap()).exists());
    assert_eq!(desk.ok("get main:k -").text(), "first");
    // Files into a database and back.
    desk.ok(&format!("restore {} base", first["path"].as_str().unwrap()));
    assert_eq!(desk.ok("get base:k -").text(), "first");
    desk.ok("put base:k --value fourth");
    desk.ok("backup base");
    desk.ok("restore base main:");
    assert_eq!(desk.ok("get main:k -").text(), "fourth");
    desk.say("restore main/20000101T000000.000Z-00000000").fails(3, "its newest is");
    desk.say("restore nothing").fails(3, "there is no snapshot");
    desk.say("restore main nobody").fails(3, "no storage named");
    desk.say("restore main nobody --dry-run").fails(3, "no storage named");
}
