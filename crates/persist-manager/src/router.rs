use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{join_all, ready};
use futures_util::stream::select_all;
use persist_core::{
    BaseStorage, Capabilities, DeleteOptions, Descriptor, Entry, ErrorKind, Event, Expiry, Health,
    HealthStatus, Key, ListOptions, Maintenance, Metadata, Operation, Outcome, Page, Result, Stats,
    StorageError, StoreItem, StoreOptions, Value, Verification, Watch, check_distinct,
};

use crate::failures::Failures;
use crate::routes::{Routes, Segment};

/// Several storages as one: each key lives in the member that its longest matching prefix names, else in the first.
///
/// Listings show only keys in the member that the routes send them to, so that a key which lies in another member
/// (stored there by name) stays hidden, exactly as `retrieve` would not find it. A transaction whose keys all belong
/// to one member is that member's; one across members is refused. Closing it closes every member.
#[derive(Debug)]
pub struct Router {
    descriptor: Descriptor,
    members: Vec<Arc<dyn BaseStorage>>,
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
        Ok(Self { descriptor: describe(name.into(), &members), members, routes: Routes::new(table) })
    }

    /// The member that a key belongs to.
    pub fn route(&self, key: &Key) -> &Arc<dyn BaseStorage> {
        &self.members[self.routes.member(key.as_str())]
    }

    /// An error of the router itself, which no member has named.
    fn place(&self, operation: &'static str, error: StorageError) -> StorageError {
        error.with_operation(operation).with_storage(self.descriptor.name())
    }

    /// Sorts what concerns keys by the member it belongs to, with the place it had in the order asked.
    fn group<T>(&self, items: impl IntoIterator<Item = T>, key: impl Fn(&T) -> &Key) -> Vec<Group<T>> {
        let mut groups: Vec<Group<T>> = self.members.iter().map(|_| Group::default()).collect();
        for (place, item) in items.into_iter().enumerate() {
            let group = &mut groups[self.routes.member(key(&item).as_str())];
            group.places.push(place);
            group.items.push(item);
        }
        groups
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

    /// True for what a member tells of its own keys, and of all of them.
    fn is_told(&self, member: usize, event: &Result<Event>) -> bool {
        let key = event.as_ref().ok().and_then(Event::key);
        key.is_none_or(|key| self.routes.member(key.as_str()) == member)
    }

    /// What every member says to one question, in order.
    async fn ask<'a, T, F>(&'a self, question: impl Fn(&'a dyn BaseStorage) -> F) -> Vec<T>
    where
        F: Future<Output = T> + 'a,
    {
        join_all(self.members.iter().map(|member| question(member.as_ref()))).await
    }
}

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
        let groups = self.group(items, |item| &item.key);
        let answers = groups.into_iter().zip(&self.members).map(async |(group, member)| {
            (
                group.places,
                if group.items.is_empty() { Vec::new() } else { member.store_many(group.items).await },
            )
        });
        in_order(join_all(answers).await)
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Vec<Result<Option<Entry>>> {
        let groups = self.group(keys.iter().cloned(), |key| key);
        let answers = groups.into_iter().zip(&self.members).map(async |(group, member)| {
            (
                group.places,
                if group.items.is_empty() { Vec::new() } else { member.retrieve_many(&group.items).await },
            )
        });
        in_order(join_all(answers).await)
    }

    async fn delete_many(&self, keys: &[Key]) -> Vec<Result<bool>> {
        let groups = self.group(keys.iter().cloned(), |key| key);
        let answers = groups.into_iter().zip(&self.members).map(async |(group, member)| {
            (
                group.places,
                if group.items.is_empty() { Vec::new() } else { member.delete_many(&group.items).await },
            )
        });
        in_order(join_all(answers).await)
    }

    async fn transact(&self, operations: Vec<Operation>) -> Result<Vec<Outcome>> {
        self.descriptor.admit_change("transact")?;
        check_distinct(&operations).map_err(|error| self.place("transact", error))?;
        let mut members = operations.iter().map(|operation| self.routes.member(operation.key().as_str()));
        let first = members.next().unwrap_or(0);
        if let Some(other) = members.find(|member| *member != first) {
            let message = format!(
                "the keys belong to the storages `{}` and `{}`, and one transaction cannot span two; \
                 make one for each, or route the keys to one storage",
                self.members[first].describe().name(),
                self.members[other].describe().name()
            );
            return Err(self.descriptor.error(ErrorKind::Unsupported, "transact", message));
        }
        self.members[first].transact(operations).await
    }

    async fn flush(&self) -> Result<()> {
        self.descriptor.admit("flush")?;
        Failures::collect(self.ask(|member| member.flush()).await).into_result()
    }

    async fn health(&self) -> Health {
        let mut worst = Health::healthy();
        for (member, health) in self.members.iter().zip(self.ask(|member| member.health()).await) {
            if health.status == HealthStatus::Healthy {
                continue;
            }
            let detail = format!("{}: {}", member.describe().name(), health.detail);
            worst.status = worst.status.max(health.status);
            worst.detail =
                if worst.detail.is_empty() { detail } else { format!("{}; {detail}", worst.detail) };
        }
        worst
    }

    /// With one member its figures; with several the sums of their counters, but no number of keys or bytes, because
    /// a member may hold keys that the routes send elsewhere.
    async fn stats(&self) -> Result<Stats> {
        self.descriptor.admit("stats")?;
        let mut all = self.ask(|member| member.stats()).await.into_iter().collect::<Result<Vec<_>>>()?;
        if all.len() == 1 {
            return Ok(all.swap_remove(0));
        }
        let mut sum = Stats::default();
        for (name, count) in all.into_iter().flat_map(|stats| stats.counters) {
            *sum.counters.entry(name).or_default() += count;
        }
        Ok(sum)
    }

    async fn maintain(&self) -> Result<Maintenance> {
        self.descriptor.admit_change("maintain")?;
        let mut sum = Maintenance::default();
        for (member, done) in self.members.iter().zip(self.ask(|member| member.maintain()).await) {
            let done = done?;
            sum.expired += done.expired;
            sum.freed_bytes += done.freed_bytes;
            let name = member.describe().name();
            sum.notes.extend(done.notes.into_iter().map(|note| format!("{name}: {note}")));
        }
        Ok(sum)
    }

    async fn verify(&self) -> Result<Verification> {
        self.descriptor.admit("verify")?;
        let mut sum = Verification::default();
        for member in &self.members {
            let found = member.verify().await?;
            sum.checked += found.checked;
            sum.bytes += found.bytes;
            sum.problems.extend(found.problems);
        }
        Ok(sum)
    }

    /// What the members concerned tell of the keys that the routes send to them.
    async fn watch<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        self.descriptor.admit_watch(prefix)?;
        let concerned: BTreeSet<usize> =
            self.routes.segments(prefix).into_iter().map(|segment| segment.member).collect();
        let watches = concerned.into_iter().map(async |at| {
            let watch = self.members[at].watch(prefix).await?;
            Ok(watch.filter(move |event| ready(self.is_told(at, event))))
        });
        let watches = join_all(watches).await.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Watch::new(select_all(watches)))
    }

    async fn close(&self) -> Result<()> {
        self.descriptor.close();
        let mut failures = Failures::default();
        for member in self.members.iter().rev() {
            failures.note(member.close().await);
        }
        failures.into_result()
    }
}

