use std::fmt::Debug;
use std::sync::Arc;

use persist_core::{BaseStorage, Failures, Result};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A storage that is made of others, which a configuration names.
///
/// Closing it closes its members. It has no place of its own: what is to be restored are its members.
pub trait Composite: Send + Sync + 'static {
    /// What stands after `type:`.
    const TYPE: &'static str;

    /// Its section. It must refuse unknown keys (`#[serde(deny_unknown_fields)]`).
    type Config: DeserializeOwned + Serialize + JsonSchema + Debug + Send + 'static;

    /// Checks what the types of the settings cannot.
    ///
    /// # Errors
    /// What is wrong, in words, with the cure.
    fn check(config: &Self::Config) -> Result<(), String> {
        let _ = config;
        Ok(())
    }

    /// The names of the storages that it is made of.
    fn members(config: &Self::Config) -> Vec<String>;

    /// Makes it of its members, which come in the order of [`members`](Self::members).
    ///
    /// # Errors
    /// `InvalidConfig` if it cannot keep the contract with these members, with the reason.
    fn open(
        name: &str,
        config: Self::Config,
        members: Vec<Arc<dyn BaseStorage>>,
    ) -> Result<Arc<dyn BaseStorage>>;
}

/// Closes several storages, all of them.
pub(crate) async fn close_all<'a>(members: impl Iterator<Item = &'a Arc<dyn BaseStorage>>) -> Result<()> {
    let mut failures = Failures::default();
    for member in members {
        failures.note(member.close().await);
    }
    failures.into_result()
}
