//! Every byte of small packs is flipped, and every length of them tried: each value is right or an error says that it is
//! damaged, an opening that is refused says so, and `verify` finds what was flipped.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use persist_core::{
    BaseStorage, DeleteOptions, ErrorKind, HumanDuration, Key, ListOptions, OpenContext, StorageError,
    StoreOptions, Value,
};
use persist_pack::{PackConfig, PackStorage};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn config(folder: &Path, pack_size: u64) -> PackConfig {
    let mut config = PackConfig::new(folder).pack_size(pack_size);
    config.lock_timeout = HumanDuration(std::time::Duration::from_secs(1));
    config
}

async fn open(config: PackConfig) -> Result<PackStorage, StorageError> {
    PackStorage::open("packs", config, &OpenContext::default()).await
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

/// A folder of packs, and what is in it.
struct Original {
    place: tempfile::TempDir,
    values: BTreeMap<String, Value>,
    folder: PathBuf,
}

impl Original {
    fn make(pack_size: u64) -> Self {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("packs");
        let mut values = BTreeMap::new();
        runtime().block_on(async {
            let storage = open(config(&folder, pack_size)).await.unwrap();
            for at in 0..9_u8 {
                let text = format!("{{\"number\": {at}, \"text\": \"{}\"}}", "again and ".repeat(20));
                let value = match at % 3 {
                    0 => Value::json_text(text).unwrap(),
                    1 => Value::bytes(vec![at; 30]),
                    _ => Value::bytes(text.into_bytes()),
                };
                let name = format!("key/{at}");
                storage.store(&key(&name), value.clone(), StoreOptions::new().tag("at", "x")).await.unwrap();
                values.insert(name, value);
            }
            // The same value again, another one over an old one, one that is gone, one with a new expiry.
            storage.store(&key("same"), values["key/2"].clone(), StoreOptions::new()).await.unwrap();
            values.insert("same".to_owned(), values["key/2"].clone());
            storage.store(&key("key/1"), values["key/4"].clone(), StoreOptions::new()).await.unwrap();
            values.insert("key/1".to_owned(), values["key/4"].clone());
            storage.delete(&key("key/3"), DeleteOptions::new()).await.unwrap();
            values.remove("key/3");
            storage.touch(&key("key/5"), persist_core::Expiry::Never).await.unwrap();
            storage.close().await.unwrap();
        });
        Self { place, values, folder }
    }

    fn packs(&self) -> Vec<PathBuf> {
        let mut packs: Vec<PathBuf> =
            fs::read_dir(&self.folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        packs.retain(|path| path.extension().is_some_and(|ending| ending == "pack"));
        packs.sort();
        packs
    }

    /// A copy of the folder with one file changed.
    fn with(&self, pack: &Path, bytes: &[u8]) -> PathBuf {
        let copy = self.place.path().join("copy");
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(&self.folder).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        fs::write(copy.join(pack.file_name().unwrap()), bytes).unwrap();
        copy
    }
}

/// What became of a changed pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Every value is right, and `verify` finds nothing.
    Unseen,
    /// Every value is right, and `verify` says that something is wrong.
    Found,
    /// A value is damaged, and says so.
    Damaged,
    /// It is not opened.
    Refused,
}

async fn judge(folder: &Path, original: &Original, read_only: bool) -> Result<Verdict, String> {
    let mut config = config(folder, 1 << 30);
    config.read_only = read_only;
    let storage = match open(config).await {
        Ok(storage) => storage,
        Err(error) if error.kind() == ErrorKind::Corruption => return Ok(Verdict::Refused),
        Err(error) => return Err(format!("open: {}: {error}", error.kind())),
    };
    let mut damaged = false;
    for name in (0..9).map(|at| format!("key/{at}")).chain(["same".to_owned(), "none".to_owned()]) {
        match storage.retrieve(&key(&name)).await {
            Ok(found) if found.as_ref().map(|entry| &entry.value) == original.values.get(&name) => {}
            Ok(found) => return Err(format!("{name}: {found:?}")),
            Err(error) if error.kind() == ErrorKind::Corruption => damaged = true,
            Err(error) => return Err(format!("{name}: {}: {error}", error.kind())),
        }
    }
    match storage.list_keys("", ListOptions::new()).await {
        Ok(page) if page.keys.iter().map(Key::as_str).eq(original.values.keys().map(String::as_str)) => {}
        Ok(page) => return Err(format!("listed: {:?}", page.keys)),
        Err(error) if error.kind() == ErrorKind::Corruption => damaged = true,
        Err(error) => return Err(format!("list: {}: {error}", error.kind())),
    }
    let clean = storage.verify().await.map_err(|error| error.to_string())?.is_clean();
    storage.close().await.map_err(|error| error.to_string())?;
    match (damaged, clean) {
        (true, true) => Err("a value is damaged, and verify finds nothing".to_owned()),
        (true, false) => Ok(Verdict::Damaged),
        (false, false) => Ok(Verdict::Found),
        (false, true) => Ok(Verdict::Unseen),
    }
}

fn count(verdicts: &[Verdict], wanted: Verdict) -> usize {
    verdicts.iter().filter(|verdict| **verdict == wanted).count()
}

/// The packs of a folder whose last change filled a pack: all of them are sealed.
fn sealed() -> Original {
    let original = Original::make(1024);
    assert!(original.packs().len() >= 3, "{:?}", original.packs());
    original
}

/// A folder with a single pack that is not sealed.
fn log() -> Original {
    let original = Original::make(1 << 30);
    assert_eq!(original.packs().len(), 1);
    original
}

fn flip_each_byte(original: &Original, read_only: bool) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for pack in original.packs() {
        let good = fs::read(&pack).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            let folder = original.with(&pack, &bad);
            let verdict = runtime().block_on(judge(&folder, original, read_only));
            verdicts.push(verdict.unwrap_or_else(|what| panic!("{} byte {at}: {what}", pack.display())));
        }
    }
    verdicts
}

