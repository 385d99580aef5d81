//! What is only done where a person is looking: on a pseudo-terminal.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::desk::Desk;

/// Runs words separated by spaces with both outputs on a terminal; gives the exit code and what the terminal got.
fn show(desk: &Desk, line: &str) -> (i32, String) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let slave = File::options().read(true).write(true).open(name).unwrap();
    let reader = thread::spawn(move || {
        let mut seen = Vec::new();
        // Reading ends with an error once the other side is closed.
        let _ = File::from(master).read_to_end(&mut seen);
        String::from_utf8_lossy(&seen).into_owned()
    });
    let mut command = desk.command();
    command.args(line.split_whitespace()).env("TERM", "xterm").env_remove("NO_COLOR");
    command.stdout(Stdio::from(slave.try_clone().unwrap())).stderr(Stdio::from(slave));
    let code = command.status().unwrap().code().unwrap_or(-1);
    drop(command);
    (code, reader.join().unwrap())
}

#[test]
fn binary_values_are_kept_from_a_terminal() {
    let desk = Desk::new();
    assert_eq!(desk.feed("put main:binary", b"\x1b[2J\x00").code, 0);
    let (code, seen) = show(&desk, "get main:binary");
    assert!(
        code == 1 && seen.contains("would garble the terminal") && !seen.contains("\u{1b}[2J"),
        "{seen:?}"
    );
    let (code, seen) = show(&desk, "get main:binary -");
    assert!(code == 0 && seen.contains("\u{1b}[2J"), "{seen:?}");
    desk.ok("put main:text --value plain");
    assert_eq!(show(&desk, "get main:text"), (0, "plain".to_owned()));
    desk.ok("put main:json --as json --value [1]");
    assert_eq!(show(&desk, "get main:json"), (0, "[1]\r\n".to_owned()));
}

#[test]
fn a_bar_is_drawn_and_leaves_notes_whole() {
    let desk = Desk::new();
    for number in 0..200 {
        desk.file(&format!("tree/{number:03}.json"), "no json");
    }
    let (code, seen) = show(&desk, "cp -r tree main:");
    assert_eq!(code, 0, "{seen}");
    assert!(seen.contains("\u{1b}["), "a bar moves the cursor: {seen:?}");
    assert!(seen.contains("copied 200 values"), "{seen}");
    let notes = seen.matches(" is taken as bytes: this is not JSON").count();
    assert_eq!(notes, 200);
    let (code, seen) = show(&desk, "-q cp -r tree main:quiet");
    assert_eq!((code, seen.as_str()), (0, ""));
}

#[test]
fn the_log_is_for_any_terminal() {
    let desk = Desk::new();
    desk.ok("put main:k --value v");
    let (code, seen) = show(&desk, "-vvv ls main:");
    assert!(code == 0 && seen.contains('k') && !seen.contains("panicked"), "{seen}");
}
