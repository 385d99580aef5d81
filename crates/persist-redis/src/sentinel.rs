use std::sync::Arc;

use parking_lot::Mutex;
use persist_core::ErrorKind;
use tokio::time::{Instant, timeout_at};

use crate::Address;
use crate::answer;
use crate::config::SentinelConfig;
use crate::dialer::{Dialer, Role};
use crate::fault::Fault;
use crate::link::Link;

/// The sentinels that know where the primary is, and the way to the one they named last.
#[derive(Debug)]
pub(crate) struct Sentinels {
    nodes: Vec<Address>,
    master: String,
    /// Logs in to sentinels.
    scouts: Dialer,
    dialer: Arc<Dialer>,
    primary: Mutex<Option<Arc<Link>>>,
    /// Held by whoever asks; the others wait for the answer.
    asking: tokio::sync::Mutex<()>,
    /// Why the last question failed: it tells more than that the time was over.
    trouble: Mutex<Option<Fault>>,
}

impl Sentinels {
    pub(crate) fn new(config: &SentinelConfig, dialer: Arc<Dialer>) -> Self {
        Self {
            nodes: config.nodes.clone(),
            master: config.master.clone(),
            scouts: dialer.for_sentinels(config.username.as_deref(), config.password.as_ref()),
            dialer,
            primary: Mutex::new(None),
            asking: tokio::sync::Mutex::new(()),
            trouble: Mutex::default(),
        }
    }

    /// The way to the primary that was named last.
    pub(crate) fn ready(&self) -> Option<Arc<Link>> {
        self.primary.lock().clone()
    }

    pub(crate) async fn link(&self, deadline: Instant) -> Result<Arc<Link>, Fault> {
        if let Some(link) = self.ready() {
            return Ok(link);
        }
        let _asking = self.asking.lock().await;
        if let Some(link) = self.ready() {
            return Ok(link);
        }
        let asked = timeout_at(deadline, self.ask()).await;
        let silent = || self.trouble.lock().clone().unwrap_or_else(|| self.silent());
        let found = asked.unwrap_or_else(|_| Err(silent()));
        *self.trouble.lock() = found.as_ref().err().cloned();
        let address = found?;
        let link = Arc::new(Link::new(address, Role::Primary, Arc::clone(&self.dialer)));
        *self.primary.lock() = Some(Arc::clone(&link));
        Ok(link)
    }

    /// Forgets the primary, if it is still this one.
    pub(crate) fn doubt(&self, link: &Arc<Link>) {
        let mut primary = self.primary.lock();
        if primary.as_ref().is_some_and(|known| Arc::ptr_eq(known, link)) {
            *primary = None;
        }
    }

    /// Gives up the connection to the primary.
    pub(crate) fn close(&self) {
        if let Some(link) = &*self.primary.lock() {
            link.hang_up();
        }
    }

    /// Asks one sentinel after the other.
    async fn ask(&self) -> Result<Address, Fault> {
        let mut last = self.silent();
        for node in &self.nodes {
            match self.ask_one(node).await {
                Ok(address) => return Ok(address),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    async fn ask_one(&self, node: &Address) -> Result<Address, Fault> {
        let mut connection = self.scouts.connect(node).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        let found = connection.send_packed_command(&question).await;
        let found = found.map_err(|error| Fault::unreached(&node.to_string(), &error))?;
        let redis::Value::Array(pair) = found else { return Err(self.unknown(node)) };
        let mut pair = pair.into_iter();
        let (Some(host), Some(port)) = (pair.next(), pair.next()) else { return Err(self.unknown(node)) };
        let port = u16::try_from(answer::integer(port)?).map_err(|_| Fault::garbled("a port"))?;
        Ok(Address::new(answer::text(host)?, port))
    }

    fn unknown(&self, node: &Address) -> Fault {
        let master = persist_core::escape(&self.master);
        let message = format!("the sentinel {node} knows no primary called {master}; check sentinel.master");
        Fault::new(ErrorKind::Unavailable, message)
    }

    fn silent(&self) -> Fault {
        let message = "no sentinel answered in time; check that they run and can be reached";
        Fault::new(ErrorKind::Timeout, message)
    }
}
