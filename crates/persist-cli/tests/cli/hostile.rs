//! Keys, names and places that mean harm or just have bad luck.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::desk::{Desk, files};

const KEYS: [&str; 12] = [
    "../../etc/passwd",
    "..",
    ".",
    "/etc/passwd",
    "a/../../x",
    "a//b",
    "dir/",
    "./x",
    "~/x",
    "C:\\x",
    "CON",
    "-rf",
];

#[test]
fn hostile_keys_are_stored_and_read_like_any_other() {
    let desk = Desk::new();
    for key in KEYS {
        let address = format!("main:{key}");
        assert_eq!(desk.run(["put", &address, "--value", key]).code, 0, "{key}");
        assert_eq!(desk.run(["get", &address]).out, key.as_bytes());
    }
    let mut listed = desk.ok("ls main:").lines().iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let mut keys = KEYS.map(str::to_owned).to_vec();
    keys.sort();
    assert_eq!(listed, keys);
    for key in KEYS {
        assert_eq!(desk.run(["mv", &format!("main:{key}"), &format!("other:{key}!")]).code, 0, "{key}");
        assert_eq!(desk.run(["rm", &format!("other:{key}!")]).code, 0, "{key}");
    }
    listed.clear();
    assert_eq!(desk.ok("ls main:").lines(), listed);
}

#[test]
fn no_key_is_written_outside_the_target_folder() {
    let desk = Desk::new();
    for key in KEYS {
        desk.run(["put", &format!("main:{key}"), "--value", key]);
    }
    let before = files(&desk.path(""));
    let run = desk.say("cp -r main: out/deep/er");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("8 FAILED"), "{}", run.err);
    assert!(run.err.contains("../../etc/passwd cannot be a file below the target folder"), "{}", run.err);
    assert!(run.err.contains("persist get NAME:KEY FILE"), "{}", run.err);
    let inside = desk.path("out/deep/er");
    let (new, old): (Vec<_>, Vec<_>) =
        files(&desk.path("")).into_iter().partition(|file| file.starts_with(&inside));
    assert_eq!(old, before, "something was written outside");
    let names: Vec<_> =
        new.iter().map(|file| file.strip_prefix(&inside).unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["-rf", "C:\\x", "CON", "~/x"]);
    // The cure works.
    assert_eq!(desk.run(["get", "main:../../etc/passwd", "passwd"]).code, 0);
    assert_eq!(desk.read("passwd"), b"../../etc/passwd");
    // A single copy into a folder uses the last level, if that is a name.
    assert_eq!(desk.run(["cp", "main:a/../../x", "out"]).code, 0);
    assert_eq!(desk.read("out/x"), b"a/../../x");
    assert_eq!(desk.run(["cp", "main:..", "out"]).code, 1);
}

#[test]
fn links_are_neither_followed_out_nor_copied_in() {
    let desk = Desk::new();
    desk.file("outside/secret", "s");
    desk.file("tree/a", "a");
    symlink(desk.path("outside"), desk.path("tree/folder")).unwrap();
    symlink(desk.path("outside/secret"), desk.path("tree/file")).unwrap();
    symlink("/", desk.path("tree/root")).unwrap();
    assert!(Command::new("mkfifo").arg(desk.path("tree/pipe")).status().unwrap().success());
    let run = desk.ok("cp -r tree main:");
    assert_eq!(desk.ok("ls main:").lines(), ["a"]);
    assert!(
        run.err.contains("skipped tree/folder: a symbolic link") && run.err.contains("4 skipped"),
        "{}",
        run.err
    );
    assert!(run.err.contains("skipped tree/pipe: neither a file nor a folder"), "{}", run.err);

    desk.ok("put main:folder/x --value v");
    desk.ok("put main:file --value v");
    let run = desk.say("cp -r main: tree");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("symbolic link") && run.err.contains("2 FAILED"), "{}", run.err);
    assert_eq!(desk.read("outside/secret"), b"s");
    assert!(!desk.has("outside/x"));
    let run = desk.say("sync --delete main: tree");
    assert_eq!(run.code, 1);
    assert!(desk.has("outside/secret"));
}

