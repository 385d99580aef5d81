//! A worker process from its start to its end.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::plan::{PLAN_VARIABLE, Plan};

/// How long a worker may take before it counts as hung.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A running worker; killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    opened: Receiver<()>,
    reader: Option<JoinHandle<String>>,
    stderr: PathBuf,
}

/// What a worker left behind when it ended.
#[derive(Debug)]
pub(super) struct Ending {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// All that it told.
    pub(super) lines: String,
    /// It had to be killed because it did nothing for too long.
    pub(super) hung: bool,
    /// The last of its standard error.
    pub(super) stderr: String,
}

impl Process {
    /// Starts this very program as a worker, `strace` with its arguments in front of it if given.
    pub(super) fn start(plan: &Plan, tracer: &[String]) -> Result<Self, String> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| format!("no socket pair: {error}"))?;
        let stderr = plan.root.parent().unwrap_or(&plan.root).with_extension("stderr");
        let mut child = command(plan, tracer, theirs, &stderr)?
            .spawn()
            .map_err(|error| format!("cannot start the worker: {error}"))?;
        if !plan.hold {
            drop(child.stdin.take());
        }
        let (sender, opened) = channel();
        let reader = std::thread::spawn(move || read_lines(ours, sender));
        Ok(Self { child, opened, reader: Some(reader), stderr })
    }

    /// The number of the process: of the worker, or of the tracer in front of it.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the storage is open; false if the worker ended (or hung) before.
    pub(super) fn wait_opened(&mut self) -> bool {
        self.opened.recv_timeout(PATIENCE).is_ok()
    }

    /// Lets a worker that holds go on.
    pub(super) fn go(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Kills it and takes what it left.
    pub(super) fn kill(mut self) -> Result<Ending, String> {
        self.end(false)
    }

    /// Waits for its end, killing it if nothing happens for too long.
    pub(super) fn wait(mut self) -> Result<Ending, String> {
        let hung = loop {
            match self.opened.recv_timeout(PATIENCE) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => break false,
                Err(RecvTimeoutError::Timeout) => break true,
            }
        };
        if hung { self.end(true) } else { self.reap(false) }
    }

    fn end(&mut self, hung: bool) -> Result<Ending, String> {
        self.child.kill().map_err(|error| format!("cannot kill the worker: {error}"))?;
        self.reap(hung)
    }

    fn reap(&mut self, hung: bool) -> Result<Ending, String> {
        let status = self.child.wait().map_err(|error| format!("cannot wait for the worker: {error}"))?;
        let reader = self.reader.take().ok_or("the worker was reaped twice")?;
        let lines = reader.join().map_err(|_| "the reader of the worker's lines panicked")?;
        Ok(Ending { status, lines, hung, stderr: tail(&self.stderr) })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.reader.is_some() {
            let _ = self.end(false);
        }
    }
}

impl Ending {
    /// What the worker should not have done: it hung, panicked or ended with an error.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.hung {
            complaints.push(format!("the worker did nothing for {} s", PATIENCE.as_secs()));
        } else if !self.status.success() {
            complaints.push(format!("the worker ended with {}: {}", self.status, self.stderr.trim_end()));
        }
        complaints
    }
}

fn command(plan: &Plan, tracer: &[String], output: UnixStream, stderr: &Path) -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|error| format!("who am I: {error}"))?;
    let mut command = match tracer.split_first() {
        Some((strace, arguments)) => {
            let mut command = Command::new(strace);
            command.args(arguments).arg("--").arg(program);
            command
        }
        None => Command::new(program),
    };
    let plan = serde_json::to_string(plan).map_err(|error| format!("the plan is no JSON: {error}"))?;
    let stderr = std::fs::File::create(stderr).map_err(|error| format!("no file for errors: {error}"))?;
    command.env(PLAN_VARIABLE, plan).env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::piped()).stdout(Stdio::from(OwnedFd::from(output))).stderr(stderr);
    Ok(command)
}

fn read_lines(mut stream: UnixStream, opened: Sender<()>) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 65_536];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
        let _ = opened.send(());
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn tail(path: &Path) -> String {
    let text =
        std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let start = text.char_indices().rev().nth(600).map_or(0, |(at, _)| at);
    text[start..].to_owned()
}
