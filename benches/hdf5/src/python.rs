//! h5py and zarr-python, each in a Python of its own that prints what took how long.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::work::{
    APPENDED_TO, APPENDS, CHUNK, Contender, LARGE, Outcome, ROW, SLICE_ROWS, SLICES, SMALL, SMALL_LEN, Times,
    Work,
};

const SCRIPT: &str = include_str!("peers.py");

/// A library of Python.
pub struct Python {
    python: PathBuf,
    library: &'static str,
}

impl Python {
    /// By the name of its module.
    pub fn new(python: &Path, library: &'static str) -> Self {
        Self { python: python.to_owned(), library }
    }
}

impl Contender for Python {
    fn name(&self) -> &'static str {
        self.library
    }

    fn run(&self, work: Work, folder: &Path) -> Outcome<Option<Times>> {
        let sizes = [LARGE, ROW, CHUNK, SMALL, SMALL_LEN, SLICES, SLICE_ROWS, APPENDS, APPENDED_TO]
            .map(|size| size.to_string());
        let mut command = Command::new(&self.python);
        command.arg("-c").arg(SCRIPT).args([self.library, work.name()]).arg(folder).args(sizes);
        let output = command.output()?;
        if !output.status.success() {
            let what = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} by {}: {what}", work.name(), self.library).into());
        }
        let text = String::from_utf8(output.stdout)?;
        let mut times = Times::new();
        for line in text.lines() {
            let Some((name, seconds)) = line.split_once(' ') else {
                return Err(format!("what is {line:?}?").into());
            };
            times.push((name.to_owned(), Duration::from_secs_f64(seconds.parse()?)));
        }
        Ok((!times.is_empty()).then_some(times))
    }
}
