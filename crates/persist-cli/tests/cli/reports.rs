use crate::desk::Desk;

#[test]
fn storages_are_listed_without_being_opened() {
    let desk = Desk::new();
    assert_eq!(desk.ok("stores").text(), "main   file   (default)\nother  file   weights/\nhot    cache\n");
    let rows = desk.ok("--json stores").json();
    assert_eq!(
        rows[1],
        serde_json::json!({ "name": "other", "type": "file", "default": false, "routes": ["weights/"] })
    );
    assert!(!desk.has("data"));
    desk.ok("put main:k --value v");
    let rows = desk.ok("--json stores -l").json();
    assert_eq!(rows[0]["capabilities"]["durable"], true);
    assert_eq!(rows[2]["capabilities"]["durable"], false);
    assert!(rows[1]["error"].as_str().unwrap().contains("does not exist yet"));
}

#[test]
fn health_has_exit_codes() {
    let desk = Desk::new();
    desk.ok("put main:k --value v");
    desk.ok("put other:k --value v");
    assert_eq!(desk.ok("health").text(), "main: healthy\nother: healthy\nhot: healthy\n");
    assert_eq!(desk.ok("health main: hot").lines().len(), 2);
    assert_eq!(desk.ok("--json health main").object()["status"], "healthy");
    std::fs::remove_dir_all(desk.path("data/other")).unwrap();
    desk.file("data/other", "no folder");
    let run = desk.say("--json health");
    assert_eq!(run.code, 7, "{}", run.err);
    let rows = run.json();
    assert_eq!(
        (rows[0]["status"].as_str(), rows[1]["status"].as_str()),
        (Some("healthy"), Some("unhealthy"))
    );
    assert_ne!(rows[1]["detail"], "");
}

#[test]
fn stats_show_what_the_backend_counts() {
    let desk = Desk::new();
    desk.ok("put main:k --value v");
    desk.ok("put other:k --value v");
    let rows = desk.ok("--json stats").json();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[2]["storage"], "hot");
    assert_eq!(rows[2]["keys"], 0);
    assert!(rows[2]["counters"].as_object().is_some_and(|counters| !counters.is_empty()));
    let text = desk.ok("stats hot");
    assert!(text.text().starts_with("hot: keys 0, bytes 0 B\n  "), "{}", text.text());
}

#[test]
fn stats_are_written_as_prometheus_reads_them() {
    let desk = Desk::new();
    desk.ok("put main:k --value v");
    let run = desk.ok("stats --prometheus main hot");
    let text = run.text();
    for line in [
        "# TYPE persist_up gauge",
        "persist_up{storage=\"main\"} 1",
        "persist_up{storage=\"hot\"} 1",
        "persist_keys{storage=\"hot\"} 0",
    ] {
        assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{line} in {text}");
    }
    let types = text.lines().filter(|line| line.starts_with("# TYPE "));
    let mut names: Vec<&str> = types.filter_map(|line| line.split(' ').nth(2)).collect();
    let count = names.len();
    names.dedup();
    assert!(count > 3 && names.len() == count, "each metric once: {text}");
}

#[test]
fn compacting_removes_what_has_expired_and_makes_nothing() {
    let desk = Desk::new();
    desk.ok("put main:gone --value v --ttl 1ms");
    desk.ok("put main:stays --value v");
    std::thread::sleep(std::time::Duration::from_millis(5));
    let row = desk.ok("--json compact main").object();
    assert_eq!((row["storage"].as_str(), row["expired"].as_u64()), (Some("main"), Some(1)));
    let text = desk.ok("compact main");
    assert!(text.text().starts_with("main: 0 expired values removed, "), "{}", text.text());
    let run = desk.say("compact other");
    assert_eq!(run.code, 3, "{}", run.err);
    let all = desk.ok("compact");
    assert!(all.err.contains("other"), "{}", all.err);
    assert!(!desk.path("data/other").exists(), "a storage that is not there is not made");
}

#[test]
fn a_benchmark_measures_and_cleans_up() {
    let desk = Desk::new();
    desk.ok("put main:k --value v");
    for (name, storage) in [("main", "file"), ("hot", "cache")] {
        let rows = desk.ok(&format!("--json bench {name} --count 50 --rounds 3 --size 2KiB -j 4")).json();
        let works: Vec<&str> = rows.iter().map(|row| row["work"].as_str().unwrap()).collect();
        assert_eq!(works, ["store", "retrieve", "list", "delete"], "{storage}");
        for row in &rows {
            let number = |name: &str| row[name].as_f64().unwrap();
            assert_eq!((number("values"), number("size"), number("rounds")), (50.0, 2048.0, 3.0));
            assert!(number("values_per_second") > 0.0 && number("median_micros") > 0.0, "{row}");
            assert!(number("p99_micros") >= number("median_micros"), "{row}");
        }
    }
    assert_eq!(desk.ok("ls main:").lines(), ["k"]);
    let text = desk.ok("bench main: --count 5 --rounds 1");
    assert!(
        text.text().starts_with("work") && text.err.contains("5 values of 1.0 KiB"),
        "{}{}",
        text.text(),
        text.err
    );
    desk.say("bench main --count 0").fails(2, "count");
    desk.say("bench main:k").fails(2, "whole storage");
}

#[test]
fn completions_know_verbs_and_flags() {
    let desk = Desk::bare();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = desk.ok(&format!("completions {shell}"));
        for word in ["sync", "completions", "dry-run", "if-absent"] {
            assert!(script.text().contains(word), "{shell}: {word}");
        }
    }
    desk.say("completions csh").fails(2, "bash");
    let bash = desk.ok("completions bash");
    desk.file("script", bash.text());
    if std::path::Path::new("/bin/bash").exists() {
        let check = std::process::Command::new("/bin/bash").arg("-n").arg(desk.path("script")).status();
        assert!(check.unwrap().success());
    }
}

#[test]
fn help_is_there_and_versions_are_told() {
    let desk = Desk::bare();
    let help = desk.ok("--help");
    assert!(help.text().contains("NAME:KEY") && help.text().contains("Exit codes"), "{}", help.text());
    let help = desk.ok("cp --help");
    let words: Vec<&str> = help.text().split_whitespace().collect();
    assert!(words.join(" ").contains("Symbolic links are skipped"), "{}", help.text());
    assert_eq!(desk.ok("--version").text(), format!("persist {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(desk.say("").code, 2);
}
