use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Storages that need no strict disk, so that tests with many values are quick.
pub(crate) const RELAXED: &str = "\
persistence:
  default_storage: main
  storages:
    main: { type: file, path: data/main, durability: relaxed }
    other: { type: file, path: data/other, durability: relaxed }
    hot: { type: cache }
  routes:
    - { prefix: \"weights/\", storage: other }
";

/// A temporary folder in which the binary is run, without any of the variables that it reads.
pub(crate) struct Desk {
    folder: TempDir,
}

/// What a run gave.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Desk {
    /// With the built-in configuration.
    pub(crate) fn bare() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// With [`RELAXED`] as `persist.yaml`.
    pub(crate) fn new() -> Self {
        let desk = Self::bare();
        desk.file("persist.yaml", RELAXED);
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, with its folders.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        fs::symlink_metadata(self.path(name)).is_ok()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_persist"));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PERSIST"))
        {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        Run::from(self.command().args(args).output().unwrap())
    }

    /// Runs words separated by spaces.
    pub(crate) fn say(&self, line: &str) -> Run {
        self.run(line.split_whitespace())
    }

    /// Runs words separated by spaces, and expects that all goes well.
    pub(crate) fn ok(&self, line: &str) -> Run {
        let run = self.say(line);
        assert_eq!(run.code, 0, "persist {line}: {}", run.err);
        run
    }

    pub(crate) fn feed(&self, line: &str, input: &[u8]) -> Run {
        let mut command = self.command();
        let mut child = command
            .args(line.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        Run::from(child.wait_with_output().unwrap())
    }

    /// The one regular file of a storage whose content is exactly this.
    pub(crate) fn stored_file(&self, below: &str, content: &[u8]) -> PathBuf {
        let mut found: Vec<PathBuf> = files(&self.path(below));
        found.retain(|path| fs::read(path).unwrap() == content);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }
}

/// All regular files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match fs::symlink_metadata(&path).unwrap() {
            kind if kind.is_dir() => found.extend(files(&path)),
            kind if kind.is_file() => found.push(path),
            _ => {}
        }
    }
    found.sort();
    found
}

impl Run {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    pub(crate) fn lines(&self) -> Vec<&str> {
        self.text().lines().collect()
    }

    /// Each line as JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.lines().into_iter().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The only line as JSON.
    pub(crate) fn object(&self) -> Value {
        let mut all = self.json();
        assert_eq!(all.len(), 1, "{}", self.text());
        all.remove(0)
    }

    /// Expects a failure with this code, and that its message says this; that nothing stands on standard output.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, says: &str) {
        assert_eq!(self.code, code, "{}", self.err);
        assert!(self.err.contains(says), "{says:?} is not in {}", self.err);
        assert_eq!(self.out, b"", "a failure must not write to standard output");
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: output.stdout,
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
