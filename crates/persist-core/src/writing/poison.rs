use std::fmt::Display;

use parking_lot::Mutex;

use crate::{Descriptor, ErrorKind, Health, HealthStatus, Result};

/// Whether a storage still writes. After a sync that failed nothing that is written later could be trusted, because the
/// kernel forgets what it could not write.
#[derive(Debug, Default)]
pub struct Poison(Mutex<Option<String>>);

impl Poison {
    /// Why nothing is written any more; `None`: it still is.
    pub fn why(&self) -> Option<String> {
        self.0.lock().clone()
    }

    /// Nothing is written from now on; the first reason stays.
    pub fn set(&self, why: &dyn Display) {
        self.0.lock().get_or_insert_with(|| why.to_string());
    }

    /// Lets a change begin.
    ///
    /// # Errors
    /// `Unavailable` after a write or sync that failed.
    pub fn admit(&self, descriptor: &Descriptor, operation: &'static str) -> Result<()> {
        let Some(why) = self.why() else { return Ok(()) };
        let message = format!(
            "a write or sync failed before ({why}); nothing is written until the storage is opened again: check the disk \
             first"
        );
        Err(descriptor.error(ErrorKind::Unavailable, operation, message))
    }

    /// How a storage is that can be read.
    pub fn health(&self) -> Health {
        let Some(why) = self.why() else { return Health::healthy() };
        let detail = format!(
            "a write or sync failed ({why}): it can be read, not written; check the disk, then reopen"
        );
        Health { status: HealthStatus::Degraded, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let (poison, descriptor) = (Poison::default(), Descriptor::new("main", "test"));
        poison.admit(&descriptor, "store").unwrap();
        poison.set(&"the first");
        poison.set(&"the second");
        let error = poison.admit(&descriptor, "store").unwrap_err();
        assert_eq!((error.kind(), error.storage()), (ErrorKind::Unavailable, Some("main")));
        assert!(error.message().contains("(the first)"), "{error}");
        assert_eq!(poison.health().status, HealthStatus::Degraded);
        assert_eq!(Poison::default().health().status, HealthStatus::Healthy);
    }
}
