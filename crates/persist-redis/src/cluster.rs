use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use persist_core::ErrorKind;
use redis::Value;
use tokio::time::{Instant, timeout_at};

use crate::Address;
use crate::answer;
use crate::config::ClusterConfig;
use crate::dialer::{Dialer, Role};
use crate::fault::Fault;
use crate::keyspace::{Keyspace, Tag};
use crate::link::Link;

/// Which node of a cluster has which slots, as far as is known, and the ways to them.
///
/// The client of the crate `redis` repeats commands by itself, also such whose first outcome is unknown; this one never
/// does, so that what was lost can be read back.
#[derive(Debug)]
pub(crate) struct Cluster {
    seeds: Vec<Address>,
    dialer: Arc<Dialer>,
    map: Mutex<Map>,
    /// Something did not fit: ask again before the next use.
    doubted: AtomicBool,
    asking: tokio::sync::Mutex<()>,
    /// Why the last question failed: it tells more than that the time was over.
    trouble: Mutex<Option<Fault>>,
}

#[derive(Debug, Default)]
struct Map {
    /// By the first slot of each range: its last slot and the node.
    ranges: Vec<(u16, u16, Address)>,
    /// What single slots were said to be since the ranges were read.
    moved: HashMap<u16, Address>,
    links: HashMap<Address, Arc<Link>>,
}

impl Map {
    fn owner(&self, slot: u16) -> Option<&Address> {
        let range = || self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
        self.moved.get(&slot).or_else(|| range().map(|(.., address)| address))
    }

    fn link(&mut self, address: &Address, dialer: &Arc<Dialer>) -> Arc<Link> {
        let make = || Arc::new(Link::new(address.clone(), Role::Server, Arc::clone(dialer)));
        Arc::clone(self.links.entry(address.clone()).or_insert_with(make))
    }
}

impl Cluster {
    pub(crate) fn new(config: &ClusterConfig, dialer: Arc<Dialer>) -> Self {
        Self {
            seeds: config.nodes.clone(),
            dialer,
            map: Mutex::default(),
            doubted: AtomicBool::new(true),
            asking: tokio::sync::Mutex::new(()),
            trouble: Mutex::default(),
        }
    }

    /// The way to the node that has a tag, as far as is known.
    pub(crate) fn ready(&self, tag: Tag) -> Option<Arc<Link>> {
        if self.doubted.load(Ordering::Acquire) {
            return None;
        }
        let mut map = self.map.lock();
        let address = map.owner(Keyspace::slot(tag))?.clone();
        Some(map.link(&address, &self.dialer))
    }

    pub(crate) async fn link(&self, tag: Tag, deadline: Instant) -> Result<Arc<Link>, Fault> {
        if self.doubted.load(Ordering::Acquire) {
            self.refresh(deadline).await?;
        }
        let slot = Keyspace::slot(tag);
        let mut map = self.map.lock();
        let Some(address) = map.owner(slot).cloned() else {
            self.doubt();
            return Err(Fault::new(
                ErrorKind::Unavailable,
                format!("no node of the cluster has slot {slot}; check `redis-cli --cluster check`"),
            ));
        };
        Ok(map.link(&address, &self.dialer))
    }

    /// Gives up the connections to all nodes.
    pub(crate) fn close(&self) {
        self.map.lock().links.values().for_each(|link| link.hang_up());
    }

