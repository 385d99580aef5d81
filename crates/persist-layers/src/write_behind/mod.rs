//! Changes that are acknowledged before the storage below has them.

mod config;
mod drain;
mod frame;
mod journal;
mod note;
mod queue;
mod storage;

pub use config::{JournalConfig, JournalDurability, WriteBehindConfig};
pub use storage::{Pending, WriteBehind};
