//! Contents under their hashes.

mod canonical;
mod id;
mod store;

pub use canonical::canonical_json;
pub use id::{ContentHash, ContentId, NotAnId};
pub use store::ContentStore;
