use persist_core::{
    BaseStorage, Capabilities, DeleteOptions, Descriptor, Entry, Key, ListOptions, Metadata, Page, Result,
    StoreOptions, Value, async_trait,
};

/// A storage that is configured and does not exist yet, as `--dry-run` sees it: empty, and open for reading only.
#[derive(Debug)]
pub(crate) struct Missing(Descriptor);

impl Missing {
    /// The stand-in for a storage of this name and type.
    pub(crate) fn new(name: &str, backend: &'static str) -> Self {
        let capabilities = Capabilities { read_only: true, durable: true, ..Capabilities::NONE };
        Self(Descriptor::new(name, backend).with_capabilities(capabilities))
    }
}

#[async_trait]
impl BaseStorage for Missing {
    fn describe(&self) -> &Descriptor {
        &self.0
    }

    async fn store(&self, key: &Key, value: Value, options: StoreOptions) -> Result<Metadata> {
        self.0.admit_store(key, &value, &options)?;
        self.0.next_metadata(key, None, &value, &options)
    }

    async fn retrieve(&self, _: &Key) -> Result<Option<Entry>> {
        self.0.admit("retrieve").map(|()| None)
    }

    async fn delete(&self, _: &Key, _: DeleteOptions) -> Result<bool> {
        self.0.admit_change("delete").map(|()| false)
    }

    async fn list_keys(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        self.0.admit_list(prefix, &options).map(|_| Page::default())
    }
}

#[cfg(test)]
mod tests {
    use persist_core::{ErrorKind, StorageExt};

    use super::*;

    #[tokio::test]
    async fn it_is_empty_and_stays_so() {
        let storage = Missing::new("main", "file");
        let key = Key::new("k").unwrap();
        assert_eq!(storage.retrieve(&key).await.unwrap(), None);
        assert_eq!(storage.list_keys("", ListOptions::new()).await.unwrap(), Page::default());
        assert_eq!(storage.put("k", &1).await.unwrap_err().kind(), ErrorKind::ReadOnly);
        assert_eq!(storage.remove("k").await.unwrap_err().kind(), ErrorKind::ReadOnly);
    }
}