    /// The map may be wrong.
    pub(crate) fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
    }

    /// A node said where a tag lies. It knows; the rest of the map is asked for.
    pub(crate) fn moved(&self, tag: Tag, from: &Arc<Link>, text: &str) {
        if let Some(address) = place(text, from.address()) {
            self.map.lock().moved.insert(Keyspace::slot(tag), address);
        } else {
            self.doubt();
        }
    }

    async fn refresh(&self, deadline: Instant) -> Result<(), Fault> {
        let _asking = self.asking.lock().await;
        if !self.doubted.load(Ordering::Acquire) {
            return Ok(());
        }
        // Doubts that come up while it is asked are about the old answer too, but asking once more does no harm.
        self.doubted.store(false, Ordering::Release);
        let asked = timeout_at(deadline, self.ask()).await;
        let found = asked.unwrap_or_else(|_| Err(self.trouble.lock().clone().unwrap_or_else(silent)));
        *self.trouble.lock() = found.as_ref().err().cloned();
        match found {
            Ok(ranges) => {
                let mut map = self.map.lock();
                map.ranges = ranges;
                map.moved.clear();
                Ok(())
            }
            Err(fault) => {
                self.doubt();
                Err(fault)
            }
        }
    }

    /// Asks one node after the other: those that are known, then those of the configuration.
    async fn ask(&self) -> Result<Vec<(u16, u16, Address)>, Fault> {
        let mut nodes: Vec<Address> =
            self.map.lock().ranges.iter().map(|(.., address)| address.clone()).collect();
        nodes.extend(self.seeds.iter().cloned());
        nodes.sort_unstable();
        nodes.dedup();
        let mut last = silent();
        // Whoever answers first will do: nodes that are down must not hold up the others.
        let mut asking: Vec<_> = nodes.iter().map(|node| Box::pin(self.ask_one(node))).collect();
        while !asking.is_empty() {
            let (answer, _, others) = futures_util::future::select_all(asking).await;
            match answer {
                Ok(ranges) => return Ok(ranges),
                Err(fault) => last = fault,
            }
            asking = others;
        }
        Err(last)
    }

    async fn ask_one(&self, node: &Address) -> Result<Vec<(u16, u16, Address)>, Fault> {
        let mut connection = self.dialer.connect(node).await?;
        let mut question = redis::cmd("CLUSTER");
        question.arg("SLOTS");
        let found = connection.send_packed_command(&question).await;
        let found = found.map_err(|error| Fault::unreached(&node.to_string(), &error))?;
        if let Value::ServerError(error) = &found {
            let said = error.to_string().escape_debug().to_string();
            let message = format!("{node} is no node of a cluster: {said}; configure url instead of cluster");
            return Err(Fault::new(ErrorKind::Unavailable, message));
        }
        let ranges: Vec<_> = answer::array(found)?
            .into_iter()
            .map(|range| read_range(range, node))
            .collect::<Result<_, _>>()?;
        if ranges.is_empty() {
            let message = format!("{node} knows no slots; let it join the cluster");
            return Err(Fault::new(ErrorKind::Unavailable, message));
        }
        Ok(ranges)
    }
}

/// `[first, last, [host, port, …], replicas…]`
fn read_range(range: Value, asked: &Address) -> Result<(u16, u16, Address), Fault> {
    let slot = |value: Value| u16::try_from(answer::integer(value)?).map_err(|_| Fault::garbled("a slot"));
    let mut parts = answer::array(range)?.into_iter();
    let (Some(first), Some(last), Some(node)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Fault::garbled("a range of slots"));
    };
    let mut node = answer::array(node)?.into_iter();
    let (Some(host), Some(port)) = (node.next(), node.next()) else { return Err(Fault::garbled("a node")) };
    let host = answer::text(host)?;
    // A node that does not know its own name leaves it out: it is the one that was asked.
    let host = if host.is_empty() || host == "?" { asked.host.clone() } else { host };
    Ok((slot(first)?, slot(last)?, Address::new(host, slot(port)?)))
}

/// `host:port` as a node writes it: without brackets, and without a host if it is the same as its own.
fn place(text: &str, asked: &Address) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let host = if host.is_empty() { &asked.host } else { host };
    Some(Address::new(host, port.parse().ok()?))
}

fn silent() -> Fault {
    let message = "no node of the cluster answered in time; check that they run and can be reached";
    Fault::new(ErrorKind::Timeout, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let asked = Address::new("a", 1);
        assert_eq!(place("10.0.0.1:7", &asked), Some(Address::new("10.0.0.1", 7)));
        assert_eq!(place(":7", &asked), Some(Address::new("a", 7)));
        assert_eq!(place("::1:7", &asked), Some(Address::new("::1", 7)));
        assert_eq!(place("7", &asked), None);
    }
}
