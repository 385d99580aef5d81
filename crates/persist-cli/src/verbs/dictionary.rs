use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use futures_util::{StreamExt, TryStreamExt, stream};
use persist_core::{ByteSize, Key, StorageError, StorageExt};
use persist_manager::train_dictionary;
use serde_json::json;

use crate::address::Stored;
use crate::app::App;
use crate::args::Jobs;
use crate::exit::{Failure, Result};
use crate::local_file::LocalFile;
use crate::storages::Access;
use crate::text;

/// So much of a value is looked at; the rest teaches little, because zstd needs no dictionary for long values.
const SAMPLE: usize = 64 << 10;

/// So many times its own size of samples a dictionary is trained from.
const SAMPLES: usize = 100;

/// Train a dictionary for the compress layer from stored values
///
/// Small values of one kind, a few hundred bytes each, become a half or a third of what zstd makes of them alone. The
/// file goes into `dictionaries` of the layer. Keep it: what it compressed cannot be read without it, so a file that
/// exists is never replaced.
#[derive(Debug, Args)]
pub(crate) struct Dictionary {
    /// The storage, and a literal prefix of the values to learn from
    #[arg(value_name = "NAME:PREFIX", value_parser = OsStringValueParser::new().try_map(Stored::parse))]
    address: Stored,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// The most bytes that it may have
    #[arg(short, long, default_value = "110KiB")]
    size: ByteSize,
    #[command(flatten)]
    jobs: Jobs,
}

impl Dictionary {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let file = LocalFile::named(&self.output);
        if self.output.try_exists().unwrap_or(true) {
            let name = self.output.display();
            return Err(Failure::usage(format!(
                "{name} exists, and values may need it; name another file, and list both in `dictionaries`"
            )));
        }
        let (storage, _) = app.stored(&self.address, Access::Read).await?;
        let keys: Vec<Key> = storage.keys(&self.address.rest).try_collect().await?;
        let size = usize::try_from(self.size.0).unwrap_or(usize::MAX);
        let enough = size.saturating_mul(SAMPLES);
        let progress = app.console.progress("reading");
        let storage = &storage;
        let values = stream::iter(spread(keys.len()).map(|at| &keys[at]))
            .map(async |key| storage.retrieve(key).await.map_err(Failure::from))
            .buffered(self.jobs.jobs);
        let mut values = std::pin::pin!(values);
        let (mut samples, mut bytes) = (Vec::<Bytes>::new(), 0);
        while bytes < enough
            && let Some(found) = values.next().await
        {
            // One that was deleted meanwhile teaches nothing.
            let Some(entry) = found? else { continue };
            let whole = entry.value.buffer();
            let sample = whole.slice(..whole.len().min(SAMPLE));
            bytes += sample.len();
            progress.step(sample.len() as u64);
            samples.push(sample);
        }
        let count = samples.len() as u64;
        let trained = tokio::task::spawn_blocking(move || train_dictionary(&samples, size)).await;
        let dictionary = trained.map_err(StorageError::broken_task)??;
        file.write(&[&dictionary], true)?;
        let written = dictionary.len() as u64;
        let answer = json!({ "file": self.output.display().to_string(), "bytes": written, "samples": count });
        app.out.either(&answer, || {
            let (size, samples) = (text::size(written), text::things(count, "value"));
            format!("{}: {size}, learned from {samples}", self.output.display())
        })
    }
}

/// All places in an order of which every beginning is spread over the whole: multiples of the golden ratio.
fn spread(count: usize) -> impl Iterator<Item = usize> {
    let divides = |mut one: usize, mut other: usize| {
        while other > 0 {
            (one, other) = (other, one % other);
        }
        one > 1
    };
    let mut step = count * 618 / 1000 + 1;
    while count > 1 && divides(step, count) {
        step += 1;
    }
    (0..count).map(move |number| (number as u128 * step as u128 % count as u128) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_comes_once_and_the_first_are_far_apart() {
        for count in [0, 1, 2, 3, 10, 97, 1_000, 1_024] {
            let mut places: Vec<usize> = spread(count).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..count), "{count}");
        }
        let mut first: Vec<usize> = spread(1_000).take(10).collect();
        first.sort_unstable();
        assert!(first.windows(2).all(|pair| pair[1] - pair[0] > 40), "{first:?}");
    }
}
