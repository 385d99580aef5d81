use std::path::Path;

use bytes::Bytes;
use futures_util::TryStreamExt;
use opendal::services::Fs;
use opendal::{ErrorKind, Operator};
use persist_core::Key;

use super::page_of;
use persist_bench_work::{Contender, Outcome};

/// OpenDAL with one of its services.
#[derive(Debug)]
pub(crate) struct OpenDal(pub(super) Operator);

impl OpenDal {
    /// The `fs` service with a folder for temp files, without which it writes in place.
    pub(crate) fn new(folder: &Path) -> Outcome<Self> {
        let (root, temps) = (folder.join("root"), folder.join("temps"));
        for folder in [&root, &temps] {
            std::fs::create_dir_all(folder)?;
        }
        let (root, temps) = (root.display().to_string(), temps.display().to_string());
        Ok(Self(Operator::new(Fs::default().root(&root).atomic_write_dir(&temps))?))
    }
}

impl Contender for OpenDal {
    async fn store(&self, key: &Key, value: &Bytes) -> Outcome<()> {
        self.0.write(key, value.clone()).await?;
        Ok(())
    }

    async fn retrieve(&self, key: &Key) -> Outcome<Option<Bytes>> {
        match self.0.read(key).await {
            Ok(found) => Ok(Some(found.to_bytes())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// It lists in no order, so a page takes all names.
    async fn page(&self, after: Option<&Key>, limit: usize) -> Outcome<Vec<String>> {
        let lister = self.0.lister("").await?;
        let entries: Vec<String> = lister.map_ok(|entry| entry.path().to_owned()).try_collect().await?;
        let names = entries.into_iter().filter(|name| !name.ends_with('/')).collect();
        Ok(page_of::<String>(names, after.map(Key::as_str), limit))
    }
}
