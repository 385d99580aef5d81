use std::path::{Path, PathBuf};

use clap::Args;
use persist_pack::Proof;
use persist_pack::merkle::Hash;
use serde_json::json;

use super::parse_root;
use crate::app::App;
use crate::exit::Result;
use crate::local_file::LocalFile;
use crate::text;

/// The longest proof that is read.
const MAX_PROOF: u64 = 1 << 20;

/// Check a proof, without the pack (exit code 5 if it does not hold)
#[derive(Debug, Args)]
pub(super) struct CheckProof {
    /// What `prove` printed
    #[arg(value_name = "PROOF")]
    proof: PathBuf,
    /// The root that you know; without it the proof is only checked in itself
    #[arg(long, value_name = "HEX", value_parser = parse_root)]
    root: Option<Hash>,
    /// A file that must hold what the entry holds
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
}

impl CheckProof {
    pub(super) fn run(self, app: &App) -> Result<()> {
        let read = |path: &Path, limit| LocalFile::named(path).read(limit);
        let proof = Proof::from_json(&read(&self.proof, MAX_PROOF)?)?;
        proof.check(self.root.as_ref())?;
        if let Some(data) = &self.data {
            proof.check_data(&read(data, u64::MAX)?)?;
        }
        let answer = json!({ "holds": true, "item": proof.item, "root": proof.root, "root_given": self.root.is_some() });
        app.out.either(&answer, || {
            format!("{} is in the pack with the root {}", text::key_line(&proof.item.path), proof.root)
        })?;
        if self.root.is_none() {
            app.out.flush()?;
            app.console.note("the root was taken from the proof; give the one that you know with --root");
        }
        Ok(())
    }
}
