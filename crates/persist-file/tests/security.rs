//! Keys, links, foreign files, rights and damage: nothing leaves the folder, nothing wrong is returned.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A panic here is the report.

use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use persist_core::{
    BaseStorage, ErrorKind, Key, ListOptions, OpenContext, StorageExt, StoreOptions, Value, verify_values,
};
use persist_file::{FileConfig, FileStorage, MetadataMode};

async fn open(root: &Path) -> FileStorage {
    FileStorage::open("files", FileConfig::new(root), &OpenContext::default()).await.unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn kind(storage: &FileStorage, of: &str) -> ErrorKind {
    storage.retrieve(&key(of)).await.unwrap_err().kind()
}

/// Every file and folder below a folder.
fn tree(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(tree(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}

#[tokio::test]
async fn hostile_keys_stay_below_the_folder() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("a/b/root");
    let storage = open(&root).await;
    let before = tree(place.path()).len();
    for hostile in
        ["../../x", "../../../../../../tmp/x", "/etc/passwd", "a/../../../x", "..", ".", "./..", "C:\\x"]
    {
        storage.put(hostile, &1).await.unwrap();
        assert_eq!(storage.get::<u8>(hostile).await.unwrap(), Some(1));
    }
    let outside = tree(place.path()).into_iter().filter(|path| !path.starts_with(&root)).count();
    assert_eq!(outside, 2, "only the folders above the root");
    assert!(tree(place.path()).len() > before);
}

#[tokio::test]
async fn links_are_never_followed() {
    let place = tempfile::tempdir().unwrap();
    let (root, outside) = (place.path().join("root"), place.path().join("outside"));
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret.json"), "1").unwrap();
    let storage = open(&root).await;
    symlink("../outside", root.join("dir")).unwrap();
    symlink("../outside/secret.json", root.join("file.json")).unwrap();
    assert_eq!(kind(&storage, "dir/secret").await, ErrorKind::Corruption);
    assert_eq!(kind(&storage, "file").await, ErrorKind::Corruption);
    let stored = storage.put("dir/new", &2).await.unwrap_err();
    assert_eq!(stored.kind(), ErrorKind::Corruption, "{stored}");
    assert_eq!(tree(&outside).len(), 1, "nothing was written through the link");
    // A link in the place of a value is replaced, not written through.
    storage.store(&key("file"), Value::json(&3).unwrap(), StoreOptions::new()).await.ok();
    assert_eq!(std::fs::read_to_string(outside.join("secret.json")).unwrap(), "1");
}

#[tokio::test]
async fn what_is_no_regular_file_is_damage_at_once() {
    let place = tempfile::tempdir().unwrap();
    let storage = open(place.path()).await;
    assert!(Command::new("mkfifo").arg(place.path().join("pipe.json")).status().unwrap().success());
    std::fs::create_dir(place.path().join("folder.json")).unwrap();
    assert_eq!(kind(&storage, "pipe").await, ErrorKind::Corruption);
    assert_eq!(kind(&storage, "folder").await, ErrorKind::Corruption);
}

#[tokio::test]
async fn foreign_files_are_ignored_reported_and_kept() {
    let place = tempfile::tempdir().unwrap();
    let storage = open(place.path()).await;
    storage.put("ours", &1).await.unwrap();
    for name in ["README.md", "Upper.json", "a b.json", ".hidden", "x.json.tmp", "plain"] {
        std::fs::write(place.path().join(name), "{}").unwrap();
    }
    let keys = storage.list_keys("", ListOptions::new()).await.unwrap().keys;
    assert_eq!(keys, [key("ours")]);
    let report = storage.verify().await.unwrap();
    assert_eq!((report.checked, report.problems.len()), (1, 6), "{report:?}");
    assert!(report.problems.iter().all(|problem| problem.message.contains("was not made by persist")));
    storage.maintain().await.unwrap();
    assert!(place.path().join("README.md").exists() && place.path().join("x.json.tmp").exists());
}

#[tokio::test]
async fn files_of_other_tools_are_values() {
    let place = tempfile::tempdir().unwrap();
    let storage = open(place.path()).await;
    std::fs::create_dir(place.path().join("conf")).unwrap();
    std::fs::write(place.path().join("conf/app.json"), "{\"port\": 80}").unwrap();
    std::fs::write(place.path().join("blob.bin"), "raw").unwrap();
    std::fs::write(place.path().join("bad.json"), "{not json").unwrap();
    assert_eq!(storage.get::<serde_json::Value>("conf/app").await.unwrap().unwrap()["port"], 80);
    assert_eq!(storage.get_bytes("blob").await.unwrap().unwrap(), "raw");
    assert_eq!(kind(&storage, "bad").await, ErrorKind::Corruption);
    let found = storage.metadata(&key("conf/app")).await.unwrap().unwrap();
    assert_eq!((found.expires_at, found.tags.len(), found.size), (None, 0, 12));
    // A condition holds on them too, and a touch gives them metadata of their own.
    let options = StoreOptions::new().if_version(found.version);
    storage.store(&key("conf/app"), Value::json(&1).unwrap(), options).await.unwrap();
    storage
        .touch(&key("blob"), persist_core::Expiry::After(std::time::Duration::from_secs(60)))
        .await
        .unwrap();
    let touched = storage.retrieve(&key("blob")).await.unwrap().unwrap();
    assert!(touched.metadata.expires_at.is_some() && touched.value.as_bytes().unwrap() == "raw");
}

#[tokio::test]
async fn a_folder_copied_without_attributes_still_reads() {
    let place = tempfile::tempdir().unwrap();
    let (from, to) = (place.path().join("from"), place.path().join("to"));
    let storage = open(&from).await;
    let options = StoreOptions::new().tag("a", "b").ttl(std::time::Duration::from_secs(900));
    storage.put_with("x/y", &"text", options).await.unwrap();
    storage.put_array("n", ndarray()).await.unwrap();
    storage.close().await.unwrap();
    assert!(Command::new("cp").arg("-r").args([&from, &to]).status().unwrap().success());
    let copy = open(&to).await;
    let entry = copy.retrieve(&key("x/y")).await.unwrap().unwrap();
    assert_eq!(entry.to::<String>().unwrap(), "text");
    assert_eq!((entry.metadata.tags.len(), entry.metadata.expires_at), (0, None));
    assert_eq!(copy.get_array::<f64>("n").await.unwrap().unwrap(), ndarray());
    assert!(verify_values(&copy).await.unwrap().is_clean());
}

fn ndarray() -> persist_core::ndarray::ArrayD<f64> {
    persist_core::ndarray::ArrayD::from_shape_vec(vec![2, 2], vec![1.0, 2.0, f64::NAN.abs().min(3.0), 4.0])
        .unwrap()
}

#[tokio::test]
async fn folders_and_files_are_private_unless_configured() {
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("private");
    open(&root).await.put("a/b", &1).await.unwrap();
    assert_eq!(mode(root.clone()), 0o700);
    assert_eq!((mode(root.join("a")), mode(root.join("a/b.json"))), (0o700, 0o600));
    let root = place.path().join("shared");
    let mut config = FileConfig::new(&root);
    config.group_readable = true;
    let storage = FileStorage::open("files", config, &OpenContext::default()).await.unwrap();
    storage.put("a/b", &1).await.unwrap();
    assert_eq!((mode(root.join("a")), mode(root.join("a/b.json"))), (0o750, 0o640));
}

#[tokio::test]
async fn every_flipped_bit_and_every_cut_is_found() {
    for mode in [MetadataMode::Auto, MetadataMode::Envelope] {
        let place = tempfile::tempdir().unwrap();
        let config = FileConfig::new(place.path()).metadata(mode);
        let storage = FileStorage::open("files", config, &OpenContext::default()).await.unwrap();
        storage.put("doc", &serde_json::json!({ "a": [1, 2, 3] })).await.unwrap();
        storage.put_array("arr", ndarray()).await.unwrap();
        storage.put_bytes("raw", vec![7; 40].into()).await.unwrap();
        for name in ["doc", "arr", "raw"] {
            let good = storage.retrieve(&key(name)).await.unwrap().unwrap();
            let file =
                tree(place.path()).into_iter().find(|path| path.file_stem().is_some_and(|stem| stem == name));
            damage_everywhere(&storage, &key(name), &file.unwrap(), &good).await;
        }
    }
}

/// Flips each bit of a file and cuts it at each length: the storage gives the right value or says `Corruption`.
async fn damage_everywhere(storage: &FileStorage, key: &Key, path: &Path, good: &persist_core::Entry) {
    let whole = std::fs::read(path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let mut found = 0;
    for bit in 0..whole.len() * 8 {
        file.write_at(&[whole[bit / 8] ^ 1 << (bit % 8)], (bit / 8) as u64).unwrap();
        match storage.retrieve(key).await {
            Err(error) if error.kind() == ErrorKind::Corruption => found += 1,
            Ok(Some(entry)) => assert_eq!(entry, *good, "bit {bit} of {path:?}"),
            other => panic!("bit {bit} of {path:?}: {other:?}"),
        }
        file.write_at(&[whole[bit / 8]], (bit / 8) as u64).unwrap();
    }
    assert_eq!(found, whole.len() * 8, "no bit of {path:?} is without meaning");
    for len in 0..whole.len() {
        file.set_len(len as u64).unwrap();
        let error = storage.retrieve(key).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corruption, "cut to {len}");
        file.write_all_at(&whole, 0).unwrap();
    }
    // A damaged value is there until it is dealt with: it is listed, verified, and can be replaced or deleted.
    file.write_at(&[whole[whole.len() - 1] ^ 1], whole.len() as u64 - 1).unwrap();
    let report = storage.verify().await.unwrap();
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert_eq!(report.problems[0].key.as_ref(), Some(key));
    assert!(storage.list_keys("", ListOptions::new()).await.unwrap().keys.contains(key));
    assert!(storage.remove(key).await.unwrap());
    assert!(storage.retrieve(key).await.unwrap().is_none());
}

#[tokio::test]
async fn a_change_by_another_program_is_found_and_can_be_accepted() {
    let place = tempfile::tempdir().unwrap();
    let storage = open(place.path()).await;
    storage.put("a", &1).await.unwrap();
    let file = place.path().join("a.json");
    std::fs::OpenOptions::new().write(true).open(&file).unwrap().write_at(b"2", 0).unwrap();
    let error = storage.get::<u8>("a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(error.to_string().contains("setfattr -x user.persist"), "{error}");
    // What an editor does: another file in its place.
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "3").unwrap();
    assert_eq!(storage.get::<u8>("a").await.unwrap(), Some(3));
}

#[tokio::test]
async fn tags_that_fit_no_attribute_go_into_an_envelope() {
    let place = tempfile::tempdir().unwrap();
    let storage = open(place.path()).await;
    // 1,024 tags of two bytes: 2 KiB by the contract, but 6 KiB with their lengths and in the attribute's block.
    let tags = (0..1024).map(|at| (char::from_u32(0x400 + at).unwrap().to_string(), ""));
    let options = StoreOptions { tags: tags.collect(), ..StoreOptions::new() };
    storage.put_with("many", &1, options).await.unwrap();
    let entry = storage.retrieve(&key("many")).await.unwrap().unwrap();
    assert_eq!((entry.metadata.tags.len(), entry.to::<u8>().unwrap()), (1024, 1));
    storage.put("many", &2).await.unwrap();
    assert_eq!(
        tree(place.path()).iter().filter(|path| path.starts_with(place.path().join("many"))).count(),
        0
    );
    assert_eq!(storage.get::<u8>("many").await.unwrap(), Some(2));
    let forms = std::fs::read_dir(place.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_type().unwrap().is_file());
    assert_eq!(forms.count(), 1, "one file for one key");
}

#[tokio::test]
async fn listing_sees_what_others_do() {
    let place = tempfile::tempdir().unwrap();
    let (ours, theirs) = (open(place.path()).await, open(place.path()).await);
    let names = |page: persist_core::Page| page.keys.iter().map(|key| key.to_string()).collect::<Vec<_>>();
    for at in 0..50 {
        ours.put(format!("a/{at:02}"), &at).await.unwrap();
    }
    assert_eq!(ours.list_keys("a/", ListOptions::new()).await.unwrap().keys.len(), 50);
    theirs.put("a/99", &1).await.unwrap();
    theirs.put("b/c", &1).await.unwrap();
    ours.put("a/98", &1).await.unwrap();
    theirs.remove("a/00").await.unwrap();
    std::fs::write(place.path().join("a/97.json"), "1").unwrap();
    std::fs::remove_file(place.path().join("a/01.json")).unwrap();
    for storage in [&ours, &theirs] {
        let listed = names(storage.list_keys("", ListOptions::new()).await.unwrap());
        assert_eq!(listed.len(), 52);
        assert_eq!((listed[0].as_str(), listed[51].as_str()), ("a/02", "b/c"));
        assert_eq!(listed[48..51], ["a/97", "a/98", "a/99"]);
    }
}
