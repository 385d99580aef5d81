//! Where a worker tells what it does.

use rustix::fd::AsFd;
use rustix::net::SendFlags;

use super::protocol::Line;

/// Writes the lines of the protocol, each with one system call and no buffer in between.
///
/// The tools give a worker a socket as its standard output, and lines are sent with `sendto`, not `write`: so faults
/// that hit the N-th `write` count the writes to files alone. Where it is not a socket (a person runs a worker by
/// hand), `write` is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Acks(());

impl Acks {
    /// The worker's standard output.
    pub fn new() -> Self {
        Self(())
    }

    /// Tells one line. A reader that is gone ends the process: nobody is left to work for.
    pub fn tell(self, line: &Line) {
        let text = format!("{line}\n");
        let output = std::io::stdout();
        let sent = match rustix::net::send(output.as_fd(), text.as_bytes(), SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::NOTSOCK) => rustix::io::write(output.as_fd(), text.as_bytes()),
            sent => sent,
        };
        if sent != Ok(text.len()) {
            std::process::exit(3);
        }
    }
}
