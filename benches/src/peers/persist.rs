use std::sync::Arc;

use bytes::Bytes;
use persist_core::{BaseStorage, Key, ListOptions, StoreItem, StoreOptions, Value};

use persist_bench_work::{Contender, Outcome};

/// A storage of persist behind the trait, as programs hold it.
#[derive(Debug)]
pub(crate) struct Persist(Arc<dyn BaseStorage>);

impl Persist {
    pub(crate) fn new(storage: Arc<dyn BaseStorage>) -> Self {
        Self(storage)
    }
}

fn bytes(value: Value) -> Outcome<Bytes> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        other => Err(format!("{} came back where bytes were stored", other.kind()).into()),
    }
}

impl Contender for Persist {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        self.0.store(key, Value::Bytes(value.clone()), StoreOptions::new()).await?;
        Ok(())
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        match self.0.retrieve(key).await? {
            Some(entry) => bytes(entry.value).map(Some),
            None => Ok(None),
        }
    }

    async fn store_many(&self, items: Vec<(Key, Bytes)>) -> Outcome<()> {
        let item = |(key, value)| StoreItem { key, value: Value::Bytes(value), options: StoreOptions::new() };
        for result in self.0.store_many(items.into_iter().map(item).collect()).await {
            result?;
        }
        Ok(())
    }

    async fn retrieve_many(&self, keys: &[Key]) -> Outcome<Vec<Option<Bytes>>> {
        let found = self.0.retrieve_many(keys).await.into_iter();
        found.map(|found| found?.map(|entry| bytes(entry.value)).transpose()).collect()
    }

    async fn settle(&self) -> Outcome<()> {
        self.0.maintain().await?;
        Ok(())
    }

    async fn page(&self, after: Option<&Key>, limit: usize) -> Outcome<Vec<String>> {
        let page = self.0.list_keys("", ListOptions::new().after(after.cloned()).limit(limit)).await?;
        Ok(page.keys.iter().map(|key| key.as_str().to_owned()).collect())
    }
}
