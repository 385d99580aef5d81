//! Sealed packs open with ordinary tools, which read the same bytes: `unzip` and Python's `zipfile`.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use persist_core::{Array, BaseStorage, Expiry, Key, OpenContext, StoreOptions, Value};
use persist_pack::{PackConfig, PackStorage};
use persist_testkit::crash;

/// Tests every entry, then writes each as a line: name in hexadecimal, BLAKE2 of nothing, length, CRC of what it read.
const SCRIPT: &str = r"
import sys, zipfile, zlib
with zipfile.ZipFile(sys.argv[1]) as pack:
    assert pack.testzip() is None, pack.testzip()
    for info in pack.infolist():
        data = pack.read(info)
        print(info.filename.encode().hex(), len(data), zlib.crc32(data))
";

fn has(tool: &str, argument: &str) -> bool {
    let there = Command::new(tool).arg(argument).output().is_ok_and(|output| output.status.success());
    if !there {
        crash::skip(&format!("{tool} is not installed")).unwrap();
    }
    there
}

fn python(pack: &Path) -> BTreeMap<String, (usize, u32)> {
    let output = Command::new("python3").args(["-c", SCRIPT]).arg(pack).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", pack.display());
    let text = String::from_utf8(output.stdout).unwrap();
    let line = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next().unwrap().as_bytes().chunks(2);
        let name = name.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
        let name = String::from_utf8(name.collect()).unwrap();
        (name, (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap()))
    };
    text.lines().map(line).collect()
}

fn packs(folder: &Path) -> Vec<PathBuf> {
    let mut packs: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    packs.retain(|path| path.extension().is_some_and(|ending| ending == "pack"));
    packs.sort();
    packs
}

/// The names and data that a tool must find.
type Wanted = BTreeMap<String, Vec<u8>>;

/// A folder whose only pack holds values of every kind and is sealed.
async fn sealed(folder: &Path) -> Wanted {
    let storage =
        PackStorage::open("packs", PackConfig::new(folder).pack_size(3 << 20), &OpenContext::default())
            .await
            .unwrap();
    let mut wanted = Wanted::new();
    let key = |text: &str| Key::new(text).unwrap();
    let put = async |name: &str, value: Value| {
        storage.store(&key(name), value, StoreOptions::new().tag("a", "b")).await.unwrap();
    };
    let text = format!("{{\"text\": \"{}\"}}", "shrinks ".repeat(100));
    put("users/ada", Value::json_text(text.clone()).unwrap()).await;
    wanted.insert("users/ada.json".to_owned(), text.into_bytes());
    let array = Array::from_vec(vec![2, 3], vec![1.5_f64; 6]).unwrap();
    wanted.insert("weights/first.npy".to_owned(), array.to_npy().to_vec());
    put("weights/first", Value::Array(array)).await;
    put("empty", Value::bytes(Vec::new())).await;
    wanted.insert("empty".to_owned(), Vec::new());
    // Several chunks, packed.
    let long: Vec<u8> = (0..900_000_u32).flat_map(|at| (at / 100).to_le_bytes()).collect();
    put("long.bin", Value::bytes(long.clone())).await;
    wanted.insert("long.bin".to_owned(), long);
    put("naïve/日本", Value::bytes(&b"x"[..])).await;
    wanted.insert("naïve/日本".to_owned(), b"x".to_vec());
    put("../../etc/passwd", Value::bytes(&b"harmless"[..])).await;
    wanted.insert(".persist/keys/%2E%2E%2F%2E%2E%2Fetc%2Fpasswd".to_owned(), b"harmless".to_vec());
    // Overwritten, deleted, and one whose expiry alone was changed.
    put("old", Value::bytes(&b"one"[..])).await;
    put("old", Value::bytes(&b"two"[..])).await;
    wanted.insert("old".to_owned(), b"two".to_vec());
    put("gone", Value::bytes(&b"gone"[..])).await;
    storage.delete(&key("gone"), Default::default()).await.unwrap();
    put("touched", Value::bytes(vec![7; 100])).await;
    storage.touch(&key("touched"), Expiry::Never).await.unwrap();
    wanted.insert("touched".to_owned(), vec![7; 100]);
    // Not packed, in several chunks; fills the pack.
    let mut noise = vec![0; 4 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    put("noise", Value::bytes(noise.clone())).await;
    wanted.insert("noise".to_owned(), noise);
    storage.close().await.unwrap();
    assert_eq!(packs(folder).len(), 1);
    wanted
}

fn check(found: &BTreeMap<String, (usize, u32)>, wanted: &Wanted) {
    for (name, data) in wanted {
        assert_eq!(found.get(name), Some(&(data.len(), crc32fast::hash(data))), "{name}");
    }
    let others: Vec<&String> = found.keys().filter(|name| !wanted.contains_key(*name)).collect();
    assert_eq!(others, [".persist/index", ".persist/manifest.json", ".persist/pack.json"]);
}

#[tokio::test]
async fn python_reads_what_was_stored() {
    if !has("python3", "--version") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let wanted = sealed(&place.path().join("packs")).await;
    let pack = &packs(&place.path().join("packs"))[0];
    check(&python(pack), &wanted);
}

#[tokio::test]
async fn unzip_unpacks_what_was_stored() {
    if !has("unzip", "-v") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let wanted = sealed(&place.path().join("packs")).await;
    let pack = &packs(&place.path().join("packs"))[0];
    let to = place.path().join("unpacked");
    let output = Command::new("unzip")
        .arg("-q")
        .arg(pack)
        .arg("-d")
        .arg(&to)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !told.contains("warning"), "{told}");
    for (name, data) in &wanted {
        assert_eq!(fs::read(to.join(name)).unwrap(), *data, "{name}");
    }
    // The manifest has the hash of each.
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(to.join(".persist/manifest.json")).unwrap()).unwrap();
    let entries = manifest["entries"].as_array().unwrap();
    assert_eq!(entries.len(), wanted.len());
    for entry in entries {
        let path = entry["path"].as_str().unwrap();
        let name = entry["name"].as_str().unwrap_or(path);
        assert_eq!(entry["hash"], blake3::hash(&wanted[name]).to_hex().as_str(), "{path}");
    }
}

