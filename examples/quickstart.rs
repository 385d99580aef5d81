//! Copies a real folder into storages named in YAML, lists it, reads it back and verifies every checksum.
//!
//! `cargo run --example quickstart` takes the sources of persist itself; `cargo run --example quickstart -- FOLDER`
//! takes any folder. What it stores stays in `./data/quickstart`, for you to look at.
#![allow(clippy::print_stdout)] // Output is what an example is for.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use persist::{BaseStorage, ErrorKind, Key, ListOptions, StorageManager, StoreItem, StoreOptions, Value};

/// The configuration that the example runs on; the same file that the tests open.
const CONFIG: &str = include_str!("../config/quickstart.yaml");

/// How many files are stored together: their syncs are shared.
const BATCH: usize = 256;

/// A file of the folder and the key it is stored under.
struct Source {
    path: PathBuf,
    key: Key,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = match std::env::args_os().nth(1) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")),
    };
    let manager = StorageManager::from_yaml(CONFIG).await?;
    let files = manager.storage("files")?;

    let sources = sources(&folder)?;
    println!("{} files found in {}", sources.len(), folder.display());
    let bytes = store(&*files, &sources).await?;
    let listed = list(&*files).await?;
    let checked = compare(&*files, &sources).await?;
    verify(&*files).await?;
    counts(&manager, &sources).await?;
    manager.close().await?;

    if listed < checked {
        return Err(format!("{listed} keys were listed, but {checked} files were stored").into());
    }
    println!("\nEverything stored was listed, read back and verified: {checked} files, {}.", size(bytes));
    println!("Look at it with your own tools: ls -R data/quickstart/files");
    Ok(())
}

/// The regular files below a folder, without links, hidden folders and build output.
fn sources(folder: &Path) -> Result<Vec<Source>, Box<dyn Error>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).map_err(|error| format!("{}: {error}", next.display()))? {
            let entry = entry?;
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            let skipped = name == "target" || name == "data" || name.as_encoded_bytes().starts_with(b".");
            if kind.is_dir() && !skipped {
                folders.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                let text = path.strip_prefix(folder)?.to_str().ok_or("a file name is not UTF-8")?.to_owned();
                found.push(Source { path, key: Key::new(text)? });
            }
        }
    }
    Ok(found)
}

/// JSON files become JSON values, so that what is stored stays readable; everything else is bytes.
fn value(source: &Source) -> Result<Value, Box<dyn Error>> {
    let bytes = std::fs::read(&source.path)?;
    if source.key.ends_with(".json")
        && let Ok(json) = Value::json_text(bytes.clone())
    {
        return Ok(json);
    }
    Ok(Value::bytes(bytes))
}

async fn store(storage: &dyn BaseStorage, sources: &[Source]) -> Result<u64, Box<dyn Error>> {
    let started = Instant::now();
    let mut bytes = 0;
    for batch in sources.chunks(BATCH) {
        let mut items = Vec::with_capacity(batch.len());
        for source in batch {
            let options = StoreOptions::new().tag("from", source.path.to_string_lossy());
            items.push(StoreItem { key: source.key.clone(), value: value(source)?, options });
        }
        for stored in storage.store_many(items).await {
            bytes += stored?.size;
        }
    }
    println!("stored    {} in {:.2?}, each file forced to the disk", size(bytes), started.elapsed());
    Ok(bytes)
}

async fn list(storage: &dyn BaseStorage) -> Result<usize, Box<dyn Error>> {
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = storage.list_keys("", ListOptions::new().after(after).limit(100)).await?;
        listed.extend(page.keys);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    println!("listed    {} keys in byte order, a page of 100 at a time:", listed.len());
    for key in listed.iter().take(3) {
        println!("            {key}");
    }
    println!("            …");
    Ok(listed.len())
}

/// Reads every value back and compares it with the file it came from.
async fn compare(storage: &dyn BaseStorage, sources: &[Source]) -> Result<usize, Box<dyn Error>> {
    let started = Instant::now();
    for source in sources {
        let Some(entry) = storage.retrieve(&source.key).await? else {
            return Err(format!("{} is not there", source.key).into());
        };
        if entry.value != value(source)? || entry.metadata.checksum != entry.value.checksum() {
            return Err(format!("{} came back changed", source.key).into());
        }
    }
    println!("read back {} values, the same to the byte, in {:.2?}", sources.len(), started.elapsed());
    Ok(sources.len())
}

async fn verify(storage: &dyn BaseStorage) -> Result<(), Box<dyn Error>> {
    let report = storage.verify().await?;
    if let Some(problem) = report.problems.first() {
        return Err(format!("{}: {}", ErrorKind::Corruption, problem.message).into());
    }
    println!("verified  {} checksums over {}, no problem", report.checked, size(report.bytes));
    Ok(())
}

/// Counts the files by ending in a cache, which the same YAML names: another storage, the same calls.
async fn counts(manager: &StorageManager, sources: &[Source]) -> Result<(), Box<dyn Error>> {
    use persist::StorageExt;
    let cache = manager.storage("cache")?;
    for source in sources {
        let ending = source.path.extension().and_then(|ending| ending.to_str()).unwrap_or("none");
        cache.update(format!("ending/{ending}"), |count: Option<u64>| count.unwrap_or(0) + 1).await?;
    }
    let rust = cache.get::<u64>("ending/rs").await?.unwrap_or(0);
    println!("counted   {rust} of them are Rust sources (kept in the storage `cache`)");
    Ok(())
}

fn size(bytes: u64) -> String {
    if bytes < 10_000 { format!("{bytes} bytes") } else { format!("{:.1} MB", bytes as f64 / 1e6) }
}
