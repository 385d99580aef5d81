//! The bugs of watches.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use futures_util::stream::{self, StreamExt};
use persist_core::{BaseStorage, Event, Key, POLL_INTERVAL, Result, Watch, watch_by_polling};

use super::{BrokenStorage, Bug};

impl BrokenStorage {
    pub(super) async fn watch_mangled<'a>(&'a self, prefix: &str) -> Result<Watch<'a>> {
        let place = |error| self.told::<Watch<'a>>(Err(error));
        let inner = match self.bug {
            Some(Bug::WatchIgnoresPrefix) if self.inner.describe().admit_watch(prefix).is_ok() => {
                self.inner.watch("").await
            }
            Some(Bug::WatchNeedsWriting) => {
                self.inner.describe().admit_change("watch")?;
                self.inner.watch(prefix).await
            }
            Some(Bug::ClaimsNativeWatch) => return watch_by_polling(self, prefix, POLL_INTERVAL).await,
            _ => self.inner.watch(prefix).await,
        };
        let watch = inner.or_else(place)?;
        let number = self.watches.fetch_add(1, Ordering::AcqRel) + 1;
        Ok(match self.bug {
            Some(Bug::WatchMissesDeletes) => only(watch, |event| !matches!(event, Event::Deleted { .. })),
            Some(Bug::WatchHidesLost) => only(watch, |event| *event != Event::Lost),
            Some(Bug::WatchServesOne) => only(watch, move |_| self.watches.load(Ordering::Acquire) == number),
            Some(Bug::WatchTellsConflicts) => Watch::new(stream::select(watch, self.extra.watch(prefix))),
            Some(Bug::WatchesItselfAlone) => self.extra.watch(prefix),
            Some(Bug::WatchOutlivesClose) => Watch::new(watch.chain(stream::pending())),
            Some(Bug::WatchRepeats) => repeating(watch),
            _ => watch,
        })
    }

    /// Tells the watchers of this handle alone what is stored under a key.
    pub(super) async fn tell_extra(&self, key: &Key) {
        match self.inner.metadata(key).await {
            Ok(Some(metadata)) => self.extra.stored(key, &metadata),
            _ => self.extra.deleted(key),
        }
    }
}

/// A watch that tells some events alone.
fn only<'a>(watch: Watch<'a>, keep: impl Fn(&Event) -> bool + Send + 'a) -> Watch<'a> {
    Watch::new(watch.filter(move |event| {
        let kept = event.as_ref().map_or(true, &keep);
        async move { kept }
    }))
}

/// A watch that tells the change before last of a key once more after the last one.
fn repeating(watch: Watch<'_>) -> Watch<'_> {
    let mut before = HashMap::new();
    Watch::new(watch.flat_map(move |event| {
        let mut told = Vec::new();
        if let Ok(event) = &event
            && let Some(key) = event.key()
        {
            told.extend(before.insert(key.clone(), event.clone()));
        }
        told.insert(0, event.unwrap_or(Event::Lost));
        stream::iter(told.into_iter().map(Ok))
    }))
}