/// What is packed with zstd is listed by all, and read by few; everything else in the pack is read.
#[cfg(feature = "zstd")]
#[test]
fn entries_of_zstd_do_not_keep_tools_from_the_others() {
    if !has("unzip", "-v") || !has("python3", "--version") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.pack");
    let mut builder = persist_pack::PackBuilder::create(&path, persist_pack::Compression::Zstd).unwrap();
    let mut add = |name: &str, value: Vec<u8>| {
        let key = Key::new(name).unwrap();
        builder.add_value(&key, &Value::bytes(value), None, Default::default(), Vec::new()).unwrap();
    };
    add("packed", b"shrinks ".repeat(100));
    add("plain", b"short".to_vec());
    builder.finish(None).unwrap();
    let unzip = |arguments: &[&str]| {
        let output = Command::new("unzip").args(arguments).arg(&path).arg("packed").output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (listed, names) = unzip(&["-l"]);
    assert!(listed && names.contains("packed"), "{names}");
    let (read, told) = unzip(&["-t"]);
    // A tool that has learned it is welcome.
    assert!(read || told.contains("need PK compat. v6.3"), "{told}");
    for name in ["plain", ".persist/manifest.json", ".persist/index"] {
        let status = Command::new("unzip").arg("-tq").arg(&path).arg(name).status().unwrap();
        assert!(status.success(), "{name}");
    }
    let script = "import sys, zipfile\n\
        pack = zipfile.ZipFile(sys.argv[1])\n\
        assert pack.read('plain') == b'short'\n\
        assert pack.getinfo('packed').compress_type == 93\n\
        try:\n    assert pack.read('packed') == b'shrinks ' * 100\n\
        except NotImplementedError: pass\n";
    let output = Command::new("python3").args(["-c", script]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// More entries than the old numbers of ZIP hold.
#[tokio::test]
async fn seventy_thousand_entries_need_zip64() {
    if !has("python3", "--version") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("packs");
    let config = PackConfig::new(&folder).durability(persist_pack::Durability::Relaxed);
    let storage = PackStorage::open("packs", config, &OpenContext::default()).await.unwrap();
    let mut wanted = Wanted::new();
    for part in 0..70_u32 {
        let items = (0..1000_u32).map(|at| {
            let (name, value) = (format!("{part}/{at}"), (part * 1000 + at).to_le_bytes().to_vec());
            let item =
                persist_core::StoreItem::new(Key::new(name.as_str()).unwrap(), Value::bytes(value.clone()));
            wanted.insert(name, value);
            item
        });
        assert!(storage.store_many(items.collect()).await.iter().all(Result::is_ok));
    }
    storage.close().await.unwrap();
    check(&python(&packs(&folder)[0]), &wanted);
}

/// A value and an offset beyond 4 GiB, where the numbers of ZIP have 32 bits. Takes 9 GiB of disk and 5 of memory, so it is
/// run where that is asked for: `PERSIST_LARGE=1`.
#[test]
fn values_and_offsets_beyond_four_gib_need_zip64() {
    if std::env::var_os("PERSIST_LARGE").is_none() || !has("python3", "--version") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("large.pack");
    let mut builder = persist_pack::PackBuilder::create(&path, persist_pack::Compression::None).unwrap();
    let mut wanted = Wanted::new();
    let large: Vec<u8> = (0..(1_u64 << 29) + 9)
        .flat_map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes())
        .collect();
    let crc = crc32fast::hash(&large);
    let len = large.len();
    let large = Value::bytes(large);
    let mut add = |name: &str, value: &Value| {
        builder.add_value(&Key::new(name).unwrap(), value, None, Default::default(), Vec::new()).unwrap();
    };
    add("1", &large);
    for name in ["2", "3"] {
        add(name, &Value::bytes(name.as_bytes().to_vec()));
        wanted.insert(name.to_owned(), name.as_bytes().to_vec());
    }
    drop(large);
    builder.finish(None).unwrap();
    let mut found = python(&path);
    assert_eq!(found.remove("1"), Some((len, crc)));
    check(&found, &wanted);
    if has("unzip", "-v") {
        let unzip = |arguments: &[&str]| {
            let output =
                Command::new("unzip").arg(arguments[0]).arg(&path).args(&arguments[1..]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            output.stdout
        };
        unzip(&["-tq"]);
        assert_eq!(unzip(&["-p", "3"]), b"3");
    }
    let report = persist_pack::Archive::open(&path).unwrap().verify(None, |_| ()).unwrap();
    assert!(len as u64 > u64::from(u32::MAX) && report.problems.is_empty(), "{report:?}");
}
