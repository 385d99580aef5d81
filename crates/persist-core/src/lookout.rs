use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::time::{Instant, sleep_until};

use crate::{ErrorKind, Event, Result, Watch};

/// A watch of a storage that is told what this process changes, and must look what others do: `look` is called again and
/// again, `interval` apart, and says true if something was changed that nobody was told of. Then [`Event::Lost`] is told.
/// An error is told once, until a look succeeds; `Closed` ends the watch.
pub fn watch_and_look<'a>(
    told: Watch<'a>,
    interval: Duration,
    look: impl FnMut() -> BoxFuture<'a, Result<bool>> + Send + 'a,
) -> Watch<'a> {
    let lookout = Lookout { told, look, interval, look_at: Instant::now() + interval, failed: false };
    Watch::new(stream::unfold(lookout, |mut lookout| async move {
        lookout.next().await.map(|event| (event, lookout))
    }))
}

struct Lookout<'a, L> {
    told: Watch<'a>,
    look: L,
    interval: Duration,
    look_at: Instant,
    /// The last look failed, and the watcher was told.
    failed: bool,
}

impl<'a, L: FnMut() -> BoxFuture<'a, Result<bool>>> Lookout<'a, L> {
    async fn next(&mut self) -> Option<Result<Event>> {
        loop {
            tokio::select! {
                event = self.told.next() => return event,
                () = sleep_until(self.look_at) => {}
            }
            self.look_at = Instant::now() + self.interval;
            match (self.look)().await {
                Ok(changed) => {
                    self.failed = false;
                    if changed {
                        return Some(Ok(Event::Lost));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Closed => return None,
                Err(error) if !std::mem::replace(&mut self.failed, true) => return Some(Err(error)),
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures_util::FutureExt;

    use super::*;
    use crate::{Key, StorageError, Watchers};

    fn failure(kind: ErrorKind) -> Result<bool> {
        Err(StorageError::new(kind, "x"))
    }

    #[tokio::test]
    async fn what_is_told_and_what_is_seen_arrives() {
        let watchers = Watchers::new();
        let mut looks = VecDeque::from([
            Ok(false),
            Ok(true),
            failure(ErrorKind::Unavailable),
            failure(ErrorKind::Unavailable),
            Ok(false),
            failure(ErrorKind::Unavailable),
            failure(ErrorKind::Closed),
        ]);
        let look = move || std::future::ready(looks.pop_front().unwrap()).boxed();
        let mut watch = watch_and_look(watchers.watch(""), Duration::from_millis(2), look);
        let key = Key::new("a").unwrap();
        watchers.deleted(&key);
        assert_eq!(watch.next().await.unwrap().unwrap(), Event::Deleted { key });
        assert_eq!(watch.next().await.unwrap().unwrap(), Event::Lost);
        for _ in 0..2 {
            let error = watch.next().await.unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "told once for each row of failures");
        }
        assert!(watch.next().await.is_none(), "closed");
    }
}
