//! Layers and composites, from the configuration to the bytes on the disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::desk::Desk;

const CONFIG: &str = "\
persistence:
  default_storage: live
  storages:
    live: { type: tiered, tiers: [hot, main], layers: [{ size_limit: { max_value: 1MiB } }] }
    hot: { type: cache }
    main:
      type: file
      path: data/main
      layers:
        - compress
        - encrypt: { keys: [{ id: k1, secret: \"file:key\" }] }
        - retry
        - timeout: { after: 5s }
  backup: { path: copies }
";

fn desk() -> Desk {
    let desk = Desk::bare();
    desk.file("persist.yaml", CONFIG);
    desk.file("key", "5a".repeat(32));
    fs::set_permissions(desk.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    desk
}

/// Every byte below a folder.
fn content(path: &std::path::Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(content(&path)) } else { all.extend(fs::read(path).unwrap()) }
    }
    all
}

#[test]
fn a_value_passes_all_layers_and_comes_back_from_a_snapshot() {
    let desk = desk();
    let text = "attack at dawn, ".repeat(100);
    desk.file("in.txt", &text);
    desk.ok("put live:notes/1 in.txt");
    assert_eq!(desk.ok("get live:notes/1 -").text(), text);
    assert_eq!(desk.ok("get main:notes/1 -").text(), text);
    assert_eq!(desk.ok("ls live:").lines(), ["notes/1"]);
    // Compressed and then encrypted: nothing to be read, and much less of it.
    let below = content(&desk.path("data/main"));
    assert!(below.len() < text.len() / 2, "{} bytes", below.len());
    assert!(!below.windows(6).any(|window| window == b"attack"));
    // The composite is copied with its members, and so encrypted.
    let run = desk.ok("backup");
    assert_eq!(run.lines().len(), 1, "{} {}", run.text(), run.err);
    assert!(!content(&desk.path("copies")).windows(6).any(|window| window == b"attack"));
    desk.ok("rm live:notes/1");
    desk.say("get live:notes/1 -").fails(3, "");
    desk.ok("restore main");
    assert_eq!(desk.ok("get live:notes/1 -").text(), text);
    desk.ok("verify main:");
    // With another key nothing opens, and nothing is taken for absent.
    desk.file("key", "a5".repeat(32));
    desk.say("get live:notes/1 -").fails(5, "cannot be opened");
    assert_eq!(desk.say("verify main:").code, 5);
}

#[test]
fn layers_are_shown_and_their_order_is_checked() {
    let desk = desk();
    let run = desk.ok("config show");
    let shown = run.text();
    assert!(
        shown.contains("[redacted]") && shown.contains("attempt_timeout") && !shown.contains("5a5a"),
        "{shown}"
    );
    desk.file(
        "persist.yaml",
        CONFIG.replace("        - compress\n", "").replace("after: 5s }", "after: 5s }\n        - compress"),
    );
    desk.say("config check").fails(6, "`compress` must stand before `encrypt`");
}
