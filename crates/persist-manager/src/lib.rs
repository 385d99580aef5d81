//! YAML to named storages: a validated [`Plan`], a [`StorageManager`] that routes, and an orderly close.
//!
//! - [`Registry`]: which types and layers a configuration may name; programs add their own with one call;
//! - [`LoadOptions`], [`Environment`]: what a configuration is read with;
//! - [`Plan`]: a configuration that has been read and checked as a whole, with nothing opened;
//! - [`StorageManager`]: the opened storages, by name, by route and by default;
//! - [`BackupPlan`]: which storages are copied, how often, and for how long copies are kept;
//! - [`Router`]: several storages as one.
//!
//! `docs/configuration.md` describes every key of a configuration.

mod backup_plan;
mod backups;
mod composition;
mod config_error;
mod context;
mod deserializer;
mod environment;
mod expansion;
mod layers;
mod load_options;
mod manager;
mod nearest;
mod node;
mod overrides;
mod plan;
mod profile;
mod redact;
mod registry;
mod schema;
mod secret_reference;
mod sections;
mod shown;
mod upkeep;
mod yaml;

pub use backup_plan::{BackupPlan, Keep, Schedule};
pub use environment::Environment;
pub use load_options::LoadOptions;
pub use manager::StorageManager;
pub use persist_layers::Router;
#[cfg(feature = "compress")]
pub use persist_layers::train_dictionary;
pub use plan::Plan;
pub use registry::Registry;
