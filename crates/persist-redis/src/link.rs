use std::sync::Arc;
use std::time::Duration;

use futures_util::TryFutureExt;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::Address;
use crate::dialer::{Dialed, Dialer, Role};
use crate::fault::{Fate, Fault};
use crate::turns::Turns;

/// The pause after the first failure to connect; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// The way to one server: at most one connection, shared by all tasks, made anew when it breaks.
#[derive(Debug)]
pub(crate) struct Link {
    address: Address,
    role: Role,
    dialer: Arc<Dialer>,
    live: Mutex<Option<Live>>,
    /// Who sends changes over it.
    pub(crate) turns: Turns,
    /// Held by whoever connects; the others wait for the result.
    dialing: tokio::sync::Mutex<Pause>,
    /// Why the last attempt to connect failed.
    trouble: Mutex<Option<Fault>>,
}

/// A connection that worked when it was last seen.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    connection: MultiplexedConnection,
    /// Its number; see [`Dialer`].
    pub(crate) era: u64,
    place: Arc<str>,
    dialer: Arc<Dialer>,
    /// The clock of the server in milliseconds, and when it was read.
    clock: (i64, Instant),
    /// Why changes cannot be made over it.
    denied: Option<Fault>,
}

impl Link {
    pub(crate) fn new(address: Address, role: Role, dialer: Arc<Dialer>) -> Self {
        let dialing = tokio::sync::Mutex::new(Pause::default());
        Self {
            address,
            role,
            dialer,
            live: Mutex::new(None),
            turns: Turns::default(),
            dialing,
            trouble: Mutex::new(None),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// The connection there is.
    pub(crate) fn ready(&self) -> Option<Live> {
        self.live.lock().clone()
    }

    /// A connection: the one there is, or a new one.
    ///
    /// # Errors
    /// That none could be made; nothing was sent.
    pub(crate) async fn live(&self, deadline: Instant) -> Result<Live, Fault> {
        if let Some(live) = self.ready() {
            return Ok(live);
        }
        timeout_at(deadline, self.dial()).await.unwrap_or_else(|_| {
            let message =
                format!("cannot connect to {}: no answer in time; check that the server runs", self.address);
            let silent = Fault::new(persist_core::ErrorKind::Timeout, message);
            Err(self.trouble.lock().clone().unwrap_or(silent))
        })
    }

    async fn dial(&self) -> Result<Live, Fault> {
        let mut pause = self.dialing.lock().await;
        if let Some(live) = &*self.live.lock() {
            return Ok(live.clone());
        }
        pause.wait().await;
        // Counts as failed until it has succeeded, also if the caller goes away on the way.
        pause.lengthen();
        let Dialed { connection, era, clock, denied } =
            self.dialer.dial(&self.address, self.role).await.inspect_err(|fault| {
                *self.trouble.lock() = Some(fault.clone());
            })?;
        *pause = Pause::default();
        *self.trouble.lock() = None;
        let place = self.address.to_string().into();
        let live = Live { connection, era, place, dialer: Arc::clone(&self.dialer), clock, denied };
        *self.live.lock() = Some(live.clone());
        tracing::debug!(server = %self.address, era, "connected to Redis");
        Ok(live)
    }

    /// Gives a connection up, unless there is a newer one already.
    pub(crate) fn give_up(&self, era: u64) {
        let mut live = self.live.lock();
        if live.as_ref().is_some_and(|live| live.era == era) {
            *live = None;
        }
    }

    /// Gives the connection up, whichever it is.
    pub(crate) fn hang_up(&self) {
        *self.live.lock() = None;
    }
}

impl Live {
    /// The server, for messages.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Why changes cannot be made over it, if they cannot: a right is missing.
    pub(crate) fn denied(&self) -> Option<&Fault> {
        self.denied.as_ref()
    }

    /// What the server's clock will show at a moment to come, in milliseconds.
    pub(crate) fn server_time(&self, at: Instant) -> i64 {
        let (millis, read) = self.clock;
        millis.saturating_add(i64::try_from(at.duration_since(read).as_millis()).unwrap_or(i64::MAX))
    }

    /// One command that moves so many bytes.
    ///
    /// # Errors
    /// That the answer was lost. Errors that the server answers are values.
    pub(crate) async fn send(&mut self, cmd: &Cmd, bytes: usize) -> Result<Value, Fault> {
        self.connection.set_response_timeout(self.dialer.patience(bytes));
        let answer = self.connection.send_packed_command(cmd);
        answer.map_err(|error| Fault::lost(&self.place, &error)).await
    }

    /// Several commands in one go, answered in their order.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(crate) async fn send_all(&mut self, pipeline: &Pipeline, bytes: usize) -> Result<Vec<Value>, Fault> {
        self.connection.set_response_timeout(self.dialer.patience(bytes));
        let answers = self.connection.send_packed_commands(pipeline, 0, pipeline.len());
        let answers = answers.map_err(|error| Fault::lost(&self.place, &error)).await?;
        if answers.len() == pipeline.len() {
            return Ok(answers);
        }
        Err(Fault { fate: Fate::Lost, ..Fault::garbled("another number of answers than commands") })
    }
}

/// The pause before the next attempt: exponential with jitter, so that many clients do not come back at once.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    failures: u32,
    until: Option<Instant>,
}

impl Pause {
    /// Waits for the end of the pause.
    pub(crate) async fn wait(&self) {
        if let Some(until) = self.until {
            sleep_until(until).await;
        }
    }

    /// One more failure: between half and all of the doubled pause from now on.
    pub(crate) fn lengthen(&mut self) {
        let longest = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LAST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(Instant::now() + longest / 2 + jitter(longest / 2));
    }
}

/// Some part of a duration. The clock's last digits are as good as random here.
fn jitter(longest: Duration) -> Duration {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    longest * (now.subsec_nanos() / 7 % 1024) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut pause = Pause::default();
        for _ in 0..100 {
            pause.lengthen();
        }
        let left = pause.until.unwrap() - Instant::now();
        assert!(left <= LAST_PAUSE && left >= LAST_PAUSE / 3, "{left:?}");
    }
}
