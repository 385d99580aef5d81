use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use persist_core::{
    BaseStorage, DeleteOptions, Descriptor, Entry, ErrorKind, Expiry, Health, Key, ListOptions, Maintenance,
    Metadata, Operation, Outcome, Page, Result, SnapshotSink, SnapshotSummary, Stats, StorageError,
    StoreItem, StoreOptions, Value, Verification, Watch, snapshot_entries,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Composite;
use crate::members::Members;
use crate::routes::{Routes, Segment};

/// Keys with one prefix live in one storage.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// What the keys begin with, literally.
    pub prefix: String,
    /// The name of the storage they live in.
    pub storage: String,
}

/// The settings of [`Router`].
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouterConfig {
    /// The name of the storage that takes what no route claims.
    pub default: String,
    /// Which keys live elsewhere; of several prefixes that a key begins with the longest counts.
    pub routes: Vec<Route>,
}

/// Several storages as one: each key lives in the member that its longest matching prefix names, else in the first.
///
/// Listings show only keys in the member that the routes send them to, so that a key which lies in another member
/// (stored there by name) stays hidden, exactly as `retrieve` would not find it. A transaction whose keys all belong
/// to one member is that member's; one across members is refused. Closing it closes every member.
#[derive(Debug)]
pub struct Router {
    descriptor: Descriptor,
    members: Members,
    routes: Routes,
}

impl Router {
    /// A router called `name`: `fallback` takes the keys that begin with no prefix of `routes`.
    ///
    /// # Errors
    /// `InvalidConfig` for an empty prefix, one that no key can have, or one that is given twice.
    pub fn new(
        name: impl Into<String>,
        fallback: Arc<dyn BaseStorage>,
        routes: impl IntoIterator<Item = (String, Arc<dyn BaseStorage>)>,
    ) -> Result<Self> {
        let mut members = vec![fallback];
        let mut table: Vec<(String, usize)> = Vec::new();
        for (prefix, storage) in routes {
            let before = table.iter().map(|(earlier, _)| earlier.as_str());
            let invalid = |message| StorageError::new(ErrorKind::InvalidConfig, message);
            check_prefix(&prefix, before).map_err(invalid)?;
            let known = members.iter().position(|member| Arc::ptr_eq(member, &storage));
            table.push((prefix, known.unwrap_or(members.len())));
            if known.is_none() {
                members.push(storage);
            }
        }
        let members = Members::new(members);
        let mut descriptor = members.describe(&name.into(), Self::TYPE);
        if members.unequal_lifetimes().is_some() {
            descriptor = descriptor.with_default_ttl(None);
        }
        Ok(Self { descriptor, members, routes: Routes::new(table) })
    }

    /// The member that a key belongs to.
    pub fn route(&self, key: &Key) -> &Arc<dyn BaseStorage> {
        &self.members[self.owner(key)]
    }

    fn owner(&self, key: &Key) -> usize {
        self.routes.member(key.as_str())
    }