#[test]
fn every_flipped_byte_of_sealed_packs_is_found() {
    let original = sealed();
    let verdicts = flip_each_byte(&original, true);
    assert_eq!(count(&verdicts, Verdict::Unseen), 0, "every byte of a sealed pack is covered");
    assert!(count(&verdicts, Verdict::Found) > 0 && count(&verdicts, Verdict::Damaged) > 0);
}

#[test]
fn every_flipped_byte_of_a_log_is_found() {
    let original = log();
    let verdicts = flip_each_byte(&original, false);
    // Records that are dead are not looked at before the log is sealed.
    let unseen = count(&verdicts, Verdict::Unseen);
    assert!(unseen < verdicts.len() / 5, "{unseen} of {}", verdicts.len());
    assert!(count(&verdicts, Verdict::Refused) > 0 && count(&verdicts, Verdict::Damaged) > 0);
}

#[test]
fn every_cut_is_found() {
    for original in [sealed(), log()] {
        let is_log = original.packs().len() == 1;
        for pack in original.packs() {
            let good = fs::read(&pack).unwrap();
            for len in 0..good.len() {
                let folder = original.with(&pack, &good[..len]);
                let verdict = runtime().block_on(judge(&folder, &original, false));
                let verdict =
                    verdict.unwrap_or_else(|what| panic!("{} cut to {len}: {what}", pack.display()));
                // What is cut behind the log alone can be made anew.
                assert!(
                    verdict == Verdict::Refused || !is_log,
                    "{} cut to {len}: {verdict:?}",
                    pack.display()
                );
            }
        }
    }
}

#[test]
fn a_pack_that_is_missing_is_told() {
    let original = sealed();
    for pack in original.packs() {
        let folder = original.with(&pack, b"");
        fs::remove_file(folder.join(pack.file_name().unwrap())).unwrap();
        let error = runtime().block_on(open(config(&folder, 1024))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
        assert!(error.message().contains("is missing"), "{error}");
    }
}

#[test]
fn packs_under_the_name_of_another_are_told() {
    let original = sealed();
    let packs = original.packs();
    let folder = original.with(&packs[0], &fs::read(&packs[1]).unwrap());
    let error = runtime().block_on(open(config(&folder, 1024))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption, "{error}");
    assert!(error.message().contains("give it its name back"), "{error}");
}
