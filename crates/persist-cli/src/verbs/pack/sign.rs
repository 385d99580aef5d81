use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{PackFile, hex, open, secret_key};
use crate::app::App;
use crate::exit::Result;

/// Put a signature into a pack, in place of an earlier one
///
/// The pack is verified first: nothing is signed that is not whole.
#[derive(Debug, Args)]
pub(super) struct Sign {
    #[command(flatten)]
    file: PackFile,
    /// The file with the secret key
    #[arg(long, value_name = "KEYFILE")]
    key: PathBuf,
}

impl Sign {
    pub(super) async fn run(self, app: &App) -> Result<()> {
        let key = secret_key(&self.key)?;
        let public = key.public_key().to_string();
        let path = self.file.pack.clone();
        let root = super::blocking(move || {
            open(&path)?;
            persist_pack::sign(&path, &key)?;
            Ok(hex(&open(&path)?.root()))
        })
        .await?;
        app.out.either(&json!({ "pack": self.file.pack, "root": root, "signed_by": public }), || {
            format!("{}: root {root} signed by {public}", self.file.pack.display())
        })
    }
}
