use std::path::PathBuf;

use clap::Args;
use persist_core::{ByteSize, Key};
use persist_pack::Selection;
use serde_json::json;

use super::{PackFile, open, public_key};
use crate::app::App;
use crate::exit::Result;
use crate::text;

/// Unpack a pack, or a part of it, into a new folder: whole or not at all
///
/// Every value is checked, nothing is written outside of the folder, and keys that cannot be names of files everywhere get
/// an escaped name under .persist/keys/.
#[derive(Debug, Args)]
pub(super) struct Extract {
    #[command(flatten)]
    file: PackFile,
    /// A folder that is not there yet, or empty
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Only this key
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    entry: Option<Key>,
    /// The most that may be written
    #[arg(long, value_name = "SIZE", default_value = "64GiB")]
    limit: ByteSize,
    /// It must be signed with this public key, or the one in this file
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

impl Extract {
    fn selection(&self) -> Selection {
        match (&self.entry, &self.prefix) {
            (Some(key), _) => Selection::Entry(key.clone()),
            (None, Some(prefix)) => Selection::Prefix(prefix.clone()),
            (None, None) => Selection::All,
        }
    }

    pub(super) async fn run(self, app: &App) -> Result<()> {
        let key = self.key.as_deref().map(public_key).transpose()?;
        let selection = self.selection();
        let progress = app.console.progress("unpacking");
        let (path, folder, limit) = (self.file.pack.clone(), self.folder.clone(), self.limit.0);
        let done = super::blocking(move || {
            let archive = open(&path)?;
            // Before anything of the content is looked at.
            archive.check_signature(key.as_ref())?;
            Ok(archive.extract(&selection, &folder, limit, |bytes| progress.step(bytes))?)
        })
        .await?;
        let answer = json!({
            "folder": self.folder,
            "files": done.files,
            "bytes": done.bytes,
            "escaped": done.escaped,
        });
        app.out.either(&answer, || {
            let (files, size) = (text::things(done.files, "file"), text::size(done.bytes));
            format!("{}: {files}, {size}", self.folder.display())
        })?;
        if done.escaped > 0 {
            let files = text::things(done.escaped, "key");
            app.console.note(&format!("{files} cannot be names of files and lie under .persist/keys/"));
        }
        Ok(())
    }
}
