//! Secrets are referred to, resolved, and never shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use persist_core::ErrorKind;
use persist_manager::{LoadOptions, Plan};

use crate::support::{options, plan, problems, shown};

fn with_password(reference: &str) -> String {
    format!("storages:\n  a: {{ type: probe, password: {reference} }}\n")
}

fn resolved_to(reference: &str, expected: &str) -> String {
    format!("storages:\n  a: {{ type: probe, password: {reference}, expected_password: {expected:?} }}\n")
}

fn secret_file(folder: &Path, content: &[u8], mode: u32) {
    let path = folder.join("secret");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
}

fn in_folder(folder: &Path) -> LoadOptions {
    options(&[("PASSWORD", "hunter2")]).base(folder)
}

fn only_problem(yaml: &str, options: &LoadOptions) -> String {
    let mut lines = problems(yaml, options);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

#[test]
fn references_are_resolved_and_everything_shown_is_redacted() {
    let folder = tempfile::tempdir().unwrap();
    secret_file(folder.path(), b"hunter2\n", 0o600);
    let overridden = [("PERSIST__STORAGES__A__PASSWORD", "file:secret")];
    let cases = [
        (resolved_to("env:PASSWORD", "$${PASSWORD}"), options(&[("PASSWORD", "${PASSWORD}")])),
        (resolved_to("file:secret", "hunter2"), in_folder(folder.path())),
        (resolved_to("\"${PASSWORD}\"", "hunter2"), in_folder(folder.path())),
        (resolved_to("replaced", "hunter2"), options(&overridden).base(folder.path())),
    ];
    for (yaml, options) in cases {
        let plan = Plan::from_yaml(&yaml, &options.strict_secrets(true)).unwrap();
        assert_eq!(shown(&plan)["persistence"]["storages"]["a"]["password"], "[redacted]", "{yaml}");
        for text in [format!("{plan:?}"), plan.to_yaml(), shown(&plan).to_string()] {
            assert!(!text.contains("hunter2") && !text.contains("${PASSWORD}"), "{text}");
        }
        assert!(plan.warnings().is_empty(), "{:?}", plan.warnings());
    }
}

#[test]
fn a_variable_that_holds_a_reference_is_not_followed() {
    for text in ["file:/does/not/exist", "env:HOME"] {
        let yaml = resolved_to("\"${PASSWORD}\"", text);
        assert_eq!(plan(&yaml, &[("PASSWORD", text), ("HOME", "/home/ada")]).names().count(), 1);
    }
    let line = only_problem(&resolved_to("env:PASSWORD", "another"), &options(&[("PASSWORD", "hunter2")]));
    assert_eq!(line, "<yaml>:2:6: storage \"a\": another password was expected");
}

#[test]
fn secret_files_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let check = || only_problem(&with_password("file:secret"), &in_folder(folder.path()));
    let at = format!(
        "<yaml>:2:31: storage \"a\": `password`: the secret file `{}/secret` ",
        folder.path().display()
    );
    assert!(check().starts_with(&format!("{at}cannot be read")), "{}", check());
    for mode in [0o640, 0o604, 0o620, 0o601, 0o644] {
        secret_file(folder.path(), b"hunter2", mode);
        assert!(check().starts_with(&format!("{at}can be used by others")), "{mode:o}: {}", check());
    }
    for (content, wanted) in [
        (vec![b'x'; 64 * 1024 + 1], "is larger than 65536 bytes"),
        (Vec::new(), "is empty"),
        (b"\n".to_vec(), "is empty"),
        (vec![0xff, 0xfe], "cannot be read"),
    ] {
        secret_file(folder.path(), &content, 0o600);
        assert!(check().starts_with(&format!("{at}{wanted}")), "{}", check());
    }
    fs::remove_file(folder.path().join("secret")).unwrap();
    fs::create_dir(folder.path().join("secret")).unwrap();
    assert!(check().starts_with(&format!("{at}is not a regular file")), "{}", check());
}

#[test]
fn a_pipe_does_not_hang() {
    let folder = tempfile::tempdir().unwrap();
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("secret")).status().unwrap();
    assert!(made.success());
    let line = only_problem(&with_password("file:secret"), &in_folder(folder.path()));
    assert!(line.ends_with("is not a regular file"), "{line}");
}

#[test]
fn a_missing_variable_is_named() {
    let line = only_problem(&with_password("env:NOWHERE"), &options(&[]));
    assert_eq!(
        line,
        "<yaml>:2:31: storage \"a\": `password`: the secret's environment variable NOWHERE is not set"
    );
}

#[test]
fn a_literal_secret_is_a_warning_and_an_error_in_strict_mode() {
    for yaml in [with_password("hunter2"), with_password("\"${UNSET:-hunter2}\"")] {
        let plan = plan(&yaml, &[]);
        let warning = "<yaml>:2:31: storage \"a\": a secret stands in the configuration itself; \
                       write `env:NAME` or `file:PATH` in its place";
        assert_eq!(plan.warnings(), [warning]);
        let line = only_problem(&yaml, &options(&[]).strict_secrets(true));
        assert!(line.contains("a secret stands in the configuration itself"), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
}

#[test]
fn a_password_in_a_url_is_a_warning_and_never_shown() {
    let yaml = "storages:\n  a: { type: probe, url: \"redis://u:hunter2@host\" }\n";
    let plan = plan(yaml, &[]);
    assert_eq!(shown(&plan)["persistence"]["storages"]["a"]["url"], "redis://u:[redacted]@host");
    assert!(
        plan.warnings()[0]
            .starts_with("<yaml>:2:26: storage \"a\": a URL in the configuration holds a password")
    );
    let line = only_problem(yaml, &options(&[]).strict_secrets(true));
    assert!(!line.contains("hunter2"), "{line}");

    let from_variable = "storages:\n  a: { type: probe, url: \"${URL}\" }\n";
    let options = options(&[("URL", "redis://u:hunter2@host")]).strict_secrets(true);
    let plan = Plan::from_yaml(from_variable, &options).unwrap();
    assert_eq!(shown(&plan)["persistence"]["storages"]["a"]["url"], "redis://u:[redacted]@host");
}

#[test]
fn errors_that_quote_a_url_hide_its_password() {
    let yaml = "storages:\n  a: { type: probe, port: \"redis://u:hunter2@host\" }\n";
    let lines = problems(yaml, &options(&[]));
    assert!(lines[0].contains("redis://u:[redacted]@host"), "{lines:?}");
    let error = Plan::from_yaml(yaml, &options(&[])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}
