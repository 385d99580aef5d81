use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use persist_pack::SigningKey;
use serde_json::json;

use crate::app::App;
use crate::exit::{Failure, Result};

/// Make a key to sign with: the secret goes into a new file, the public key is printed
#[derive(Debug, Args)]
pub(super) struct Keygen {
    /// A file that is not there yet; only its owner may read it
    #[arg(value_name = "KEYFILE")]
    file: PathBuf,
}

impl Keygen {
    pub(super) fn run(self, app: &App) -> Result<()> {
        let key = SigningKey::generate()?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        let written = options.open(&self.file).and_then(|mut file| {
            file.write_all(key.to_text().as_bytes())?;
            file.sync_all()
        });
        written.map_err(|error| Failure::io("write the key to", &self.file, &error))?;
        let public = key.public_key().to_string();
        app.out.either(&json!({ "file": self.file, "public_key": public }), || public.clone())
    }
}
