use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use futures_util::StreamExt;
use persist_core::{BaseStorage, Key, ListOptions, MAX_PAGE, Metadata};
use serde_json::json;

use crate::address::Stored;
use crate::app::App;
use crate::exit::{Failure, Result};
use crate::storages::Access;
use crate::text::{count, key_line};

/// How many metadata are asked for at once.
const AT_ONCE: usize = 32;

/// List keys in the order of their bytes
///
/// The part after the colon is a literal prefix: main:a lists a, a/b and ab. Keys are printed one a line as they come,
/// however many there are; a key that is not one plain line is quoted with JSON's escapes. --json and -0 give every
/// key exactly.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// The storage and a prefix [default: the routes and the default storage]
    #[arg(value_name = "NAME:PREFIX", default_value = ":", hide_default_value = true,
          value_parser = OsStringValueParser::new().try_map(Stored::parse))]
    address: Stored,
    /// Kind, size, time of the last change and of expiry before each key
    #[arg(short, long)]
    long: bool,
    /// At most this many keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Only keys after this one, which need not exist
    #[arg(long, value_name = "KEY", allow_hyphen_values = true)]
    after: Option<Key>,
    /// End each key with a NUL instead of a newline, for xargs -0
    #[arg(short = '0', long, conflicts_with_all = ["long", "json"])]
    print0: bool,
}

impl Ls {
    pub(crate) async fn run(mut self, app: &App) -> Result<()> {
        let (storage, _) = app.stored(&self.address, Access::Read).await?;
        let mut left = self.limit.unwrap_or(u64::MAX);
        let mut after = self.after.take();
        loop {
            let limit = usize::try_from(left).unwrap_or(usize::MAX).min(MAX_PAGE);
            let options = ListOptions::new().after(after).limit(limit);
            let page = storage.list_keys(&self.address.rest, options).await?;
            self.print(app, storage.as_ref(), &page.keys).await?;
            // Whoever reads may want this page only.
            app.out.flush()?;
            left = left.saturating_sub(page.keys.len() as u64);
            match page.next {
                Some(next) if left == 0 => return say_more(app, &next),
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn print(&self, app: &App, storage: &dyn BaseStorage, keys: &[Key]) -> Result<()> {
        if !self.long {
            return keys.iter().try_for_each(|key| self.print_key(app, key));
        }
        let asked = keys.iter().map(|key| async move { (key, storage.metadata(key).await) });
        let mut answers = futures_util::stream::iter(asked).buffered(AT_ONCE);
        while let Some((key, metadata)) = answers.next().await {
            // What was deleted since the page was read is not listed.
            if let Some(metadata) = metadata? {
                print_long(app, key, &metadata)?;
            }
        }
        Ok(())
    }

    fn print_key(&self, app: &App, key: &Key) -> Result<()> {
        if self.print0 {
            app.out.bytes(key.as_bytes())?;
            return app.out.bytes(b"\0");
        }
        app.out.either(&json!({ "key": key }), || key_line(key))
    }
}

fn print_long(app: &App, key: &Key, metadata: &Metadata) -> Result<()> {
    app.out.either(&json!({ "key": key, "metadata": metadata }), || {
        let expires = metadata.expires_at.map_or_else(|| "-".to_owned(), |time| time.to_string());
        let (kind, size, modified) = (metadata.kind.as_str(), count(metadata.size), metadata.modified_at);
        format!("{kind:<5} {size:>15} {modified} {expires:<24} {}", key_line(key))
    })
}

fn say_more(app: &App, next: &Key) -> Result<()> {
    if app.out.is_json() {
        return app.out.json(&json!({ "next": next }));
    }
    app.console.note(&format!("there are more keys; go on with --after {}", key_line(next)));
    Ok::<(), Failure>(())
}
