use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use persist_core::{Condition, Kind, Version};
use serde_json::json;

use crate::address::{Address, KeyAddress};
use crate::app::App;
use crate::args::{DryRun, ExpiryArgs, KindArgs, TagArgs};
use crate::exit::{Failure, Result};
use crate::local_file::LocalFile;
use crate::spot::{Piece, Reading, Spot, State, StoredKey};
use crate::storages::Access;
use crate::text;
use crate::value_form;

/// Store a value from a file, from standard input or from the command line
///
/// The kind is what --as says. Without it the extension of FILE tells: .json is JSON, .npy is an array, all others
/// are bytes; standard input and --value are bytes. Storing without --ttl ends an earlier expiry.
#[derive(Debug, Args)]
pub(crate) struct Put {
    /// The key
    #[arg(value_name = "NAME:KEY", value_parser = OsStringValueParser::new().try_map(KeyAddress::parse))]
    address: KeyAddress,
    /// The file to read; - or nothing is standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The value itself
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    value: Option<String>,
    #[command(flatten)]
    kind: KindArgs,
    #[command(flatten)]
    expiry: ExpiryArgs,
    #[command(flatten)]
    tags: TagArgs,
    /// Store only if the key is absent
    #[arg(long, conflicts_with = "if_version")]
    if_absent: bool,
    /// Store only over this version
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    #[command(flatten)]
    dry: DryRun,
}

impl Put {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        // A rehearsal must leave no trace, not even of having opened a storage for the first time.
        let place = app.key(&self.address, Access::writing(self.dry.dry_run)).await?;
        let mut piece = self.read(&place).await?;
        piece.expiry = self.expiry.expiry().unwrap_or_default();
        piece.tags = self.tags.clone().tags();
        if self.dry.dry_run {
            return self.rehearse(app, &place, &piece).await;
        }
        self.warn_if_fleeting(app, &place);
        let target = Spot::Key(place.clone());
        let metadata = target.write(&piece, self.condition(), false, &app.out).await?;
        if app.out.is_json() {
            let storage = place.storage.describe().name();
            return app.out.json(&json!({ "storage": storage, "key": place.key, "metadata": metadata }));
        }
        app.console.note(&format!("stored {} as {}", self.address, what(&piece)));
        Ok(())
    }

    async fn read(&self, place: &StoredKey) -> Result<Piece> {
        let kind = self.kind.kind();
        if let Some(text) = &self.value {
            let value = value_form::parse(text.clone().into(), kind.unwrap_or(Kind::Bytes))?;
            return Ok(Piece::new(value, State::Stream));
        }
        let source = match &self.file {
            Some(path) => match Address::parse(path.clone().into_os_string()).map_err(Failure::usage)? {
                Address::Stdio => Spot::Stdio,
                Address::Local(path) => Spot::File(LocalFile::named(path)),
                Address::Stored(stored) => {
                    return Err(Failure::usage(format!(
                        "{stored} is no file; copy between storages with cp, or write ./{}",
                        path.display()
                    )));
                }
            },
            None => Spot::Stdio,
        };
        let reading = Reading { kind, lenient: false, limit: place.storage.describe().max_value_bytes() };
        source
            .read(reading)
            .await?
            .ok_or_else(|| Failure::absent(format!("there is nothing at {}", source.show())))
    }

    fn condition(&self) -> Condition {
        match (self.if_absent, self.if_version) {
            (true, _) => Condition::IfAbsent,
            (_, Some(version)) => Condition::IfVersion(Version::from_u64(version)),
            _ => Condition::None,
        }
    }

    async fn rehearse(&self, app: &App, place: &StoredKey, piece: &Piece) -> Result<()> {
        let current = place.storage.metadata(&place.key).await?;
        self.condition().check(&place.key, current.as_ref())?;
        let (kind, bytes) = (piece.value.kind(), piece.value.size());
        let answer =
            json!({ "action": "put", "key": place.key, "kind": kind, "size": bytes, "dry_run": true });
        app.out.either(&answer, || format!("put {} as {}", self.address, what(piece)))
    }

    fn warn_if_fleeting(&self, app: &App, place: &StoredKey) {
        let descriptor = place.storage.describe();
        if !descriptor.capabilities().durable {
            app.console.warn(&format!(
                "storage `{}` ({}) lives in memory: the value is gone when this command ends",
                descriptor.name(),
                descriptor.backend()
            ));
        }
    }
}

fn what(piece: &Piece) -> String {
    format!("{}, {}", piece.value.kind(), text::size(piece.value.size()))
}
