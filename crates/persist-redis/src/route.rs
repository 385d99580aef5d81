use std::sync::Arc;

use persist_core::{ErrorKind, OpenContext};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::config::RedisConfig;
use crate::dialer::{Dialer, Role};
use crate::fault::Fault;
use crate::keyspace::Tag;
use crate::link::Link;
use crate::sentinel::Sentinels;

/// Finds the server that has a tag.
#[derive(Debug)]
pub(crate) enum Route {
    /// One server that is always the same.
    Server(Arc<Link>),
    /// The primary that sentinels name.
    Sentinel(Sentinels),
    /// The nodes of a cluster.
    Cluster(Cluster),
}

impl Route {
    /// # Errors
    /// `InvalidConfig`.
    pub(crate) fn new(config: &RedisConfig, context: &OpenContext) -> Result<(Self, Arc<Dialer>), Fault> {
        let dialer = Arc::new(Dialer::new(config, context)?);
        let route = match (&config.cluster, &config.sentinel) {
            (Some(cluster), _) => Self::Cluster(Cluster::new(cluster, Arc::clone(&dialer))),
            (_, Some(sentinel)) => Self::Sentinel(Sentinels::new(sentinel, Arc::clone(&dialer))),
            _ => {
                let invalid = |message| Fault::new(ErrorKind::InvalidConfig, message);
                let (address, ..) = config.server().map_err(invalid)?;
                Self::Server(Arc::new(Link::new(address, Role::Server, Arc::clone(&dialer))))
            }
        };
        Ok((route, dialer))
    }

    /// The way to the server that has a tag, if it is known and nobody doubts it.
    pub(crate) fn ready(&self, tag: Tag) -> Option<Arc<Link>> {
        match self {
            Self::Server(link) => Some(Arc::clone(link)),
            Self::Sentinel(sentinels) => sentinels.ready(),
            Self::Cluster(cluster) => cluster.ready(tag),
        }
    }

    /// The way to the server that has a tag.
    ///
    /// # Errors
    /// That nobody can say where it is; nothing was sent.
    pub(crate) async fn link(&self, tag: Tag, deadline: Instant) -> Result<Arc<Link>, Fault> {
        match self {
            Self::Server(link) => Ok(Arc::clone(link)),
            Self::Sentinel(sentinels) => sentinels.link(deadline).await,
            Self::Cluster(cluster) => cluster.link(tag, deadline).await,
        }
    }

    /// The server at the end of a link cannot be reached or refuses its duty: where the tags are is asked anew.
    pub(crate) fn doubt(&self, link: &Arc<Link>) {
        match self {
            Self::Server(_) => {}
            Self::Sentinel(sentinels) => sentinels.doubt(link),
            Self::Cluster(cluster) => cluster.doubt(),
        }
    }

    /// Gives up all connections.
    pub(crate) fn close(&self) {
        match self {
            Self::Server(link) => link.hang_up(),
            Self::Sentinel(sentinels) => sentinels.close(),
            Self::Cluster(cluster) => cluster.close(),
        }
    }

    /// A server said that a tag lies at `address`.
    pub(crate) fn moved(&self, tag: Tag, from: &Arc<Link>, address: &str) {
        match self {
            Self::Cluster(cluster) => cluster.moved(tag, from, address),
            Self::Server(_) | Self::Sentinel(_) => {}
        }
    }
}
