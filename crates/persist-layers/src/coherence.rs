use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use persist_core::{DeleteOptions, Event, Key, ListOptions, Result, Version};
use tokio::task::AbortHandle;

use crate::copy::Copied;
use crate::tiered::Tiers;

/// How long it takes until a watch that has ended is begun again.
const PAUSE: Duration = Duration::from_millis(500);

/// Follows what other programs change in the last tier, so that copies of it are not believed any longer.
///
/// While nothing is told, copies are not believed. A copy whose value was read before the watch began is thrown away, because
/// a change in between was not told.
#[derive(Debug, Default)]
pub(crate) struct Coherence {
    task: OnceLock<AbortHandle>,
    told: AtomicBool,
    /// How many watches were begun.
    epoch: AtomicU64,
}

impl Coherence {
    /// Whether changes are told at the moment; begins to follow them at the first time.
    pub(crate) fn is_told(&self, tiers: impl FnOnce() -> Weak<Tiers>) -> bool {
        self.task.get_or_init(|| tokio::spawn(follow(tiers())).abort_handle());
        self.told.load(Ordering::Acquire)
    }

    /// What must be the same before a value is read and after its copy was made.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

impl Drop for Coherence {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// Follows the last tier until the tiers are closed or dropped.
async fn follow(tiers: Weak<Tiers>) {
    while let Some(last) =
        tiers.upgrade().filter(|tiers| !tiers.descriptor.is_closed()).map(|tiers| Arc::clone(&tiers.last))
    {
        if let Ok(mut watch) = last.watch("").await {
            if begin(&tiers).await.is_ok() {
                while let Some(event) = watch.next().await {
                    if heed(&tiers, event).await.is_err() {
                        break;
                    }
                }
            }
            if let Some(tiers) = tiers.upgrade() {
                tiers.told(false);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Throws away all copies, and believes those that are made from now on.
async fn begin(tiers: &Weak<Tiers>) -> Result<()> {
    let Some(tiers) = tiers.upgrade() else { return Ok(()) };
    tiers.told(false);
    if let Some(coherence) = &tiers.coherence {
        coherence.epoch.fetch_add(1, Ordering::AcqRel);
    }
    tiers.forget_all().await?;
    tiers.told(true);
    Ok(())
}

/// Does what an event asks for.
///
/// # Errors
/// Those of the watch, which begins anew then.
async fn heed(tiers: &Weak<Tiers>, event: Result<Event>) -> Result<()> {
    match event? {
        Event::Stored { key, metadata } => {
            if let Some(tiers) = tiers.upgrade() {
                tiers.superseded(&key, Some(metadata.version)).await;
            }
            Ok(())
        }
        Event::Deleted { key } => {
            if let Some(tiers) = tiers.upgrade() {
                tiers.superseded(&key, None).await;
            }
            Ok(())
        }
        Event::Lost => begin(tiers).await,
    }
}

impl Tiers {
    fn told(&self, told: bool) {
        if let Some(coherence) = &self.coherence {
            coherence.told.store(told, Ordering::Release);
        }
    }

    /// Removes copies of a key that are older than a version; all of them if it was deleted.
    async fn superseded(&self, key: &Key, version: Option<Version>) {
        // Who makes a copy of something older holds the lane until it is made.
        let _lane = self.lanes.enter(key).await;
        for tier in &self.upper {
            let copy = match tier.metadata(key).await {
                Ok(None) => continue,
                Ok(Some(metadata)) => Copied::read_metadata(metadata, &self.descriptor).flatten(),
                Err(_) => None,
            };
            if version.is_some() && copy.map(|copy| copy.version) >= version {
                continue;
            }
            if tier.delete(key, DeleteOptions::new()).await.is_err() {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.suspects.add(key);
            }
        }
    }

    /// Removes all copies.
    async fn forget_all(&self) -> Result<()> {
        for tier in &self.upper {
            let mut after = None;
            loop {
                let page = tier.list_keys("", ListOptions::new().after(after)).await?;
                for removed in tier.delete_many(&page.keys).await {
                    removed?;
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }
}
