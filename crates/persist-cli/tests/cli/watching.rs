//! `persist watch`, while other processes change what it watches.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::Value;

use crate::desk::Desk;

/// A watch that has begun.
struct Watcher {
    child: Child,
    out: BufReader<ChildStdout>,
    /// What was told last.
    last: Option<(String, String)>,
}

impl Watcher {
    fn new(desk: &Desk, args: &str) -> Self {
        let mut command = desk.command();
        command.arg("watch").args(args.split_whitespace());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut note = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut note).unwrap();
        assert!(note.starts_with("watching "), "{note}");
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out, last: None }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.out.read_line(&mut line).unwrap() > 0, "it ended");
        line.trim_end().to_owned()
    }

    /// Reads on until an event and a key are told; only what was told last may come between, for an event may come twice.
    fn expect(&mut self, event: &str, key: &str) {
        loop {
            let line = self.line();
            let words: Vec<&str> = line.split_whitespace().collect();
            let told = (words[0].to_owned(), words[words.len() - 1].to_owned());
            if told == (event.to_owned(), key.to_owned()) {
                self.last = Some(told);
                return;
            }
            assert_eq!(Some(told), self.last, "{event} {key} was expected");
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Stores and deletes while somebody watches.
fn changes_are_shown(desk: &Desk) {
    desk.ok("put main:people/ada --value 1");
    let mut watcher = Watcher::new(desk, "main:people/");
    desk.ok("put main:other --value 1");
    desk.ok("put main:people/bob --value 22");
    watcher.expect("stored", "people/bob");
    desk.ok("rm main:people/ada");
    watcher.expect("deleted", "people/ada");
    desk.ok("ttl set main:people/bob 1h");
    watcher.expect("stored", "people/bob");
}

#[test]
fn changes_of_other_processes_are_shown_from_files() {
    changes_are_shown(&Desk::new());
}

#[test]
fn changes_of_other_processes_are_shown_from_sqlite() {
    changes_are_shown(&Desk::bare());
}

#[test]
fn json_has_the_metadata() {
    let desk = Desk::bare();
    desk.ok("put main:k --value 0");
    let mut command = desk.command();
    command.args(["--json", "watch", "main:", "--limit", "1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    // It does not say when it has begun, so something is changed until it ends.
    let mut number = 0;
    while child.try_wait().unwrap().is_none() {
        number += 1;
        desk.ok(&format!("put main:k --value {number}"));
    }
    assert_eq!(child.wait().unwrap().code(), Some(0));
    out.read_line(&mut line).unwrap();
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((event["event"].as_str(), event["key"].as_str()), (Some("stored"), Some("k")));
    assert_eq!(event["metadata"]["kind"], "bytes");
}

#[test]
fn what_does_not_exist_cannot_be_watched() {
    let run = Desk::bare().say("watch main:");
    assert_eq!(run.code, 3, "{}", run.err);
    assert!(run.err.contains("does not exist yet"), "{}", run.err);
}
