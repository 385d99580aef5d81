use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use persist_core::{Event, StorageExt};
use serde_json::{Value, json};

use crate::address::Stored;
use crate::app::App;
use crate::exit::{Failure, Result};
use crate::storages::Access;
use crate::text::{count, key_line};

/// Show changes as they take place, until it is interrupted
///
/// One line for each event: stored or deleted, and the key. "lost" says that events may have been missed: list again. A
/// storage that cannot tell what other programs change is listed at the start and whenever it has changed, and compared.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The storage and a prefix [default: the routes and the default storage]
    #[arg(value_name = "NAME:PREFIX", default_value = ":", hide_default_value = true,
          value_parser = OsStringValueParser::new().try_map(Stored::parse))]
    address: Stored,
    /// End after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl Watch {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let (storage, _) = app.stored(&self.address, Access::Read).await?;
        let mut watch = match storage.describe().capabilities().native_watch {
            true => storage.watch(&self.address.rest).await?,
            false => storage.follow(&self.address.rest).await?,
        };
        app.console.note(&format!("watching {}", self.address));
        let mut left = self.limit.unwrap_or(u64::MAX);
        while left > 0 {
            match watch.next().await {
                Some(Ok(event)) => show(app, &event)?,
                Some(Err(error)) => {
                    app.console.warn(&format!("{error}; the watch goes on"));
                    continue;
                }
                None => return Err(Failure::new("the storage was closed")),
            }
            left -= 1;
        }
        Ok(())
    }
}

/// One event, at once: whoever reads waits for it.
fn show(app: &App, event: &Event) -> Result<()> {
    app.out.either(&object(event), || line(event))?;
    app.out.flush()
}

fn object(event: &Event) -> Value {
    match event {
        Event::Stored { key, metadata } => json!({ "event": "stored", "key": key, "metadata": metadata }),
        Event::Deleted { key } => json!({ "event": "deleted", "key": key }),
        Event::Lost => json!({ "event": "lost" }),
    }
}

fn line(event: &Event) -> String {
    match event {
        Event::Stored { key, metadata } => {
            let (kind, size) = (metadata.kind.as_str(), count(metadata.size));
            format!("stored  {kind:<5} {size:>15} {} {}", metadata.modified_at, key_line(key))
        }
        Event::Deleted { key } => format!("deleted {:46} {}", "", key_line(key)),
        Event::Lost => "lost".to_owned(),
    }
}
