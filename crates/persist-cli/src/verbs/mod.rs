//! The verbs: one file each, with its flags and what it does.

mod backup;
mod bench;
mod compact;
mod completions;
mod config;
mod cp;
#[cfg(feature = "compress")]
mod dictionary;
mod du;
mod get;
mod health;
mod ls;
mod mv;
#[cfg(feature = "pack")]
mod pack;
mod put;
mod restore;
mod rm;
mod snapshots;
mod stat;
mod stats;
mod stores;
mod sync;
mod ttl;
mod verify;
mod watch;

use clap::Subcommand;

use crate::address::Stored;
use crate::app::App;
use crate::exit::{Failure, Result};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Get(get::Get),
    Put(put::Put),
    Rm(rm::Rm),
    Ls(ls::Ls),
    Watch(watch::Watch),
    Stat(stat::Stat),
    Cp(cp::Cp),
    Mv(mv::Mv),
    Sync(sync::Sync),
    Ttl(ttl::Ttl),
    Du(du::Du),
    Backup(backup::Backup),
    Snapshots(snapshots::Snapshots),
    Restore(restore::Restore),
    Verify(verify::Verify),
    Compact(compact::Compact),
    #[cfg(feature = "compress")]
    Dictionary(dictionary::Dictionary),
    #[cfg(feature = "pack")]
    Pack(pack::Pack),
    Stats(stats::Stats),
    Health(health::Health),
    Stores(stores::Stores),
    Config(config::Config),
    Bench(bench::Bench),
    Completions(completions::Completions),
}

impl Verb {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        match self {
            Self::Get(verb) => verb.run(app).await,
            Self::Put(verb) => verb.run(app).await,
            Self::Rm(verb) => verb.run(app).await,
            Self::Ls(verb) => verb.run(app).await,
            Self::Watch(verb) => verb.run(app).await,
            Self::Stat(verb) => verb.run(app).await,
            Self::Cp(verb) => verb.run(app).await,
            Self::Mv(verb) => verb.run(app).await,
            Self::Sync(verb) => verb.run(app).await,
            Self::Ttl(verb) => verb.run(app).await,
            Self::Du(verb) => verb.run(app).await,
            Self::Backup(verb) => verb.run(app).await,
            Self::Snapshots(verb) => verb.run(app).await,
            Self::Restore(verb) => verb.run(app).await,
            Self::Verify(verb) => verb.run(app).await,
            Self::Compact(verb) => verb.run(app).await,
            #[cfg(feature = "compress")]
            Self::Dictionary(verb) => verb.run(app).await,
            #[cfg(feature = "pack")]
            Self::Pack(verb) => verb.run(app).await,
            Self::Stats(verb) => verb.run(app).await,
            Self::Health(verb) => verb.run(app).await,
            Self::Stores(verb) => verb.run(app).await,
            Self::Config(verb) => verb.run(app).await,
            Self::Bench(verb) => verb.run(app).await,
            Self::Completions(verb) => verb.run(app),
        }
    }
}

/// Asks each of the storages named, or every one of the configuration. One that fails is reported and does not hide the
/// others; the first failure is the exit code.
async fn each(app: &App, named: &[Stored], ask: impl AsyncFn(&Stored) -> Result<()>) -> Result<()> {
    let addresses = if named.is_empty() { all_storages(app)? } else { named.to_vec() };
    let mut result = Ok(());
    for address in &addresses {
        match ask(address).await {
            Ok(()) => {}
            Err(Failure::BrokenPipe) => return Err(Failure::BrokenPipe),
            // Asked about all, one that does not exist yet has nothing to tell.
            Err(failure) if named.is_empty() && failure.is_absence() => {
                app.console.note(&failure.to_string());
            }
            Err(failure) => {
                app.console.fail(&failure);
                result = result.and(Err(Failure::Reported(failure.exit())));
            }
        }
    }
    result
}

/// The address of every storage of the configuration, in its order.
fn all_storages(app: &App) -> Result<Vec<Stored>> {
    let plan = app.config.plan()?;
    let address = |name: &str| Stored { name: Some(name.to_owned()), rest: String::new() };
    Ok(plan.names().map(address).collect())
}
