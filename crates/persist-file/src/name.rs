//! Keys as paths: reversible, safe by the rules of Linux, macOS and Windows, and ordered so that a walk over sorted
//! folders gives keys in byte order. The rules stand in `docs/formats/file.md`.

use persist_core::Key;

/// Segments of this many bytes or more are cut into folders of exactly this many, so that an encoded name (three
/// characters a byte at worst) stays below the 255 bytes that file systems allow.
const CHUNK: usize = 80;

/// Names that Windows keeps for devices; `$` and superscript digits are escaped anyway.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// Where the file of a key lies: its folder below the root (empty: the root itself) and its name without the ending.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KeyPath {
    /// Folders joined by `/`, without a slash at the end.
    pub(crate) folder: String,
    /// The name of the file without its ending.
    pub(crate) stem: String,
}

impl KeyPath {
    /// The path of a key.
    pub(crate) fn of(key: &Key) -> Self {
        let mut folder = String::with_capacity(key.len() + 8);
        let mut segments = key.split('/').peekable();
        while let Some(segment) = segments.next() {
            let mut rest = segment.as_bytes();
            while let Some((chunk, more)) = rest.split_at_checked(CHUNK) {
                join(&mut folder, &encode(chunk));
                folder.push('%');
                rest = more;
            }
            if segments.peek().is_none() {
                return Self { folder, stem: encode(rest) };
            }
            join(&mut folder, &encode(rest));
        }
        unreachable!("splitting gives at least one segment")
    }

    /// The file with an ending, relative to the root.
    pub(crate) fn file(&self, ending: &str) -> String {
        let mut path = self.folder.clone();
        join(&mut path, &self.stem);
        path.push('.');
        path.push_str(ending);
        path
    }
}

/// The folder that holds a path, and the last name in it.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn join(folder: &mut String, name: &str) {
    if !folder.is_empty() {
        folder.push('/');
    }
    folder.push_str(name);
}

