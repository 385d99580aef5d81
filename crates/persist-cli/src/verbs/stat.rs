use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use persist_core::Metadata;
use serde_json::json;

use crate::address::KeyAddress;
use crate::app::App;
use crate::exit::{Exit, Failure, Result};
use crate::spot::StoredKey;
use crate::storages::Access;
use crate::text::{count, key_line};

/// Show what is known of a key: kind, size, version, times, checksum, tags
#[derive(Debug, Args)]
pub(crate) struct Stat {
    /// The keys
    #[arg(value_name = "NAME:KEY", required = true,
          value_parser = OsStringValueParser::new().try_map(KeyAddress::parse))]
    addresses: Vec<KeyAddress>,
}

impl Stat {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let mut result = Ok(());
        for address in &self.addresses {
            let place = app.key(address, Access::Read).await?;
            match place.storage.metadata(&place.key).await? {
                Some(metadata) => show(app, &place, &metadata)?,
                None => {
                    app.console.fail(&Failure::absent(format!("there is nothing at {address}")));
                    result = Err(Failure::Reported(Exit::Absent));
                }
            }
        }
        result
    }
}

fn show(app: &App, place: &StoredKey, metadata: &Metadata) -> Result<()> {
    let storage = place.storage.describe().name();
    if app.out.is_json() {
        return app.out.json(&json!({ "storage": storage, "key": place.key, "metadata": metadata }));
    }
    let expires = metadata.expires_at.map_or_else(|| "never".to_owned(), |time| time.to_string());
    let mut lines = vec![
        ("key", key_line(&place.key)),
        ("storage", storage.to_owned()),
        ("kind", metadata.kind.to_string()),
        ("size", format!("{} bytes", count(metadata.size))),
        ("version", metadata.version.to_string()),
        ("created", metadata.created_at.to_string()),
        ("modified", metadata.modified_at.to_string()),
        ("expires", expires),
        ("checksum", format!("blake3 {}", metadata.checksum)),
    ];
    lines.extend(metadata.tags.iter().map(|(name, text)| ("tag", key_line(&format!("{name}={text}")))));
    lines.extend(metadata.encodings.iter().map(|encoding| ("encoding", key_line(encoding))));
    lines.iter().try_for_each(|(what, text)| app.out.line(&format!("{what:<9} {text}")))
}
