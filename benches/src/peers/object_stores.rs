use std::path::Path as FilePath;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt};
use persist_core::Key;

use super::{Sync, page_of};
use persist_bench_work::{Contender, Outcome};

/// The `LocalFileSystem` of `object_store`.
#[derive(Debug)]
pub(crate) struct ObjectStores(LocalFileSystem);

impl ObjectStores {
    pub(crate) fn new(folder: &FilePath, sync: Sync) -> Outcome<Self> {
        Ok(Self(LocalFileSystem::new_with_prefix(folder)?.with_fsync(sync == Sync::Yes)))
    }
}

impl Contender for ObjectStores {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        self.0.put(&Path::from(key.as_str()), value.clone().into()).await?;
        Ok(())
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        match self.0.get(&Path::from(key.as_str())).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// It lists in no order, so a page takes all names.
    async fn page(&self, after: Option<&Key>, limit: usize) -> Outcome<Vec<String>> {
        let names: Vec<Path> = self.0.list(None).map_ok(|found| found.location).try_collect().await?;
        Ok(page_of(names, after.map(Key::as_str), limit))
    }
}
