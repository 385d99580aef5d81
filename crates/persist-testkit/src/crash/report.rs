//! What a crash tool did and found, and how a test takes it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

/// How many violations are kept in words; all are counted.
const KEPT: usize = 20;

/// The result of one tool on one subject.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Which tool, on which subject.
    pub title: String,
    /// How many crashes, states or faults were tried.
    pub tried: usize,
    /// How many of them broke a promise.
    pub bad: usize,
    /// How many acknowledged changes were looked for, summed over all of them.
    pub acknowledged: usize,
    /// What was broken, in words, with what it takes to see it again; at most the first twenty.
    pub violations: Vec<String>,
    /// Figures of the tool itself.
    pub figures: BTreeMap<&'static str, usize>,
}

impl Report {
    pub(super) fn new(tool: &str, subject: &str) -> Self {
        Self { title: format!("{tool} of {subject}"), ..Self::default() }
    }

    /// Counts one crash, state or fault with what was wrong after it.
    pub(super) fn count(&mut self, context: &str, acknowledged: usize, complaints: Vec<String>) {
        self.tried += 1;
        self.acknowledged += acknowledged;
        self.bad += usize::from(!complaints.is_empty());
        let room = KEPT.saturating_sub(self.violations.len());
        self.violations.extend(complaints.iter().take(room).map(|text| format!("{context}: {text}")));
    }

    pub(super) fn add(&mut self, figure: &'static str, by: usize) {
        *self.figures.entry(figure).or_default() += by;
    }

    /// True if something was tried and nothing was broken.
    pub fn passed(&self) -> bool {
        self.tried > 0 && self.bad == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} tried, {} bad, {} acknowledged",
            self.title, self.tried, self.bad, self.acknowledged
        )?;
        self.figures.iter().try_for_each(|(name, value)| write!(f, ", {value} {name}"))?;
        self.violations.iter().try_for_each(|text| write!(f, "\n  {text}"))
    }
}

/// Why a tool gave no report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// This machine lacks something (strace, mounts, rights); another may have it.
    Unavailable(String),
    /// The tool itself failed: it could not start the worker, or met a system call that it does not model.
    Tool(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(text) => write!(f, "not available here: {text}"),
            Self::Tool(text) => write!(f, "the tool failed: {text}"),
        }
    }
}

impl std::error::Error for Trouble {}

impl From<String> for Trouble {
    fn from(text: String) -> Self {
        Self::Tool(text)
    }
}

/// Takes the result of a tool as that of a test: prints the figures, fails on any violation.
///
/// What is not available prints `SKIPPED: reason`, and fails where the environment says `CI=true`.
///
/// # Errors
/// The report or the trouble, in words.
pub fn judge(result: Result<Report, Trouble>) -> Result<(), String> {
    match result {
        Ok(report) if report.passed() => {
            say(&report.to_string());
            Ok(())
        }
        Ok(report) => Err(report.to_string()),
        Err(Trouble::Unavailable(reason)) => skip(&reason),
        Err(trouble) => Err(trouble.to_string()),
    }
}

/// Skips a test loudly: prints `SKIPPED: reason`, and fails where the environment says `CI=true`.
///
/// # Errors
/// In CI, the reason.
pub fn skip(reason: &str) -> Result<(), String> {
    if std::env::var_os("CI").is_some_and(|value| value == "true") {
        return Err(format!("would be skipped, which CI does not allow: {reason}"));
    }
    say(&format!("SKIPPED: {reason}"));
    Ok(())
}

/// One line on standard error; a lost line is no reason to fail.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
