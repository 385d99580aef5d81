use std::sync::Arc;
use std::time::{Duration, Instant};

use super::host::Host;
use super::layout::PASSWORD;
use super::resp::{Reply, Wire};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

/// One server of a deployment.
#[derive(Clone, Debug)]
pub struct Server {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) host: Arc<dyn Host>,
}

impl Server {
    /// Its name in the compose file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port for connections without TLS.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1` and the port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&self) {
        self.host.kill(&self.name);
    }

    /// Starts it again with the files that it left, and waits until it answers.
    pub fn start(&self) {
        self.host.start(&self.name);
        self.wait();
    }

    /// Stops it in its tracks: its connections stay, and nobody answers.
    pub fn pause(&self) {
        self.host.pause(&self.name);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.host.resume(&self.name);
    }

    /// The answer to a command of the administrator.
    ///
    /// # Panics
    /// If there is none. This is for tests.
    pub fn command<A: AsRef<[u8]>>(&self, arguments: &[A]) -> Reply {
        self.ask(arguments).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// A connection of the administrator.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn wire(&self) -> std::io::Result<Wire> {
        let mut wire = Wire::connect(self.port)?;
        wire.send(&["AUTH", "default", PASSWORD])?;
        Ok(wire)
    }

    fn ask<A: AsRef<[u8]>>(&self, arguments: &[A]) -> std::io::Result<Reply> {
        self.wire()?.send(arguments)
    }

    pub(super) fn wait(&self) {
        wait_for(&format!("{} answers", self.name), || {
            self.ask(&["PING"]).is_ok_and(|reply| reply == Reply::Status("PONG".into()))
        });
    }
}

/// Waits until something is so.
///
/// # Panics
/// If it does not become so. This is for tests.
pub(super) fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
