use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::exit::{Failure, Result};

/// Standard output, for data alone: lines for people, or JSON lines for programs.
///
/// Written through one buffer, so that a listing of millions costs few system calls; call [`flush`](Self::flush)
/// where a reader may be waiting.
pub(crate) struct Output {
    json: bool,
    terminal: bool,
    sink: Mutex<BufWriter<Stdout>>,
}

impl Output {
    /// Standard output in one of the two forms.
    pub(crate) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        Self {
            json,
            terminal: stdout.is_terminal(),
            sink: Mutex::new(BufWriter::with_capacity(1 << 16, stdout)),
        }
    }

    /// True if programs are reading.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// True if a person is looking.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// One line of text.
    pub(crate) fn line(&self, text: &str) -> Result<()> {
        let mut sink = self.sink();
        check(sink.write_all(text.as_bytes()).and_then(|()| sink.write_all(b"\n")))?;
        // A person sees each line when it comes, in its place among notes and errors.
        if self.terminal { check(sink.flush()) } else { Ok(()) }
    }

    /// One line of JSON.
    pub(crate) fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<()> {
        let text = serde_json::to_string(value)
            .map_err(|error| Failure::new(format!("the answer cannot be written as JSON: {error}")))?;
        self.line(&text)
    }

    /// Text or JSON, whichever was asked for.
    pub(crate) fn either<T: Serialize + ?Sized>(
        &self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<()> {
        if self.json { self.json(value) } else { self.line(&text()) }
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        check(self.sink().write_all(bytes))
    }

    /// Hands on what is buffered.
    pub(crate) fn flush(&self) -> Result<()> {
        check(self.sink().flush())
    }

    fn sink(&self) -> MutexGuard<'_, BufWriter<Stdout>> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(result: io::Result<()>) -> Result<()> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
        _ => Failure::io("write to", Path::new("standard output"), &error),
    })
}
