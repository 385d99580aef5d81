use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, ValueEnum};
use persist_core::StorageExt;
use persist_pack::{Built, Compression, PackBuilder, SigningKey};
use serde_json::json;

use super::contents::{self, Source};
use super::{hex, secret_key};
use crate::address::Address;
use crate::app::App;
use crate::exit::Result;
use crate::text;

/// Make a pack of a folder or a storage: the same content gives the same bytes
#[derive(Debug, Args)]
pub(super) struct Build {
    /// A folder, a storage, or a part of one
    #[arg(value_name = "SOURCE", value_parser = OsStringValueParser::new().try_map(Address::parse))]
    source: Address,
    /// Where the pack goes, over one that may be there
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// How values are packed
    #[arg(long, value_name = "CODEC", default_value = "none")]
    compression: Codec,
    /// Sign it with the secret key in this file
    #[arg(long, value_name = "KEYFILE")]
    sign: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Codec {
    None,
    Deflate,
    Zstd,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Deflate => Self::Deflate,
            Codec::Zstd => Self::Zstd,
        }
    }
}

impl Build {
    pub(super) async fn run(self, app: &App) -> Result<()> {
        let key = self.sign.as_deref().map(secret_key).transpose()?;
        let source = Source::open(app, &self.source).await?;
        let built = self.build(app, source, key).await?;
        let answer = json!({
            "pack": self.output,
            "values": built.items,
            "bytes": built.bytes,
            "size": built.file_bytes,
            "root": hex(&built.root),
        });
        app.out.either(&answer, || {
            let (values, size) = (text::things(built.items, "value"), text::size(built.bytes));
            format!("{}: {values}, {size}, root {}", self.output.display(), hex(&built.root))
        })
    }

    async fn build(&self, app: &App, source: Source, key: Option<SigningKey>) -> Result<Built> {
        let progress = app.console.progress("packing");
        let compression = self.compression.into();
        match source {
            Source::Folder(root) => {
                let files = contents::files(app, &root)?;
                let output = self.output.clone();
                super::blocking(move || {
                    let mut builder = PackBuilder::create(&output, compression)?;
                    for (key, file) in files {
                        let value = contents::value(&file)?;
                        builder.add_value(&key, &value, None, Default::default(), Vec::new())?;
                        progress.step(value.size());
                    }
                    Ok(builder.finish(key.as_ref())?)
                })
                .await
            }
            Source::Pack(archive) => {
                let output = self.output.clone();
                super::blocking(move || {
                    let mut builder = PackBuilder::create(&output, compression)?;
                    for (key, _) in archive.items()? {
                        let Some(entry) = archive.read(&key)? else { continue };
                        builder.add(&key, &entry)?;
                        progress.step(entry.metadata.size);
                    }
                    Ok(builder.finish(key.as_ref())?)
                })
                .await
            }
            Source::Stored { storage, prefix } => {
                let mut builder = PackBuilder::create(&self.output, compression)?;
                let mut keys = std::pin::pin!(storage.keys(&prefix));
                while let Some(found) = futures_util::StreamExt::next(&mut keys).await {
                    let found = found?;
                    // `None`: deleted or expired since the page was read.
                    let Some(entry) = storage.retrieve(&found).await? else { continue };
                    builder.add(&found, &entry)?;
                    progress.step(entry.metadata.size);
                }
                Ok(builder.finish(key.as_ref())?)
            }
        }
    }
}
