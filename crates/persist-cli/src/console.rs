use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::exit::Failure;
use crate::text;

/// Where a log filter can be given in the form of `tracing-subscriber`, for instance `persist_file=debug`.
const LOG_VARIABLE: &str = "PERSIST_LOG";

/// Standard error: notes, warnings, errors, logs and, on a terminal, a progress bar that all of them leave whole.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    quiet: bool,
    json: bool,
    bars: MultiProgress,
}

impl Console {
    /// Standard error; `quiet` leaves errors and warnings, `json` makes errors objects.
    pub(crate) fn new(quiet: bool, json: bool) -> Self {
        let drawn = !quiet && io::stderr().is_terminal();
        let target = if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { quiet, json, bars: MultiProgress::with_draw_target(target) }
    }

    /// Something a person may like to know. Not with `--quiet`, and not when programs are reading.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            self.say(text);
        }
    }

    /// Something that a person should know.
    pub(crate) fn warn(&self, text: &str) {
        if self.json {
            self.say(&json!({ "warning": text }).to_string());
        } else {
            self.say(&format!("warning: {text}"));
        }
    }

    /// What went wrong.
    pub(crate) fn fail(&self, failure: &Failure) {
        let Failure::Told(told) = failure else { return };
        if self.json {
            self.say(&json!({ "error": told }).to_string());
        } else {
            self.say(&format!("error: {}", told.message));
        }
    }

    /// A count that is shown on a terminal while something goes on.
    pub(crate) fn progress(&self, doing: &'static str) -> Progress {
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_style(ProgressStyle::default_spinner());
        bar.set_message(doing);
        if !self.bars.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Progress { bar, doing, bytes: Arc::default() }
    }

    /// Sends the log to standard error: warnings, more with each `-v`, errors alone with `--quiet`.
    pub(crate) fn start_log(&self, verbose: u8) {
        let level = match (self.quiet, verbose) {
            (true, _) => "error",
            (_, 0) => "warn",
            (_, 1) => "info",
            (_, 2) => "debug",
            _ => "trace",
        };
        let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(level));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(self.clone());
        // Fails only if a log was started before, which then goes on.
        let _ = log.with_ansi(false).try_init();
    }

    fn say(&self, text: &str) {
        // If standard error is closed there is nobody left to tell.
        let _ = self.bars.suspend(|| writeln!(io::stderr().lock(), "{text}"));
    }
}

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bars.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Console {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// How far something has come; vanishes when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    doing: &'static str,
    bytes: Arc<AtomicU64>,
}

impl Progress {
    /// One more value of so many bytes is done.
    pub(crate) fn step(&self, bytes: u64) {
        self.bar.inc(1);
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if !self.bar.is_hidden() {
            let done = text::things(self.bar.position(), "value");
            self.bar.set_message(format!("{}: {done}, {}", self.doing, text::size(bytes)));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
