//! `docs/cli.md` against the program: nothing undocumented, and every example does what it shows.

use std::fs;
use std::process::Command;

use clap::{Arg, ArgAction};

use crate::desk::Desk;

fn page() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md")).unwrap()
}

/// The part of the page under a heading, up to the next one of its rank.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = page.find(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}")) + 1;
    let rest = &page[start..];
    rest[3..].find("\n## ").map_or(rest, |end| &rest[..end + 3])
}

fn check(section: &str, verb: &str, arg: &Arg) {
    let names: Vec<String> = match arg.get_action() {
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version => return,
        _ if arg.is_positional() => {
            arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect()
        }
        _ => {
            let short = arg.get_short().map(|short| format!("-{short}"));
            arg.get_long().map(|long| format!("--{long}")).into_iter().chain(short).collect()
        }
    };
    for name in names {
        let after_name = |at: usize| section[at + name.len()..].chars().next();
        let is_whole = |at: usize| !after_name(at).is_some_and(|c| c.is_alphanumeric() || c == '-');
        let is_there = section.match_indices(&name).any(|(at, _)| is_whole(at));
        assert!(is_there, "docs/cli.md says nothing of {name} of `{verb}`");
    }
}

#[test]
fn every_verb_and_flag_is_documented() {
    let page = page();
    let mut command = persist_cli::command();
    command.build();
    let shared = section(&page, "Flags for every verb");
    for arg in command.get_arguments() {
        check(shared, "persist", arg);
    }
    let verbs: Vec<_> = command.get_subcommands().filter(|verb| verb.get_name() != "help").collect();
    assert_eq!(
        verbs.len(),
        22 + usize::from(cfg!(feature = "pack")) + usize::from(cfg!(feature = "compress"))
    );
    for verb in verbs {
        let name = format!("`persist {}`", verb.get_name());
        let section = section(&page, &name);
        assert!(
            page.contains(&format!("[{0}](#persist-{0})", verb.get_name())),
            "{name} is not in the contents"
        );
        let inner = verb.get_subcommands().filter(|inner| inner.get_name() != "help");
        for (verb, arg) in
            inner.chain([verb]).flat_map(|verb| verb.get_arguments().map(move |arg| (verb, arg)))
        {
            if !arg.is_global_set() {
                check(section, verb.get_name(), arg);
            }
        }
        for inner in verb.get_subcommands().filter(|inner| inner.get_name() != "help") {
            assert!(section.contains(&format!("persist {} {}", verb.get_name(), inner.get_name())), "{name}");
        }
    }
}

#[test]
fn every_exit_code_is_documented_and_in_the_help() {
    let page = page();
    let section = section(&page, "Exit codes");
    let help = persist_cli::command().render_long_help().to_string();
    for code in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130] {
        assert!(section.contains(&format!("\n| {code} | ")), "{code}");
        assert!(help.contains(&format!(" {code} ")), "{code}");
    }
}

/// One command of the page, and what it is said to print.
struct Example {
    command: String,
    code: i32,
    output: Vec<String>,
}

fn examples(page: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let blocks = page.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    for line in blocks.flat_map(str::lines) {
        match line.strip_prefix("$ ") {
            Some(command) => {
                let (command, code) = command.split_once(" # exit ").unwrap_or((command, "0"));
                let code = code.parse().unwrap();
                examples.push(Example { command: command.to_owned(), code, output: Vec::new() });
            }
            None => examples.last_mut().unwrap().output.push(line.to_owned()),
        }
    }
    examples
}

/// Whether a line is as the page has it, where `…` stands for anything.
fn is_like(pattern: &str, line: &str) -> bool {
    let mut pieces = pattern.split('…');
    let Some(mut rest) = line.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let mut last = None;
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
        last = Some(piece);
    }
    last == Some("") || rest.is_empty()
}

#[test]
fn every_example_does_what_it_shows() {
    let desk = Desk::bare();
    let binaries = std::path::Path::new(env!("CARGO_BIN_EXE_persist")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    let examples = examples(&page());
    assert!(examples.len() > 40, "{}", examples.len());
    for Example { command, code, output } in examples {
        let run = Command::new("sh")
            .args(["-c", &format!("{command} 2>&1")])
            .current_dir(desk.path(""))
            .env("PATH", &path)
            .env_remove("PERSIST_CONFIG")
            .output()
            .unwrap();
        let text = String::from_utf8(run.stdout).unwrap();
        assert_eq!(run.status.code(), Some(code), "$ {command}\n{text}");
        let lines: Vec<&str> = text.lines().collect();
        let rest = output.last().is_some_and(|line| line == "…");
        let expected = if rest { &output[..output.len() - 1] } else { &output[..] };
        assert!(lines.len() == expected.len() || rest && lines.len() > expected.len(), "$ {command}\n{text}");
        for (pattern, line) in expected.iter().zip(&lines) {
            assert!(is_like(pattern, line), "$ {command}\nthe page says: {pattern}\nit printed:    {line}");
        }
    }
}

#[test]
fn patterns_mean_what_they_say() {
    for (pattern, line, like) in [
        ("a … c", "a b c", true),
        ("a … c", "a b d", false),
        ("a…", "abc", true),
        ("a…", "xabc", false),
        ("…", "", true),
        ("a", "ab", false),
        ("…b", "aab", true),
    ] {
        assert_eq!(is_like(pattern, line), like, "{pattern} {line}");
    }
}