    /// Adds the keys of one segment to `found` until it holds `wanted`.
    async fn collect(&self, segment: Segment, wanted: usize, found: &mut Vec<Key>) -> Result<()> {
        let mut after = segment.after.clone();
        while found.len() < wanted {
            let options = ListOptions::new().after(after).limit(wanted - found.len());
            let page = self.members[segment.member].list_keys(&segment.prefix, options).await?;
            let seen = page.keys.len();
            let inside: Vec<Key> =
                page.keys.into_iter().take_while(|key| !segment.ends_before(key)).collect();
            let left = inside.len() < seen;
            found.extend(inside);
            after = page.next;
            if left || after.is_none() {
                break;
            }
        }
        Ok(())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BaseStorage for Router {
    fn describe(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.route(key).store(key, value, options).await
    }

    async fn retrieve(&self, key: &Key) -> Result<Option<Entry>> {
        self.route(key).retrieve(key).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<bool> {
        self.route(key).delete(key, options).await
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let limit = self.descriptor.admit_list(prefix, &options)?;
        let mut found = Vec::new();
        for mut segment in self.routes.segments(prefix) {
            if options.after.as_ref().is_some_and(|after| segment.is_before(after)) {
                continue;
            }
            segment.after = segment.after.max(options.after.clone());
            // One more than asked for, to know whether another page follows.
            self.collect(segment, limit + 1, &mut found).await?;
        }
        Ok(Page::collect(found, limit))
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        self.route(key).metadata(key).await
    }

    async fn contains(&self, key: &Key) -> Result<bool> {
        self.route(key).contains(key).await
    }

    async fn touch(&self, key: &Key, expiry: Expiry) -> Result<Option<Metadata>> {
        self.route(key).touch(key, expiry).await
    }

    async fn retrieve_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.route(key).retrieve_range(key, range).await
    }

    async fn store_many(&self, items: Vec<StoreItem>) -> Vec<Result<Metadata>> {
        self.members.store_many(items, |key| self.owner(key)).await
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        self.members.retrieve_many(keys, |key| self.owner(key)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        self.members.delete_many(keys, |key| self.owner(key)).await
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.descriptor.admit_transact(&operations)?;
        match Members::sole_owner(&operations, |key| self.owner(key)) {
            Ok(owner) => self.members[owner].transact(operations).await,
            Err((one, other)) => {
                let message = format!(
                    "the keys belong to the storages `{}` and `{}`, and one transaction cannot span two; \
                     make one for each, or route the keys to one storage",
                    self.members[one].describe().name(),
                    self.members[other].describe().name()
                );
                Err(self.descriptor.error(ErrorKind::Unsupported, "transact", message))
            }
        }
    }

    async fn flush(&self) -> Result<()> {
        self.descriptor.admit("flush")?;
        self.members.flush().await
    }

    async fn health(&self) -> Health {
        self.members.health().await
    }

    /// With one member its figures; with several the sums of their counters, but no number of keys or bytes, because
    /// a member may hold keys that the routes send elsewhere.
    async fn stats(&self) -> Result<Stats> {
        self.descriptor.admit("stats")?;
        let stats = self.members.stats().await?;
        Ok(if self.members.len() == 1 { stats } else { Stats { keys: None, bytes: None, ..stats } })
    }

    async fn maintain(&self) -> Result<Maintenance> {
        self.descriptor.admit_change("maintain")?;
        self.members.maintain().await
    }

    async fn verify(&self) -> Result<Verification> {
        self.descriptor.admit("verify")?;
        self.members.verify().await
    }

    async fn snapshot(&self, sink: &mut dyn SnapshotSink) -> Result<SnapshotSummary> {
        self.descriptor.admit("snapshot")?;
        snapshot_entries(self, sink).await
    }

    /// What the members concerned tell of the keys that the routes send to them.
    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.descriptor.admit_watch(prefix)?;
        let concerned: BTreeSet<usize> =
            self.routes.segments(prefix).into_iter().map(|segment| segment.member).collect();
        self.members.watch(prefix, concerned.into_iter(), |key, at| self.owner(key) == at).await
    }

    async fn close(&self) -> Result<()> {
        self.descriptor.close();
        self.members.close().await
    }
}

impl Composite for Router {
    const TYPE: &'static str = "router";
    type Config = RouterConfig;

    fn check(config: &RouterConfig) -> Result<(), String> {
        if config.routes.is_empty() {
            return Err("`routes` is empty; name at least one prefix and its storage".to_owned());
        }
        for (index, route) in config.routes.iter().enumerate() {
            let before = config.routes[..index].iter().map(|earlier| earlier.prefix.as_str());
            check_prefix(&route.prefix, before)?;
        }
        Ok(())
    }

    /// Each once, the default one first.
    fn members(config: &RouterConfig) -> Vec<String> {
        let mut members = vec![config.default.clone()];
        for route in &config.routes {
            if !members.contains(&route.storage) {
                members.push(route.storage.clone());
            }
        }
        members
    }

    fn open(
        name: &str,
        config: RouterConfig,
        members: Vec<Arc<dyn BaseStorage>>,
    ) -> Result<Arc<dyn BaseStorage>> {
        let names = Self::members(&config);
        let named = |wanted: &str| {
            let position = names.iter().position(|name| name == wanted).unwrap_or_default();
            Arc::clone(&members[position])
        };
        let routes = config.routes.iter().map(|route| (route.prefix.clone(), named(&route.storage)));
        Ok(Arc::new(Self::new(name, named(&config.default), routes)?))
    }
}

/// Checks the prefix of a route.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_prefix<'a>(prefix: &str, mut before: impl Iterator<Item = &'a str>) -> Result<(), String> {
    if prefix.is_empty() {
        return Err("a route needs a prefix; what no route claims goes to the default storage".to_owned());
    }
    Key::check_prefix(prefix).map_err(|error| error.message().to_owned())?;
    if before.any(|earlier| earlier == prefix) {
        return Err(format!("the prefix {} has two routes; keep one", persist_core::escape(prefix)));
    }
    Ok(())
}