/// What of a batch belongs to one member, and where each stood in the batch.
struct Group<T> {
    places: Vec<usize>,
    items: Vec<T>,
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self { places: Vec::new(), items: Vec::new() }
    }
}

/// The answers of all groups in the order asked.
fn in_order<T>(groups: Vec<(Vec<usize>, Vec<T>)>) -> Vec<T> {
    let mut answers: Vec<(usize, T)> =
        groups.into_iter().flat_map(|(places, answers)| places.into_iter().zip(answers)).collect();
    answers.sort_unstable_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Checks the prefix of a route.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn check_prefix<'a>(
    prefix: &str,
    mut before: impl Iterator<Item = &'a str>,
) -> Result<(), String> {
    if prefix.is_empty() {
        return Err("a route needs a prefix; what no route claims goes to the default storage".to_owned());
    }
    Key::check_prefix(prefix).map_err(|error| error.message().to_owned())?;
    if before.any(|earlier| earlier == prefix) {
        return Err(format!("the prefix {} has two routes; keep one", persist_core::escape(prefix)));
    }
    Ok(())
}

/// What all members promise, and the least of their limits.
fn describe(name: String, members: &[Arc<dyn BaseStorage>]) -> Descriptor {
    let descriptors = || members.iter().map(|member| member.describe());
    let all = |fact: fn(&Capabilities) -> bool| descriptors().all(|member| fact(&member.capabilities()));
    let capabilities = Capabilities {
        durable: all(|c| c.durable),
        shared: all(|c| c.shared),
        atomic_transact: all(|c| c.atomic_transact),
        native_expiry: all(|c| c.native_expiry),
        native_ranges: all(|c| c.native_ranges),
        native_arrays: all(|c| c.native_arrays),
        native_watch: all(|c| c.native_watch),
        evicts: !all(|c| !c.evicts),
        read_only: all(|c| c.read_only),
    };
    let first = members[0].describe();
    let same_ttl = descriptors().all(|member| member.default_ttl() == first.default_ttl());
    Descriptor::new(name, "router")
        .with_capabilities(capabilities)
        .with_max_value_bytes(descriptors().map(Descriptor::max_value_bytes).min().unwrap_or(u64::MAX))
        .with_default_ttl(first.default_ttl().filter(|_| same_ttl))
        .with_clock(Arc::clone(first.clock()))
}
