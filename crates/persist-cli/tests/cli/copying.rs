use std::fs;

use persist_core::{Array, Value};
use serde_json::json;

use crate::desk::{Desk, files};

fn tree(desk: &Desk) {
    desk.file("tree/a.txt", "one");
    desk.file("tree/sub/b.json", "{ \"x\": 1 }\n");
    desk.file("tree/sub/deep/grid.npy", Array::from_vec(vec![2], vec![1_u8, 2]).unwrap().to_npy());
    desk.file("tree/sub/lax.json", "// not JSON\n{}");
    desk.file("tree/empty", "");
}

fn same_trees(desk: &Desk, a: &str, b: &str) {
    let relative = |root: &str| -> Vec<_> {
        let root = desk.path(root);
        files(&root)
            .iter()
            .map(|file| (file.strip_prefix(&root).unwrap().to_owned(), fs::read(file).unwrap()))
            .collect()
    };
    assert_eq!(relative(a), relative(b));
}

#[test]
fn a_tree_goes_in_and_comes_out_byte_by_byte() {
    let desk = Desk::new();
    tree(&desk);
    let run = desk.ok("cp -r --verify tree main:pre");
    assert!(run.err.contains("copied 5 values") && run.err.contains("every checksum agrees"), "{}", run.err);
    assert!(run.err.contains("lax.json is taken as bytes"), "{}", run.err);
    let kinds: Vec<_> = desk
        .ok("ls -l --json main:pre/")
        .json()
        .into_iter()
        .map(|line| {
            (line["key"].as_str().unwrap().to_owned(), line["metadata"]["kind"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [
        ("pre/a.txt", "bytes"),
        ("pre/empty", "bytes"),
        ("pre/sub/b.json", "json"),
        ("pre/sub/deep/grid.npy", "array"),
        ("pre/sub/lax.json", "bytes"),
    ];
    assert_eq!(kinds, expected.map(|(key, kind)| (key.to_owned(), kind.to_owned())));
    desk.ok("cp -r --verify main:pre back");
    same_trees(&desk, "tree", "back");
    // Without a prefix, and from storage to storage.
    desk.ok("cp -r main:pre/ other:");
    assert_eq!(desk.ok("ls other:").lines()[0], "a.txt");
    desk.ok("cp -r other: again/deeper");
    same_trees(&desk, "tree", "again/deeper");
}

#[test]
fn single_copies_know_where_to_go() {
    let desk = Desk::new();
    desk.file("f.txt", "v");
    desk.ok("cp f.txt main:");
    desk.ok("cp f.txt main:dir/");
    desk.ok("cp f.txt main:x");
    assert_eq!(desk.ok("ls main:").lines(), ["dir/f.txt", "f.txt", "x"]);
    fs::create_dir(desk.path("out")).unwrap();
    desk.ok("cp main:dir/f.txt out");
    assert_eq!(desk.read("out/f.txt"), b"v");
    desk.ok("cp main:x plain");
    assert_eq!(desk.read("plain"), b"v");
    assert_eq!(desk.ok("cp main:x -").out, b"v");
    assert_eq!(desk.feed("cp - main:streamed", b"s").code, 0);
    assert_eq!(desk.ok("get main:streamed").out, b"s");
    desk.ok("cp main:x other:");
    assert_eq!(desk.ok("get other:x").out, b"v");
    // With -r a key below which nothing lies is one value.
    desk.ok("cp -r main:x other:y");
    assert_eq!(desk.ok("get other:y").out, b"v");
}

#[test]
fn wrong_pairs_are_told_how_to_be_right() {
    let desk = Desk::new();
    desk.file("f.txt", "v");
    desk.ok("put main:a/b --value v");
    desk.say("cp f.txt g.txt").fails(2, "neither side is in a storage");
    desk.say("cp main: out").fails(2, "add -r");
    fs::create_dir(desk.path("folder")).unwrap();
    desk.say("cp folder main:").fails(2, "add -r");
    desk.say("cp main:a/b main:a/b").fails(2, "the same");
    desk.say("cp main:a/b :a/b").fails(2, "the same");
    desk.say("cp -r main:a main:a/c").fails(2, "lie in each other");
    desk.say("cp -r main: main:c").fails(2, "lie in each other");
    desk.say("cp -r : main:c").fails(2, "lie in each other");
    desk.say("cp -r main:a -").fails(2, "not a folder");
    desk.say("cp - main:").fails(2, "no name");
    desk.say("cp main:absent out").fails(3, "there is nothing at main:absent");
    desk.say("cp none.txt main:").fails(3, "none.txt");
    desk.say("cp -r none main:").fails(3, "none");
    desk.say("mv main:a/b -").fails(2, "cannot be moved");
    assert_eq!(desk.ok("ls main:").lines(), ["a/b"]);
}

#[test]
fn tags_and_expiry_travel_between_storages() {
    let desk = Desk::new();
    desk.ok("put main:k --value v --ttl 1h --tag a=b");
    desk.ok("put main:forever --value v");
    desk.ok("cp main:k other:k --tag c=d");
    let (from, to) = (desk.ok("--json stat main:k").object(), desk.ok("--json stat other:k").object());
    assert_eq!(from["metadata"]["expires_at"], to["metadata"]["expires_at"]);
    assert_eq!(to["metadata"]["tags"], json!({ "a": "b", "c": "d" }));
    desk.ok("cp main:forever other:brief --ttl 1h");
    assert!(desk.ok("--json stat other:brief").object()["metadata"]["expires_at"].is_string());
    // A default lifetime of the target does not end what was to last.
    desk.file(
        "short.yaml",
        "storages:\n  main: { type: file, path: data/main }\n  short: { type: file, path: data/short, ttl: 1h }\ndefault_storage: main\n",
    );
    desk.ok("--config short.yaml cp main:forever short:forever");
    assert!(
        desk.ok("--config short.yaml --json stat short:forever").object()["metadata"]["expires_at"].is_null()
    );
}

#[test]
fn nothing_is_overwritten_that_should_stay() {
    let desk = Desk::new();
    tree(&desk);
    desk.ok("put main:a.txt --value mine");
    let summary = desk.ok("--json cp -r -n tree main:").json().pop().unwrap();
    assert_eq!((summary["copied"].as_u64(), summary["kept"].as_u64()), (Some(4), Some(1)));
    assert_eq!(desk.ok("get main:a.txt").out, b"mine");
    desk.file("back/a.txt", "local");
    desk.ok("cp -r -n main: back");
    assert_eq!(desk.read("back/a.txt"), b"local");
    desk.ok("cp -r main: back");
    assert_eq!(desk.read("back/a.txt"), b"mine");
    // A move that finds something there leaves both.
    desk.ok("mv -r -n tree main:");
    assert_eq!(desk.read("tree/a.txt"), b"one");
}

#[test]
fn a_rehearsal_names_everything_and_does_nothing() {
    let desk = Desk::new();
    tree(&desk);
    let run = desk.ok("cp -r --dry-run tree main:x");
    assert_eq!(run.lines().len(), 5);
    assert_eq!(run.lines()[0], "copy tree/a.txt -> main:x/a.txt");
    assert!(!desk.has("data"));
    desk.ok("put main:k --value v");
    let run = desk.ok("--json mv -r --dry-run tree main:x").json();
    assert_eq!(run[0], json!({ "action": "move", "from": "tree/a.txt", "to": "main:x/a.txt", "bytes": 3 }));
    assert_eq!((run[5]["action"].as_str(), run[5]["dry_run"].as_bool()), (Some("summary"), Some(true)));
    desk.ok("cp -r --dry-run main: out");
    assert!(!desk.has("out"));
    assert_eq!(desk.ok("ls main:").lines(), ["k"]);
    assert!(desk.has("tree/a.txt"));
}

#[test]
fn moving_empties_the_source() {
    let desk = Desk::new();
    tree(&desk);
    let run = desk.ok("mv -r tree main:t");
    assert!(run.err.contains("moved 5 values") && run.err.contains("every checksum agrees"), "{}", run.err);
    assert_eq!(files(&desk.path("tree")).len(), 0);
    desk.ok("mv -r main:t other:u");
    assert_eq!(desk.ok("ls main:").text(), "");
    desk.ok("mv other:u/a.txt here.txt");
    assert_eq!(desk.read("here.txt"), b"one");
    desk.say("get other:u/a.txt").fails(3, "nothing at");
    desk.ok("mv here.txt other:back.txt");
    assert!(!desk.has("here.txt"));
    desk.ok("mv other:back.txt other:renamed.txt");
    assert_eq!(desk.ok("get other:renamed.txt").out, b"one");
}

#[test]
fn a_move_whose_copy_is_lost_keeps_the_source() {
    let desk = Desk::new();
    // A cache that holds one value forgets each copy when the next one comes; here it is too small for any.
    desk.file(
        "tiny.yaml",
        "storages:\n  main: { type: file, path: data/main }\n  tiny: { type: cache, max_value: 2 }\ndefault_storage: main\n",
    );
    desk.file("tree/a", "x");
    desk.file("tree/big", "too large");
    desk.file("tree/c", "y");
    let run = desk.say("--config tiny.yaml mv -r tree tiny:");
    assert_eq!(run.code, 9, "{}", run.err);
    assert!(run.err.contains("1 FAILED"), "{}", run.err);
    assert_eq!(files(&desk.path("tree")), [desk.path("tree/big")]);
}

#[test]
fn sync_copies_what_differs_and_deletes_what_is_gone() {
    let desk = Desk::new();
    tree(&desk);
    let summary = |line: &str| desk.ok(line).json().pop().unwrap();
    let numbers = |summary: serde_json::Value| {
        ["copied", "unchanged", "deleted"].map(|name| summary[name].as_u64().unwrap())
    };
    assert_eq!(numbers(summary("--json sync tree main:t")), [5, 0, 0]);
    assert_eq!(numbers(summary("--json sync tree main:t")), [0, 5, 0]);
    desk.file("tree/a.txt", "two");
    desk.file("tree/new", "n");
    fs::remove_file(desk.path("tree/empty")).unwrap();
    // The same size, so only the checksum tells.
    assert_eq!(numbers(summary("--json sync --size-only tree main:t")), [1, 4, 0]);
    assert_eq!(numbers(summary("--json sync tree main:t")), [1, 4, 0]);
    assert_eq!(numbers(summary("--json sync --delete --dry-run tree main:t")), [0, 5, 1]);
    assert_eq!(desk.ok("get main:t/empty").out, b"");
    assert_eq!(numbers(summary("--json sync --delete tree main:t")), [0, 5, 1]);
    desk.say("get main:t/empty").fails(3, "nothing at");

    // Another size is seen without any checksum.
    desk.file("tree/a.txt", "longer");
    assert_eq!(numbers(summary("--json sync --size-only tree main:t")), [1, 4, 0]);

    // Storage to storage, and back into a folder.
    assert_eq!(numbers(summary("--json sync --delete --verify main:t other:t")), [5, 0, 0]);
    desk.ok("rm main:t/new");
    assert_eq!(numbers(summary("--json sync --delete main:t other:t")), [0, 4, 1]);
    assert_eq!(numbers(summary("--json sync --delete main:t tree")), [0, 4, 1]);
    assert!(!desk.has("tree/new"));
    desk.file("tree/sub/deep/grid.npy", Array::from_vec(vec![2], vec![1_u8, 3]).unwrap().to_npy());
    assert_eq!(numbers(summary("--json sync main:t tree")), [1, 3, 0]);
    // A kind that differs is a difference, though the bytes are the same.
    desk.ok("put main:t/sub/b.json tree/sub/b.json --as bytes");
    assert_eq!(numbers(summary("--json sync tree main:t")), [1, 3, 0]);
    assert_eq!(desk.ok("--json stat main:t/sub/b.json").object()["metadata"]["kind"], "json");
}

#[test]
fn sync_never_deletes_everything_by_mistake() {
    let desk = Desk::new();
    tree(&desk);
    desk.ok("cp -r tree main:t");
    fs::create_dir(desk.path("nothing")).unwrap();
    desk.say("sync --delete nothing main:t").fails(1, "the source is empty");
    desk.say("sync --delete absent main:t").fails(3, "absent");
    desk.say("sync --delete main:absent tree").fails(1, "the source is empty");
    assert_eq!(desk.ok("ls main:").lines().len(), 5);
    // A copy that failed keeps the rest from being deleted.
    desk.ok("put main:t/../up --value v");
    let run = desk.say("sync --delete main:t tree2");
    assert_eq!(run.code, 1);
    desk.file("tree2/stranger", "s");
    let run = desk.say("sync --delete main:t tree2");
    assert!(run.err.contains("nothing was deleted") && desk.has("tree2/stranger"), "{}", run.err);
}

#[test]
fn a_storage_inside_the_tree_is_left_out() {
    let desk = Desk::bare();
    desk.file("a.txt", "a");
    for target in ["main:", "main:again"] {
        let run = desk.ok(&format!("cp -r . {target}"));
        assert!(run.err.contains("skipped ./data/persist.db: a storage's own"), "{}", run.err);
    }
    assert_eq!(desk.ok("ls main:").lines(), ["a.txt", "again/a.txt"]);
}

#[test]
fn what_is_stored_is_what_other_tools_hash() {
    let desk = Desk::new();
    let array = Value::Array(Array::from_vec(vec![2, 1], vec![1_i64, -1]).unwrap());
    desk.file("a.npy", array.as_array().unwrap().to_npy());
    desk.ok("cp a.npy main:");
    let checksum = desk.ok("--json stat main:a.npy").object()["metadata"]["checksum"].clone();
    assert_eq!(checksum, array.checksum().to_string());
}