/// One segment as a name: `a-z 0-9 - _` as they are, every other byte as `%` and two lower-case hex digits, the empty
/// segment as `%`, and the first letter of a device name escaped too.
fn encode(segment: &[u8]) -> String {
    if segment.is_empty() {
        return "%".to_owned();
    }
    let mut name = String::with_capacity(segment.len() + 8);
    for (at, byte) in segment.iter().enumerate() {
        if is_plain(*byte) && !(at == 0 && is_device(segment)) {
            name.push(char::from(*byte));
        } else {
            name.push('%');
            name.push(char::from(HEX[usize::from(byte >> 4)]));
            name.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    name
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn is_plain(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')
}

fn is_device(segment: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(segment) else { return false };
    DEVICES.contains(&name)
        || (name.len() == 4
            && (name.starts_with("com") || name.starts_with("lpt"))
            && name.as_bytes()[3].is_ascii_digit())
}

fn decode(name: &str) -> Option<Vec<u8>> {
    if name == "%" {
        return Some(Vec::new());
    }
    let mut segment = Vec::with_capacity(name.len());
    let mut bytes = name.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let (high, low) = (hex(bytes.next()?)?, hex(bytes.next()?)?);
            segment.push(high << 4 | low);
        } else {
            segment.push(byte);
        }
    }
    // Only the one name that `encode` gives is ours.
    (encode(&segment) == name).then_some(segment)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// What a folder's name adds to the keys in it: its segment and a `/`, or for a chunk the bytes alone. `None`: the
/// folder is not ours.
pub(crate) fn folder_key(name: &str) -> Option<Vec<u8>> {
    if let Some(chunk) = name.strip_suffix('%').filter(|chunk| !chunk.is_empty()) {
        return decode(chunk).filter(|bytes| bytes.len() == CHUNK);
    }
    let mut segment = decode(name).filter(|bytes| bytes.len() < CHUNK)?;
    segment.push(b'/');
    Some(segment)
}

/// What a file's name without its ending adds to the key. `None`: the file is not ours.
pub(crate) fn stem_key(stem: &str) -> Option<Vec<u8>> {
    decode(stem).filter(|bytes| bytes.len() < CHUNK)
}

/// How the keys in a folder that may hold `rest` begin: the key of the folder that `rest` leads into, if any.
pub(crate) fn leading_folder(rest: &[u8]) -> Option<&[u8]> {
    let head = &rest[..rest.len().min(CHUNK)];
    match head.iter().position(|byte| *byte == b'/') {
        Some(slash) => Some(&rest[..=slash]),
        None if head.len() == CHUNK => Some(head),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(key: &str) -> String {
        KeyPath::of(&Key::new(key).unwrap()).file("json")
    }

    /// What the walk does: from folders and stem back to the key.
    fn back(path: &KeyPath) -> String {
        let mut key = Vec::new();
        for folder in path.folder.split('/').filter(|folder| !folder.is_empty()) {
            key.extend(folder_key(folder).unwrap());
        }
        key.extend(stem_key(&path.stem).unwrap());
        String::from_utf8(key).unwrap()
    }

    #[test]
    fn the_rules_by_example() {
        for (key, expected) in [
            ("users/alice", "users/alice.json"),
            ("Alice", "%41lice.json"),
            ("a.json", "a%2ejson.json"),
            ("../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd.json"),
            ("/abs", "%/abs.json"),
            ("a//b/", "a/%/b/%.json"),
            ("con", "%63on.json"),
            ("com7/lpt0", "%63om7/%6cpt0.json"),
            ("com¹", "com%c2%b9.json"),
            ("nul.txt", "nul%2etxt.json"),
            ("100%", "100%25.json"),
            ("a\\b:c*", "a%5cb%3ac%2a.json"),
            (".persist", "%2epersist.json"),
        ] {
            assert_eq!(path(key), expected);
        }
        let long = "x".repeat(80);
        assert_eq!(path(&long), format!("{long}%/%.json"));
        assert_eq!(path(&format!("{long}y/z")), format!("{long}%/y/z.json"));
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in ["README", "a b", "%4", "%zz", "%61", "A", "a.b", "%2E", "con", "é", ".tmp"] {
            assert_eq!(stem_key(name), None, "{name}");
        }
        assert_eq!(folder_key("short%"), None);
        assert_eq!(folder_key(&"x".repeat(80)), None);
    }

    fn keys() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            "[a-cA-C./%_ -]{0,6}",
            Just("con".to_owned()),
            "\\PC{0,12}",
            prop::sample::select(vec!["x".repeat(79), "x".repeat(80), "x".repeat(81), "é".repeat(100)]),
        ];
        prop::collection::vec(part, 1..5)
            .prop_map(|parts| parts.join("/"))
            .prop_filter("a key", |key| Key::new(key.as_str()).is_ok())
    }

    proptest! {
        #[test]
        fn every_key_comes_back_from_a_safe_path(key in keys()) {
            let path = KeyPath::of(&Key::new(key.as_str()).unwrap());
            prop_assert_eq!(back(&path), key);
            let whole = path.file("json");
            prop_assert!(whole.len() < 4096);
            for name in whole.split('/') {
                prop_assert!(!name.is_empty() && name.len() <= 255 && name != "." && name != "..");
                let allowed = |b: u8| is_plain(b) || b == b'%' || b == b'.';
                prop_assert!(name.bytes().all(allowed));
                let base = name.split('.').next().unwrap();
                prop_assert!(!is_device(base.as_bytes()));
            }
        }

        #[test]
        fn different_keys_have_different_paths(a in keys(), b in keys()) {
            let (pa, pb) = (path(&a), path(&b));
            prop_assert_eq!(a == b, pa == pb);
            prop_assert_eq!(pa.to_lowercase(), pa, "a file system that folds case changes nothing");
        }
    }
}