#[test]
fn a_key_and_one_below_it_cannot_both_be_files() {
    let desk = Desk::new();
    desk.ok("put main:a --value 1");
    desk.ok("put main:a/b --value 2");
    let run = desk.say("cp -r -j 1 main: out");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("needs a folder there") && run.err.contains("1 FAILED"), "{}", run.err);
    assert_eq!(desk.read("out/a"), b"1");
}

#[test]
fn file_names_that_are_not_text_are_told_and_the_rest_is_copied() {
    let desk = Desk::new();
    desk.file("tree/good", "g");
    let bad = desk.path("tree").join(std::ffi::OsStr::from_bytes(b"b\xffd"));
    fs::write(&bad, "b").unwrap();
    let run = desk.say("cp -r tree main:");
    assert_eq!(run.code, 1);
    assert!(run.err.contains("is not UTF-8") && run.err.contains("1 FAILED"), "{}", run.err);
    assert_eq!(desk.ok("ls main:").lines(), ["good"]);
    let mut single = desk.command();
    let run = single.arg("cp").arg(&bad).arg("main:").output().unwrap();
    assert_eq!(run.status.code(), Some(1));
    let mut key = desk.command();
    let run = key.arg("get").arg(std::ffi::OsStr::from_bytes(b"main:\xff")).output().unwrap();
    assert_eq!(run.status.code(), Some(2));
}

#[test]
fn damage_is_found_and_has_its_own_exit_code() {
    let desk = Desk::new();
    desk.ok("put main:good --value good-value");
    desk.ok("put main:bad/one --value hello-there");
    let file = desk.stored_file("data/main", b"hello-there");
    fs::write(&file, "hello-thEre").unwrap();
    desk.say("get main:bad/one").fails(5, "checksum");
    for verb in ["verify main:", "verify main:bad", "verify"] {
        let run = desk.say(verb);
        assert_eq!(run.code, 5, "{verb}: {}", run.err);
        assert!(run.text().contains("1 problem") && run.text().contains("bad/one"), "{}", run.text());
    }
    assert_eq!(desk.ok("verify main:good").code, 0);
    let answer = desk.say("--json verify main:").object();
    assert_eq!((answer["clean"].as_bool(), answer["checked"].as_u64()), (Some(false), Some(2)));
    assert_eq!(answer["problems"][0]["kind"], "Corruption");
    assert_eq!(answer["problems"][0]["key"], "bad/one");
    // A run over many goes on, and says so in the end.
    let run = desk.say("cp -r main: out");
    assert_eq!(run.code, 5);
    assert_eq!(desk.read("out/good"), b"good-value");
    assert!(!desk.has("out/bad/one"), "damaged data must not be copied");
    assert_eq!(desk.say("mv -r main: other:").code, 5);
    assert_eq!(desk.ok("ls main:").lines(), ["bad/one"]);
}

#[test]
fn a_read_only_storage_is_read_and_refuses_changes() {
    let desk = Desk::new();
    desk.ok("put main:k --value v");
    desk.file("ro.yaml", "storages:\n  main: { type: file, path: data/main, read_only: true }\n");
    assert_eq!(desk.ok("--config ro.yaml get main:k").out, b"v");
    for verb in
        ["put main:k --value w", "rm main:k", "ttl set main:k 1h", "mv main:k out", "bench main --count 1"]
    {
        let run = desk.say(&format!("--config ro.yaml {verb}"));
        assert_eq!(run.code, 8, "{verb}: {}", run.err);
        assert!(run.err.contains("reading only"), "{}", run.err);
    }
    assert_eq!(desk.ok("get main:k").out, b"v");
}

/// Everything about the files of a folder that a reader must leave as it is.
fn snapshot(folder: &Path) -> Vec<(String, u64, i64, i64, u64)> {
    let look = |file: std::path::PathBuf| {
        let metadata = fs::metadata(&file).unwrap();
        (file.display().to_string(), metadata.len(), metadata.mtime(), metadata.mtime_nsec(), metadata.ino())
    };
    files(folder).into_iter().map(look).collect()
}

