use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::StreamExt;

use crate::{Key, Metadata, Result};

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A value was stored, or its expiry was changed. That its `expires_at` has come makes no event of its own.
    Stored {
        /// The key.
        key: Key,
        /// What `metadata` answered right after the change.
        metadata: Metadata,
    },
    /// A value was deleted, or removed to make room.
    Deleted {
        /// The key.
        key: Key,
    },
    /// Events may have been missed: list again. What follows is later than this.
    Lost,
}

impl Event {
    /// The key concerned; `None`: perhaps all of them.
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Stored { key, .. } | Self::Deleted { key } => Some(key),
            Self::Lost => None,
        }
    }
}

/// A stream of changes; see [`BaseStorage::watch`](crate::BaseStorage::watch). Dropping it ends the watch.
///
/// An error in it says why nothing is told at the moment. The watch goes on by itself, so whoever wants to hear more
/// asks for the next event. `None`: the storage was closed.
#[must_use = "a watch tells only those who listen"]
pub struct Watch<'a>(Pin<Box<dyn Stream<Item = Result<Event>> + Send + 'a>>);

impl<'a> Watch<'a> {
    /// A watch that tells what comes out of a stream.
    pub fn new(events: impl Stream<Item = Result<Event>> + Send + 'a) -> Self {
        Self(Box::pin(events))
    }

    /// The next event, as soon as there is one.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        self.0.next().await
    }
}

impl Stream for Watch<'_> {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}
