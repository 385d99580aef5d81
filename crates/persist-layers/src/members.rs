use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::{join_all, ready};
use futures_util::stream::select_all;
use persist_core::{
    BaseStorage, Capabilities, Descriptor, Entry, Event, Failures, Health, HealthStatus, Key, Maintenance,
    Metadata, Operation, Result, Stats, StoreItem, Verification, Watch,
};

use crate::composite::close_all;

type Storage = Arc<dyn BaseStorage>;

/// The storages of a composite, and what concerns all of them at once.
///
/// Where the keys are shared among them, `owner` tells the position of the one that a key belongs to.
#[derive(Debug)]
pub(crate) struct Members(Vec<Storage>);

impl Members {
    pub(crate) fn new(storages: Vec<Storage>) -> Self {
        Self(storages)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Storage> {
        self.0.iter()
    }

    /// What all of them promise, and the least of their limits. Their lifetimes and their clock are those of the first.
    pub(crate) fn describe(&self, name: &str, kind: &'static str) -> Descriptor {
        let descriptors = || self.iter().map(|member| member.describe());
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
        let described = Descriptor::new(name, kind).with_capabilities(capabilities);
        let described = described
            .with_max_value_bytes(descriptors().map(Descriptor::max_value_bytes).min().unwrap_or(u64::MAX));
        match descriptors().next() {
            Some(first) => {
                described.with_default_ttl(first.default_ttl()).with_clock(Arc::clone(first.clock()))
            }
            None => described,
        }
    }

    /// Two of them that let values live for different times unless told otherwise.
    pub(crate) fn unequal_lifetimes(&self) -> Option<(&str, &str)> {
        let first = self.0.first()?.describe();
        let mut others = self.iter().map(|member| member.describe());
        others
            .find(|other| other.default_ttl() != first.default_ttl())
            .map(|other| (first.name(), other.name()))
    }

    /// What every one says to a question, in order.
    pub(crate) async fn ask<'a, T, F>(&'a self, question: impl Fn(&'a dyn BaseStorage) -> F) -> Vec<T>
    where
        F: Future<Output = T> + 'a,
    {
        join_all(self.iter().map(|member| question(member.as_ref()))).await
    }

    pub(crate) async fn store_many(
        &self,
        items: Vec<StoreItem>,
        owner: impl Fn(&Key) -> usize,
    ) -> Vec<Result<Metadata>> {
        let groups = self.group(items, |item| owner(&item.key));
        in_order(self.ask_each(groups, |member, group| async move { member.store_many(group).await }).await)
    }

    pub(crate) async fn retrieve_many(
        &self,
        keys: &[Key],
        owner: impl Fn(&Key) -> usize,
    ) -> Vec<Result<Option<Entry>>> {
        let groups = self.group(keys.iter().cloned(), owner);
        in_order(
            self.ask_each(groups, |member, group| async move { member.retrieve_many(&group).await }).await,
        )
    }

    pub(crate) async fn delete_many(&self, keys: &[Key], owner: impl Fn(&Key) -> usize) -> Vec<Result<bool>> {
        let groups = self.group(keys.iter().cloned(), owner);
        in_order(self.ask_each(groups, |member, group| async move { member.delete_many(&group).await }).await)
    }

    /// The one member that all keys of a transaction belong to; if there are several, two of them.
    pub(crate) fn sole_owner(
        operations: &[Operation],
        owner: impl Fn(&Key) -> usize,
    ) -> Result<usize, (usize, usize)> {
        let mut owners = operations.iter().map(|operation| owner(operation.key()));
        let first = owners.next().unwrap_or(0);
        match owners.find(|other| *other != first) {
            Some(other) => Err((first, other)),
            None => Ok(first),
        }
    }

    pub(crate) async fn flush(&self) -> Result<()> {
        Failures::collect(self.ask(|member| member.flush()).await).into_result()
    }

    /// The worst of all, with what each one complains of.
    pub(crate) async fn health(&self) -> Health {
        self.worst(&self.ask(|member| member.health()).await)
    }

    /// The worst of what all have answered, with what each one complains of.
    pub(crate) fn worst(&self, answers: &[Health]) -> Health {
        let mut worst = Health::healthy();
        for (member, health) in self.iter().zip(answers) {
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

    /// The sums of all figures; what one of them cannot tell, nobody knows of all.
    pub(crate) async fn stats(&self) -> Result<Stats> {
        let mut sum = Stats { keys: Some(0), bytes: Some(0), ..Stats::default() };
        let add = |a: Option<u64>, b: Option<u64>| Some(a? + b?);
        for stats in self.ask(|member| member.stats()).await {
            let stats = stats?;
            (sum.keys, sum.bytes) = (add(sum.keys, stats.keys), add(sum.bytes, stats.bytes));
            for (name, count) in stats.counters {
                *sum.counters.entry(name).or_default() += count;
            }
        }
        Ok(sum)
    }

    pub(crate) async fn maintain(&self) -> Result<Maintenance> {
        let (mut sum, mut failures) = (Maintenance::default(), Failures::default());
        for (member, done) in self.iter().zip(self.ask(|member| member.maintain()).await) {
            match done {
                Ok(done) => {
                    sum.expired += done.expired;
                    sum.freed_bytes += done.freed_bytes;
                    let name = member.describe().name();
                    sum.notes.extend(done.notes.into_iter().map(|note| format!("{name}: {note}")));
                }
                Err(error) => failures.note::<()>(Err(error)),
            }
        }
        failures.into_result().map(|()| sum)
    }

    pub(crate) async fn verify(&self) -> Result<Verification> {
        let mut sum = Verification::default();
        for member in self.iter() {
            let found = member.verify().await?;
            sum.checked += found.checked;
            sum.bytes += found.bytes;
            sum.problems.extend(found.problems);
        }
        Ok(sum)
    }

    /// What some of them tell of the keys that belong to them.
    pub(crate) async fn watch<'a>(
        &'a self,
        prefix: &str,
        concerned: impl Iterator<Item = usize>,
        belongs: impl Fn(&Key, usize) -> bool + Clone + Send + 'a,
    ) -> Result<Watch<'a>> {
        let watches = concerned.map(|at| {
            let belongs = belongs.clone();
            async move {
                let told = move |event: &Result<Event>| {
                    let key = event.as_ref().ok().and_then(Event::key);
                    ready(key.is_none_or(|key| belongs(key, at)))
                };
                Ok(self.0[at].watch(prefix).await?.filter(told))
            }
        });
        let watches = join_all(watches).await.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(Watch::new(select_all(watches)))
    }

    /// Closes all of them, the last one first.
    pub(crate) async fn close(&self) -> Result<()> {
        close_all(self.iter().rev()).await
    }

    /// Sorts what concerns keys by the member it belongs to, with the place it had in the order asked.
    fn group<T>(&self, items: impl IntoIterator<Item = T>, owner: impl Fn(&T) -> usize) -> Vec<Group<T>> {
        let mut groups: Vec<Group<T>> = self.iter().map(|_| Group::default()).collect();
        for (place, item) in items.into_iter().enumerate() {
            let group = &mut groups[owner(&item)];
            group.places.push(place);
            group.items.push(item);
        }
        groups
    }

    /// What each member says of its group; one that has none is not asked.
    async fn ask_each<T, A, F: Future<Output = Vec<A>>>(
        &self,
        groups: Vec<Group<T>>,
        question: impl Fn(Storage, Vec<T>) -> F,
    ) -> Vec<(Vec<usize>, Vec<A>)> {
        let asked = groups.into_iter().zip(self.iter()).filter(|(group, _)| !group.items.is_empty());
        let answers = asked.map(|(Group { places, items }, member)| {
            let answers = question(Arc::clone(member), items);
            async move { (places, answers.await) }
        });
        join_all(answers).await
    }
}

impl std::ops::Index<usize> for Members {
    type Output = Storage;

    fn index(&self, position: usize) -> &Storage {
        &self.0[position]
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
