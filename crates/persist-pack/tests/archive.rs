//! Packs as files of their own: the same content gives the same bytes, nothing changed goes unseen, proofs and signatures
//! hold for what they say alone, and nothing is written where it should not be.
#![allow(clippy::unwrap_used, reason = "a panic in a test is its report")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use persist_core::{Array, Entry, ErrorKind, Key, Tags, Timestamp, Value};
use persist_pack::{
    Archive, Built, Compression, Item, PackBuilder, Proof, Selection, SigningKey, merkle, root_of, sign,
};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

type Content = BTreeMap<String, Value>;

fn content() -> Content {
    let array = Array::from_vec(vec![2, 2], vec![1.0_f32, 2.0, 3.0, 4.0]).unwrap();
    [
        ("a", Value::bytes(&b"the value of a"[..])),
        ("b/json", Value::json_text("{\"x\": [1, 2]}").unwrap()),
        ("b/../c", Value::bytes(&b"hostile"[..])),
        ("empty", Value::bytes(Vec::new())),
        ("same/1", Value::bytes(vec![9; 100])),
        ("same/2", Value::bytes(vec![9; 100])),
        ("weights", Value::Array(array)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn build(path: &Path, content: &Content, compression: Compression, signed: Option<&SigningKey>) -> Built {
    let mut builder = PackBuilder::create(path, compression).unwrap();
    for (name, value) in content {
        let tags = if name == "a" { Tags::new().with("tag", "text") } else { Tags::new() };
        builder.add_value(&key(name), value, None, tags, Vec::new()).unwrap();
    }
    builder.finish(signed).unwrap()
}

struct Desk {
    place: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { place: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    let desk = Desk::new();
    for compression in [Compression::None, Compression::Deflate] {
        let (one, other) = (desk.path("one"), desk.path("other"));
        let built = build(&one, &content(), compression, None);
        build(&other, &content(), compression, None);
        assert!(fs::read(&one).unwrap() == fs::read(&other).unwrap());
        assert_eq!(built.items, 7);
        assert_eq!(built.file_bytes, fs::metadata(&one).unwrap().len());
        let archive = Archive::open(&one).unwrap();
        for (name, value) in content() {
            assert_eq!(archive.read(&key(&name)).unwrap().unwrap().value, value, "{name}");
        }
        assert_eq!(archive.read(&key("none")).unwrap(), None);
        let items: Vec<Item> = archive.items().unwrap().into_iter().map(|(_, item)| item).collect();
        assert_eq!(root_of(&items).unwrap(), built.root);
    }
}

/// What was written once must be read for ever, and written the same.
#[test]
fn the_golden_pack_is_read_and_written() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/format-1.pack");
    let desk = Desk::new();
    let path = desk.path("pack");
    build(&path, &content(), Compression::None, None);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(golden.parent().unwrap()).unwrap();
        fs::copy(&path, &golden).unwrap();
    }
    assert!(fs::read(&path).unwrap() == fs::read(&golden).unwrap(), "the bytes of format 1 have changed");
    let found = Archive::open(&golden).unwrap().verify(None, |_| ()).unwrap();
    assert_eq!((found.checked, found.problems.len()), (7, 0));
}

#[test]
fn entries_out_of_order_and_twice_are_refused() {
    let desk = Desk::new();
    let mut builder = PackBuilder::create(&desk.path("pack"), Compression::None).unwrap();
    let mut add =
        |name: &str| builder.add_value(&key(name), &Value::bytes(&b"x"[..]), None, Tags::new(), Vec::new());
    add("b").unwrap();
    for name in ["a", "b"] {
        assert_eq!(add(name).unwrap_err().kind(), ErrorKind::InvalidKey);
    }
    drop(builder);
    assert_eq!(
        fs::read_dir(desk.place.path()).unwrap().count(),
        0,
        "nothing is left of a pack that was not finished"
    );
}

#[test]
fn an_empty_pack_is_a_pack() {
    let desk = Desk::new();
    let built = build(&desk.path("pack"), &Content::new(), Compression::None, None);
    assert_eq!(built.root, merkle::root(&[]));
    let archive = Archive::open(&desk.path("pack")).unwrap();
    assert!(archive.verify(None, |_| ()).unwrap().problems.is_empty());
    assert_eq!(archive.items().unwrap(), []);
    assert!(archive.prove(&key("a")).unwrap().is_none());
}

#[test]
fn every_flipped_byte_is_found() {
    let desk = Desk::new();
    let (good, bad) = (desk.path("good"), desk.path("bad"));
    let secret = SigningKey::generate().unwrap();
    let built = build(&good, &content(), Compression::Deflate, Some(&secret));
    let bytes = fs::read(&good).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        fs::write(&bad, changed).unwrap();
        let found = Archive::open(&bad).and_then(|archive| {
            archive.check_root(&built.root)?;
            archive.verify(Some(&secret.public_key()), |_| ())
        });
        match found {
            Ok(found) => assert!(!found.problems.is_empty(), "byte {at}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corruption, "byte {at}: {error}"),
        }
        fs::write(&bad, &bytes[..at]).unwrap();
        assert_eq!(Archive::open(&bad).unwrap_err().kind(), ErrorKind::Corruption, "cut to {at}");
    }
}

/// Somebody who knows the format makes another pack: all CRCs are right, the root is another.
#[test]
fn another_content_has_another_root() {
    let desk = Desk::new();
    let roots = |content: &Content| build(&desk.path("pack"), content, Compression::None, None).root;
    let original = roots(&content());
    let mut added = content();
    added.insert("z".to_owned(), Value::bytes(Vec::new()));
    let mut missing = content();
    missing.remove("empty");
    let mut changed = content();
    changed.insert("a".to_owned(), Value::bytes(&b"The value of a"[..]));
    let mut renamed = content();
    let value = renamed.remove("a").unwrap();
    renamed.insert("a2".to_owned(), value);
    let mut retyped = content();
    retyped.insert("b/json".to_owned(), Value::bytes(&b"{\"x\": [1, 2]}"[..]));
    for other in [added, missing, changed, renamed, retyped] {
        assert_ne!(roots(&other), original);
    }
}

#[test]
fn proofs_hold_without_the_pack_and_for_their_entry_alone() {
    let desk = Desk::new();
    let path = desk.path("pack");
    for count in [1, 2, 3, 7, 8, 100] {
        let content: Content = (0..count)
            .map(|at| (format!("key {at:03}"), Value::bytes(format!("{at}").into_bytes())))
            .collect();
        let built = build(&path, &content, Compression::None, None);
        let archive = Archive::open(&path).unwrap();
        for (name, value) in &content {
            let proof = archive.prove(&key(name)).unwrap().unwrap();
            let text = serde_json::to_string(&proof).unwrap();
            let proof = Proof::from_json(text.as_bytes()).unwrap();
            proof.check(Some(&built.root)).unwrap();
            proof.check_data(value.buffer()).unwrap();
            assert!(proof.check_data(b"other").is_err());
            assert!(proof.check(Some(&[0; 32])).is_err(), "another root");
            let mut forged = proof.clone();
            forged.item.size += 1;
            assert!(forged.check(Some(&built.root)).is_err());
            let mut forged = proof.clone();
            forged.index += 1;
            assert!(forged.check(Some(&built.root)).is_err());
            let mut forged = proof.clone();
            forged.count += 1;
            assert!(forged.check(Some(&built.root)).is_err());
        }
        assert!(archive.prove(&key("none")).unwrap().is_none());
    }
    assert!(Proof::from_json(b"{}").is_err());
}

#[test]
fn a_signature_that_is_asked_for_must_be_there_and_valid() {
    let desk = Desk::new();
    let path = desk.path("pack");
    let (secret, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let unsigned = build(&path, &content(), Compression::Deflate, None);
    let check = |key: Option<&SigningKey>| {
        let archive = Archive::open(&path).unwrap();
        let public = key.map(SigningKey::public_key);
        archive.verify(public.as_ref(), |_| ()).map(|found| {
            assert!(found.problems.is_empty(), "{:?}", found.problems);
            found.signed_by
        })
    };
    assert_eq!(check(None).unwrap(), None);
    let error = check(Some(&secret)).unwrap_err();
    assert!(error.message().contains("has no signature"), "{error}");
    sign(&path, &secret).unwrap();
    assert_eq!(Archive::open(&path).unwrap().root(), unsigned.root, "the content is the same");
    assert_eq!(check(Some(&secret)).unwrap(), Some(secret.public_key()));
    assert_eq!(check(None).unwrap(), Some(secret.public_key()));
    assert_eq!(check(Some(&other)).unwrap_err().kind(), ErrorKind::Corruption);
    // In place of the first one; and the same bytes as if it had been signed when it was built.
    sign(&path, &other).unwrap();
    assert_eq!(check(Some(&other)).unwrap(), Some(other.public_key()));
    assert!(check(Some(&secret)).is_err());
    let built = desk.path("built");
    build(&built, &content(), Compression::Deflate, Some(&other));
    assert!(fs::read(&path).unwrap() == fs::read(&built).unwrap());
    // The signature of one pack in another.
    let stranger = desk.path("stranger");
    build(&stranger, &Content::new(), Compression::None, Some(&secret));
    let foreign = Archive::open(&stranger).unwrap().signature().unwrap().unwrap();
    assert!(foreign.check(&secret.public_key(), &unsigned.root).is_err());
}

#[test]
fn a_damaged_pack_is_not_signed() {
    let desk = Desk::new();
    let path = desk.path("pack");
    build(&path, &content(), Compression::None, None);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(14).position(|part| part == b"the value of a").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = sign(&path, &SigningKey::generate().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(fs::read(&path).unwrap() == bytes, "it was not touched");
}

#[test]
fn extraction_stays_in_its_folder_and_is_whole_or_not_at_all() {
    let desk = Desk::new();
    let path = desk.path("pack");
    let mut content = content();
    for hostile in ["../../outside", "/absolute", "..", "a/../../b", "C:\\x", "nul", ".persist/index", "A"] {
        content.insert(hostile.to_owned(), Value::bytes(hostile.as_bytes().to_vec()));
    }
    let built = build(&path, &content, Compression::Deflate, None);
    let archive = Archive::open(&path).unwrap();
    let to = desk.path("to");
    let error = archive.extract(&Selection::All, &to, built.bytes - 1, |_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert!(!to.exists());
    let done = archive.extract(&Selection::All, &to, u64::MAX, |_| ()).unwrap();
    assert_eq!(done.files, content.len() as u64);
    assert_eq!(done.escaped, 9);
    assert_eq!(fs::read(to.join("b/json.json")).unwrap(), b"{\"x\": [1, 2]}");
    assert_eq!(fs::read(to.join("same/2")).unwrap(), [9; 100]);
    assert_eq!(fs::read(to.join(".persist/keys/%2E%2E%2F%2E%2E%2Foutside")).unwrap(), b"../../outside");
    let mut beside: Vec<String> = fs::read_dir(desk.place.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    beside.sort();
    assert_eq!(beside, ["pack", "to"]);
    assert_eq!(
        archive.extract(&Selection::All, &to, u64::MAX, |_| ()).unwrap_err().kind(),
        ErrorKind::Conflict,
        "not empty"
    );
    // Damage: nothing is written.
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(14).position(|part| part == b"the value of a").unwrap();
    bytes[at] ^= 1;
    let bad = desk.path("bad");
    fs::write(&bad, bytes).unwrap();
    let error = Archive::open(&bad)
        .unwrap()
        .extract(&Selection::All, &desk.path("other"), u64::MAX, |_| ())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert!(!desk.path("other").exists() && !desk.path("other.unfinished").exists());
}

#[test]
fn a_part_is_extracted_under_the_names_that_the_whole_has() {
    let desk = Desk::new();
    let path = desk.path("pack");
    let mut content = content();
    // `A` gives way to `a`, and must do so alone too.
    content.insert("A".to_owned(), Value::bytes(&b"upper"[..]));
    content.insert("b".to_owned(), Value::bytes(&b"also the name of a folder"[..]));
    build(&path, &content, Compression::Deflate, None);
    let archive = Archive::open(&path).unwrap();
    let files = |folder: &Path| {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned()),
                }
            }
        }
        found.sort();
        found
    };
    let extract = |name: &str, selection: Selection| {
        let done = archive.extract(&selection, &desk.path(name), u64::MAX, |_| ());
        done.map(|done| (done.files, files(&desk.path(name))))
    };
    let (count, whole) = extract("whole", Selection::All).unwrap();
    assert_eq!(count, content.len() as u64);
    for name in content.keys() {
        let (count, one) = extract(&format!("of {}", name.len()), Selection::Entry(key(name))).unwrap();
        assert_eq!((count, one.len()), (1, 1), "{name}");
        assert!(whole.contains(&one[0]), "{name} is {one:?} alone");
        fs::remove_dir_all(desk.path(&format!("of {}", name.len()))).unwrap();
    }
    let (count, same) = extract("same", Selection::Prefix("same/".to_owned())).unwrap();
    assert_eq!((count, same), (2, vec!["same/1".to_owned(), "same/2".to_owned()]));
    for missing in [Selection::Prefix("none/".to_owned()), Selection::Entry(key("same/"))] {
        let error = extract("none", missing).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(!desk.path("none").exists());
    }
    let error =
        archive.extract(&Selection::Entry(key("same/1")), &desk.path("small"), 99, |_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "the limit counts what is extracted");
    archive.extract(&Selection::Entry(key("same/1")), &desk.path("small"), 100, |_| ()).unwrap();
}

/// A value whose bytes match every CRC and not its hash: somebody made the pack so.
#[test]
fn a_value_that_is_not_what_its_hash_says_is_found() {
    let desk = Desk::new();
    let path = desk.path("pack");
    build(&path, &content(), Compression::None, None);
    let good = fs::read(&path).unwrap();
    let value = b"the value of a";
    let at = good.windows(value.len()).position(|part| part == value).unwrap();
    let (mut bad, old) = (good.clone(), crc32fast::hash(value));
    bad[at] ^= 1;
    let new = crc32fast::hash(&bad[at..at + value.len()]);
    // The CRC of ZIP, that of the note, and that of the head, which covers both.
    let head = good[..at].windows(4).rposition(|part| part == b"PK\x03\x04").unwrap();
    let mut places = Vec::new();
    for place in head..at - 4 {
        if good[place..place + 4] == old.to_le_bytes() {
            places.push(place);
        }
    }
    assert_eq!(places.len(), 2);
    places.iter().for_each(|place| bad[*place..place + 4].copy_from_slice(&new.to_le_bytes()));
    let mut crc = crc32fast::Hasher::new();
    crc.update(&0_u64.to_le_bytes());
    crc.update(&(head as u64).to_le_bytes());
    crc.update(&bad[head..at - 4]);
    bad[at - 4..at].copy_from_slice(&crc.finalize().to_le_bytes());
    fs::write(&path, &bad).unwrap();
    let archive = Archive::open(&path).unwrap();
    assert_eq!(archive.read(&key("a")).unwrap_err().kind(), ErrorKind::Corruption);
    let found = archive.verify(None, |_| ()).unwrap();
    let told = found.problems.iter().find(|problem| problem.key == Some(key("a")));
    assert!(told.is_some_and(|problem| problem.message.contains("checksum")), "{:?}", found.problems);
    assert_eq!(found.checked, 7);
}

#[test]
fn what_is_no_sealed_pack_says_so() {
    let desk = Desk::new();
    for (name, bytes) in
        [("empty", &b""[..]), ("text", b"hello"), ("zip", b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0")]
    {
        fs::write(desk.path(name), bytes).unwrap();
        assert_eq!(Archive::open(&desk.path(name)).unwrap_err().kind(), ErrorKind::Corruption, "{name}");
    }
    assert_eq!(Archive::open(desk.place.path()).unwrap_err().kind(), ErrorKind::Corruption, "a folder");
    assert!(Archive::open(&desk.path("none")).is_err());
}

#[test]
fn metadata_that_belongs_to_the_content_is_kept() {
    let desk = Desk::new();
    let path = desk.path("pack");
    let mut builder = PackBuilder::create(&path, Compression::None).unwrap();
    let end = Timestamp::from_millis(4_102_444_800_000);
    let tags = Tags::new().with("unit", "m");
    let value = Value::bytes(&b"x"[..]);
    builder.add_value(&key("k"), &value, Some(end), tags.clone(), vec!["zstd".to_owned()]).unwrap();
    builder.finish(None).unwrap();
    let Entry { metadata, .. } = Archive::open(&path).unwrap().read(&key("k")).unwrap().unwrap();
    assert_eq!(
        (metadata.expires_at, metadata.tags, metadata.encodings),
        (Some(end), tags, vec!["zstd".to_owned()])
    );
}
