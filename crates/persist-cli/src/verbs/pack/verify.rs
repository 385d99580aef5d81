use clap::Args;
use persist_pack::merkle::Hash;
use serde_json::json;

use super::{PackFile, hex, open, parse_root, public_key};
use crate::app::App;
use crate::exit::{Exit, Failure, Result};
use crate::text;

/// Read everything in a pack and check it against its hashes, its root and its signature
///
/// Added, missing, changed and reordered entries are found, in the manifest and in the directory too. Ends with exit code
/// 5 if anything is wrong.
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    file: PackFile,
    /// It must be signed with this public key, or the one in this file
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// It must have this root
    #[arg(long, value_name = "HEX", value_parser = parse_root)]
    root: Option<Hash>,
}

impl Verify {
    pub(super) async fn run(self, app: &App) -> Result<()> {
        let key = self.key.as_deref().map(public_key).transpose()?;
        let progress = app.console.progress("verifying");
        let (path, root) = (self.file.pack.clone(), self.root);
        let found = super::blocking(move || {
            let archive = open(&path)?;
            if let Some(root) = root {
                archive.check_root(&root)?;
            }
            Ok(archive.verify(key.as_ref(), |bytes| progress.step(bytes))?)
        })
        .await?;
        let signed_by = found.signed_by.map(|key| key.to_string());
        let answer = json!({
            "pack": self.file.pack,
            "clean": found.problems.is_empty(),
            "checked": found.checked,
            "bytes": found.bytes,
            "root": hex(&found.root),
            "signed_by": signed_by,
            "problems": found.problems,
        });
        app.out.either(&answer, || {
            let (values, size) = (text::things(found.checked, "value"), text::size(found.bytes));
            let outcome = match found.problems.len() {
                0 => "all is well".to_owned(),
                count => text::things(count as u64, "problem"),
            };
            let signed =
                signed_by.as_ref().map_or_else(|| "not signed".to_owned(), |key| format!("signed by {key}"));
            format!("{}: {values} ({size}) read and checked, {signed}: {outcome}", self.file.pack.display())
        })?;
        if found.problems.is_empty() {
            return Ok(());
        }
        if !app.out.is_json() {
            for problem in &found.problems {
                app.out.line(&format!("  {}: {}", problem.kind, problem.message))?;
            }
        }
        Err(Failure::Reported(Exit::Corruption))
    }
}
