use clap::Args;
use persist_core::{Key, escape};

use super::{PackFile, open};
use crate::app::App;
use crate::exit::{Failure, Result};

/// Print the proof that a key is in a pack, which `check-proof` checks without the pack
#[derive(Debug, Args)]
pub(super) struct Prove {
    #[command(flatten)]
    file: PackFile,
    /// The key
    #[arg(value_name = "KEY")]
    key: String,
}

impl Prove {
    pub(super) async fn run(self, app: &App) -> Result<()> {
        let key = Key::new(self.key.as_str())?;
        let path = self.file.pack.clone();
        let proof = super::blocking(move || Ok(open(&path)?.prove(&key)?)).await?;
        let absent =
            || Failure::absent(format!("{} is not in {}", escape(&self.key), self.file.pack.display()));
        app.out.json(&proof.ok_or_else(absent)?)
    }
}
