//! Watching: what this process writes is told by the thread that writes; a storage that only reads looks at the log.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use persist_core::{Result, Watch, watch_and_look};

use crate::core::Core;

/// How often a storage that only reads looks whether the log has grown, while somebody watches. It costs a system call.
const INTERVAL: Duration = Duration::from_millis(100);

/// A watch of the keys that begin with `prefix`.
pub(crate) fn watch(core: &Arc<Core>, prefix: &str) -> Result<Watch<'static>> {
    core.descriptor.admit_watch(prefix)?;
    let told = core.watchers.watch(prefix);
    if !core.config.read_only {
        return Ok(told);
    }
    look(core)?;
    let core = Arc::clone(core);
    Ok(watch_and_look(told, INTERVAL, move || std::future::ready(look(&core).map(|()| false)).boxed()))
}

/// Takes in what another process has written, which tells the watchers.
fn look(core: &Core) -> Result<()> {
    core.descriptor.admit("watch")?;
    core.look().map(drop).map_err(|fault| core.fault("watch", None, fault))
}
