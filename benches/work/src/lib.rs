//! What the benchmarks of persist do with a contender: keys and values from a seed, the timed part, and how a contender
//! that cannot be linked beside the others is measured in a process of its own.

mod contender;
mod data;
mod remote;
mod sample;
mod work;

pub use contender::{Contender, Outcome, Runner};
pub use data::{Data, Random, Seed};
pub use remote::{Remote, serve};
pub use sample::{Sample, median, spread};
pub use work::{Job, Work};
