use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::desk::Desk;

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Waits for the end, with a limit that tells a hanging program from a slow machine.
fn code(child: &mut Child) -> Option<i32> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("it did not end");
}

fn err(child: &mut Child) -> String {
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    err
}

#[test]
fn an_interrupted_put_stores_nothing_and_leaves_the_storage_usable() {
    let desk = Desk::bare();
    desk.ok("put main:k --value old");
    for name in ["-INT", "-TERM"] {
        let mut command = desk.command();
        let mut child = command
            .args(["put", "main:k", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        // More than a pipe holds: it is at work when this is written.
        input.write_all(&[b'x'; 200_000]).unwrap();
        signal(&child, name);
        assert_eq!(code(&mut child), Some(130));
        assert!(err(&mut child).contains("interrupted"));
        drop(input);
        assert_eq!(desk.ok("get main:k").out, b"old");
        desk.ok("verify main:");
    }
}

#[test]
fn an_interrupted_benchmark_removes_its_keys() {
    let desk = Desk::bare();
    desk.ok("put main:k --value v");
    let mut command = desk.command();
    let mut child = command
        .args(["bench", "main", "--rounds", "1000"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while desk.ok("ls main:.persist-bench/").out.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "it never began");
    }
    signal(&child, "-INT");
    assert_eq!(code(&mut child), Some(130), "{}", err(&mut child));
    assert_eq!(desk.ok("ls main:").lines(), ["k"]);
}

#[test]
fn a_reader_that_sleeps_does_not_hold_up_an_interrupt() {
    let desk = Desk::new();
    for number in 0..3000 {
        desk.file(&format!("many/{number:0100}"), "");
    }
    desk.ok("cp -r many main:");
    let mut child = desk.command().arg("ls").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::with_capacity(16, child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    // The pipe is full now, and nobody reads.
    sleep(Duration::from_millis(300));
    assert_eq!(child.try_wait().unwrap(), None);
    signal(&child, "-INT");
    assert_eq!(code(&mut child), Some(130));
    drop(out);
}
