use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

use super::host::Host;
use super::layout::CONFIGURATION;

/// Servers as processes of this machine.
#[derive(Debug)]
pub(super) struct Processes {
    program: PathBuf,
    folder: PathBuf,
    running: Mutex<HashMap<String, Child>>,
}

impl Processes {
    pub(super) fn new(folder: &Path) -> Option<Self> {
        // Debian's redis-tools has the server under this other name, without a service that starts by itself.
        let program = ["redis-server", "redis-check-rdb"].into_iter().find_map(find)?;
        Some(Self { program, folder: folder.to_owned(), running: Mutex::default() })
    }

    fn signal(&self, name: &str, signal: Signal) {
        let running = self.running.lock();
        let child = running.get(name).unwrap_or_else(|| panic!("{name} does not run"));
        let pid = Pid::from_child(child);
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

impl Host for Processes {
    fn up(&self, names: &[&str]) {
        names.iter().for_each(|name| self.start(name));
    }

    fn kill(&self, name: &str) {
        self.signal(name, Signal::KILL);
        if let Some(mut child) = self.running.lock().remove(name) {
            let _ = child.wait();
        }
    }

    fn start(&self, name: &str) {
        let folder = self.folder.join(name);
        let log = File::create(folder.join("log")).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut command = Command::new(&self.program);
        command.arg0("redis-server").arg(CONFIGURATION).current_dir(&folder).stdin(Stdio::null());
        if name.starts_with("sentinel") {
            command.arg("--sentinel");
        }
        let child = command.stdout(log).stderr(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name}: {error}"));
        let pids = OpenOptions::new().create(true).append(true).open(self.folder.join("pids"));
        pids.and_then(|mut pids| writeln!(pids, "{}", child.id()))
            .unwrap_or_else(|error| panic!("pids: {error}"));
        self.running.lock().insert(name.to_owned(), child);
    }

    fn pause(&self, name: &str) {
        self.signal(name, Signal::STOP);
    }

    fn resume(&self, name: &str) {
        self.signal(name, Signal::CONT);
    }

    fn cleanup(&self) -> String {
        format!("kill -9 $(cat '{}/pids')", self.folder.display())
    }
}
