//! Real Redis servers, private to one test binary: standalone with ACL and TLS, a cluster, a primary with a replica and
//! sentinels.
//!
//! They run in Docker (`tests/redis/compose.yaml`, image `PERSIST_REDIS_IMAGE`), or as processes of this machine where no
//! engine answers; `PERSIST_TEST_REDIS=docker|local` picks. With `CI` set a missing Docker engine fails. Everything listens
//! on the loopback interface alone, on ports that were free, and ends with the process that started it, however that
//! ends.
//!
//! ```no_run
//! use persist_testkit::redis::Deployment;
//!
//! let Some(redis) = Deployment::standalone() else { return }; // says loudly why there is none
//! println!("{}", redis.url());
//! redis.servers()[0].kill();
//! ```

mod deployment;
mod docker;
mod host;
mod impostor;
mod layout;
mod processes;
mod proxy;
mod resp;
mod server;

pub use deployment::{Deployment, Kind};
pub use impostor::Impostor;
pub use proxy::Proxy;
pub use resp::{Reply, Wire};
pub use server::Server;