const READERS: [&str; 11] = [
    "get main:a/k",
    "get main:a/k --meta",
    "ls main:",
    "ls -l main:",
    "stat main:a/k",
    "verify main:",
    "verify main:a",
    "du main:",
    "stats main",
    "health main",
    "ttl show main:a/k",
];

#[test]
fn readers_leave_no_trace() {
    let desk = Desk::new();
    desk.ok("put main:a/k --value v");
    // What a writer keeps beside the values; a reader does without, and must not bring it back.
    fs::remove_dir_all(desk.path("data/main/.persist")).unwrap();
    let before = snapshot(&desk.path("data"));
    for verb in READERS {
        desk.ok(verb);
        assert_eq!(snapshot(&desk.path("data")), before, "{verb} changed something");
    }
    desk.ok("rm -r --dry-run main:a");
    desk.ok("put --dry-run main:a/k --value w");
    desk.ok("cp -r main: out");
    assert_eq!(snapshot(&desk.path("data")), before);
    assert!(!desk.has("data/main/.persist"));
}

/// Without the rights of root, which no read-only folder stops.
#[test]
fn a_folder_without_write_permission_is_read_and_refuses_changes() {
    const NOBODY: u32 = 65_534;
    let desk = Desk::new();
    let top = desk.path("");
    let is_root = fs::metadata(&top).unwrap().uid() == 0;
    let binary = desk.path("persist-copy");
    // Copied by another process: a file that this one had open for writing may still be busy in a child.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_persist")).arg(&binary).status().unwrap();
    assert!(copied.success());
    fs::set_permissions(&top, fs::Permissions::from_mode(0o755)).unwrap();
    if is_root {
        std::os::unix::fs::chown(&top, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let run = |line: &str| {
        let mut command = Command::new(&binary);
        command.current_dir(&top).args(line.split_whitespace());
        if is_root {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.output().unwrap();
        (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run("put main:a/k --value v").0, Some(0));
    let rights = |change: &str| {
        assert!(
            Command::new("chmod").args(["-R", change]).arg(desk.path("data")).status().unwrap().success()
        );
    };
    rights("a-w");
    let (code, out, err) = run("get main:a/k");
    assert_eq!((code, &out[..]), (Some(0), &b"v"[..]), "{err}");
    for verb in READERS {
        let (code, _, err) = run(verb);
        assert_eq!(code, Some(0), "{verb}: {err}");
    }
    let (code, _, err) = run("put main:new --value v");
    assert_eq!(code, Some(8), "{err}");
    let (code, out, _) = run("get main:a/k");
    assert_eq!((code, &out[..]), (Some(0), &b"v"[..]));
    rights("u+w");
}

#[test]
fn a_full_disk_has_its_own_exit_code() {
    let desk = Desk::new();
    desk.ok("put main:k --value v");
    let mut command = desk.command();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let status = command.args(["get", "main:k"]).stdout(full).output().unwrap();
    assert_eq!(status.status.code(), Some(9), "{}", String::from_utf8_lossy(&status.stderr));
}

#[test]
fn values_over_the_limit_are_refused_before_they_are_read() {
    let desk = Desk::new();
    desk.file("small.yaml", "storages:\n  main: { type: file, path: data/main, max_value: 1KiB }\n");
    desk.file("big", vec![7; 100_000]);
    desk.say("--config small.yaml put main:k big").fails(9, "larger than the storage accepts");
    desk.say("--config small.yaml cp big main:").fails(9, "larger");
    desk.feed("--config small.yaml put main:k", &vec![7; 50_000]).fails(9, "larger");
    let full = vec![7; 1024];
    assert_eq!(desk.feed("--config small.yaml put main:k", &full).code, 0);
    desk.file("over", vec![7; 1025]);
    desk.say("--config small.yaml put main:k over").fails(9, "1025 bytes");
    assert_eq!(desk.ok("get main:k").out, full);
}
