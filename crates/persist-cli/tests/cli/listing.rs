use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use crate::desk::Desk;

/// Fills `main` with 10,000 keys in order.
fn ten_thousand(desk: &Desk) -> Vec<String> {
    for number in 0..10_000 {
        desk.file(&format!("many/{:02}/{number:05}", number / 500), number.to_string());
    }
    let run = desk.ok("cp -r many main:");
    assert!(run.err.contains("copied 10,000 values"), "{}", run.err);
    (0..10_000).map(|number| format!("{:02}/{number:05}", number / 500)).collect()
}

#[test]
fn ten_thousand_keys_are_listed_counted_paged_and_piped() {
    let desk = Desk::new();
    let keys = ten_thousand(&desk);
    assert_eq!(desk.ok("ls main:").lines(), keys);

    // Pages join without a gap.
    let mut paged = Vec::new();
    let mut after = String::new();
    loop {
        let run = desk.ok(&format!("ls --json main: --limit 3000 {after}"));
        for line in run.json() {
            match line["key"].as_str() {
                Some(key) => paged.push(key.to_owned()),
                None => after = format!("--after {}", line["next"].as_str().unwrap()),
            }
        }
        if !run.text().contains("\"next\"") {
            break;
        }
    }
    assert_eq!(paged, keys);

    let du = desk.ok("--json du main: --depth 1").json();
    assert_eq!(du.len(), 21);
    assert_eq!(du[1], serde_json::json!({ "prefix": "01/", "keys": 500, "bytes": 1500 }));
    let bytes: usize = (0..10_000).map(|number: u32| number.to_string().len()).sum();
    assert_eq!(du[20], serde_json::json!({ "prefix": "", "keys": 10_000, "bytes": bytes }));

    let verified = desk.ok("--json verify main:").object();
    assert_eq!((verified["checked"].as_u64(), verified["clean"].as_bool()), (Some(10_000), Some(true)));
    assert_eq!(desk.ok("--json verify main:07/").object()["checked"], 500);

    a_reader_that_stops(&desk, &keys[0]);
    pipes_of_a_shell(&desk, &keys[0]);

    let moved = desk.ok("--json mv -r main:19 other:").json();
    assert_eq!(moved.last().unwrap()["copied"], 500);
    assert_eq!(desk.ok("ls main:19").text(), "");
    assert_eq!(desk.ok("ls other:").lines().len(), 500);
    assert_eq!(desk.ok("--json rm -r -f main:").json().last().unwrap()["deleted"], 9_500);
}

fn a_reader_that_stops(desk: &Desk, first: &str) {
    let mut child =
        desk.command().args(["ls", "--long"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut out = BufReader::with_capacity(64, child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    drop(out);
    assert!(line.trim_end().ends_with(first), "{line}");
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(err, "");
}

fn pipes_of_a_shell(desk: &Desk, first: &str) {
    let binary = env!("CARGO_BIN_EXE_persist");
    let script = format!("'{binary}' ls | head -1; '{binary}' ls main: -0 | tr '\\0' '\\n' | wc -l");
    let run = Command::new("sh").arg("-c").arg(script).current_dir(desk.path("")).output().unwrap();
    let text = String::from_utf8(run.stdout).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, [first, "10000"]);
    assert!(run.stderr.is_empty());
}

#[test]
fn prefixes_are_literal_and_order_is_by_bytes() {
    let desk = Desk::new();
    for key in ["a", "a/b", "a%b", "a_b", "ab", "B", "é", "a-b", "a*"] {
        desk.run(["put", &format!("main:{key}"), "--value", "v"]);
    }
    assert_eq!(desk.ok("ls main:").lines(), ["B", "a", "a%b", "a*", "a-b", "a/b", "a_b", "ab", "é"]);
    assert_eq!(desk.ok("ls main:a%").lines(), ["a%b"]);
    assert_eq!(desk.ok("ls main:a_").lines(), ["a_b"]);
    assert_eq!(desk.ok("ls main:a*").lines(), ["a*"]);
    assert_eq!(desk.ok("ls main:A").text(), "");
    assert_eq!(desk.ok("ls main: --after a-zzz --limit 2").lines(), ["a/b", "a_b"]);
    let run = desk.ok("ls main: --limit 2");
    assert_eq!(run.lines(), ["B", "a"]);
    assert!(run.err.contains("go on with --after a"), "{}", run.err);
    assert!(!desk.ok("ls main: --limit 9").err.contains("there are more"));
    desk.say("ls main: --limit 0").fails(2, "limit");
}

#[test]
fn keys_that_are_no_plain_line_are_quoted() {
    let desk = Desk::new();
    let keys = ["a\nb", "\u{1b}[2J", "\"quoted\""];
    for key in keys {
        assert_eq!(desk.run(["put", &format!("main:{key}"), "--value", "v"]).code, 0);
    }
    let run = desk.ok("ls main:");
    assert_eq!(run.lines(), [r#""\u001b[2J""#, r#""\"quoted\"""#, r#""a\nb""#]);
    let exact: Vec<String> = desk
        .ok("ls --json main:")
        .json()
        .iter()
        .map(|line| line["key"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(exact, ["\u{1b}[2J", "\"quoted\"", "a\nb"]);
    assert_eq!(desk.ok("ls -0 main:").out, b"\x1b[2J\0\"quoted\"\0a\nb\0");
    let stat = desk.run(["stat", "main:\u{1b}[2J"]);
    assert!(!stat.out.contains(&0x1b), "{:?}", stat.text());
    let error = desk.run(["get", "main:absent\u{1b}[2J"]);
    assert!(error.code == 3 && !error.err.contains('\u{1b}'), "{:?}", error.err);
}

#[test]
fn long_lines_tell_kind_size_and_times() {
    let desk = Desk::new();
    desk.ok("put main:k --value 12345 --ttl 1h");
    let line = desk.ok("ls -l main:");
    let words: Vec<&str> = line.text().split_whitespace().collect();
    assert_eq!((words[0], words[1], words[4]), ("bytes", "5", "k"));
    assert!(words[2] < words[3], "modified before expiry: {words:?}");
    assert_eq!(desk.ok("ls -l --json main:").object()["metadata"]["size"], 5);
}

#[test]
fn sums_nest_by_folder() {
    let desk = Desk::new();
    for (key, value) in
        [("a/b/1", "x"), ("a/b/2", "xx"), ("a/c", "xxx"), ("a-", "x"), ("b", "x"), ("a/d/e/f", "xxxx")]
    {
        desk.run(["put", &format!("main:{key}"), "--value", value]);
    }
    let sums: Vec<(String, u64, u64)> = desk
        .ok("--json du main: -d 2")
        .json()
        .iter()
        .map(|sum| {
            let number = |name: &str| sum[name].as_u64().unwrap();
            (sum["prefix"].as_str().unwrap().to_owned(), number("keys"), number("bytes"))
        })
        .collect();
    let expected = [("a/b/", 2, 3), ("a/d/", 1, 4), ("a/", 4, 10), ("", 6, 12)];
    let expected: Vec<(String, u64, u64)> =
        expected.into_iter().map(|(prefix, keys, bytes)| (prefix.to_owned(), keys, bytes)).collect();
    assert_eq!(sums, expected);
    assert_eq!(desk.ok("--json du main:a/b -d 0").object()["keys"], 2);
    assert_eq!(desk.ok("--json du main:none").object()["keys"], 0);
}
