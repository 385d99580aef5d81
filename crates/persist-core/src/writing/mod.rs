//! For backends in which one thread writes for all callers: what they ask of it, how the calls reach it, and how many
//! values become few calls. A backend says what its steps are ([`Step`]) and runs the thread; the rest is here.

mod batches;
mod change;
mod poison;
mod writer;

pub use batches::{Batches, delete_in_batches, store_in_batches};
pub use change::{Answer, Change, Done, Step, tell};
pub use poison::Poison;
pub use writer::{Calls, Job, QUEUE, Reply, Writer};
