//! Keys that storages are known to get wrong.

use persist_core::Key;

/// Names that look like paths.
pub const PATHS: &[&str] = &[
    "../../etc/passwd",
    "/etc/passwd",
    "/",
    "//",
    "///",
    ".",
    "..",
    "./a",
    "../a",
    "a/..",
    "a/../b",
    "a/./b",
    "a/",
    "a//b",
    "/a",
    "//a",
    "a/b/",
    "\\",
    "\\\\server\\share",
    "C:",
    "C:\\x",
    "c:/x",
    "file:///x",
    "~",
    "~root/x",
    "-rf",
    "--",
    "a\\b",
    "..\\..\\x",
    ".../x",
    "a/.",
    "/..",
];

/// Names that some operating system keeps for devices, or cuts short.
pub const DEVICES: &[&str] = &[
    "CON",
    "con",
    "CON.txt",
    "PRN",
    "AUX",
    "NUL",
    "nul.json",
    "COM1",
    "COM¹",
    "LPT9",
    "CLOCK$",
    "CONIN$",
    "a.",
    "a..",
    "a ",
    " a",
    " ",
    "  ",
    "a /b",
    "a./b",
    ".a",
    "...",
    "a...",
    "desktop.ini",
    "a:b",
    "a:$DATA",
    "a~1",
    "PROGRA~1",
];

/// Names that storages use for themselves.
pub const OWN_NAMES: &[&str] = &[
    ".tmp",
    "x.tmp",
    "x",
    "x.json",
    "x.bin",
    "x.npy",
    "x.json.tmp",
    "x.bin~",
    "x.lock",
    "lock",
    ".lock",
    "index",
    ".index",
    "_index",
    "meta",
    "_meta",
    ".meta",
    "x.meta",
    "x.meta.json",
    "manifest.json",
    "tmp",
    "temp/x",
    "data",
    "journal",
    "x-journal",
    "x-wal",
    "keys",
    "__keys__",
    "entries",
    "sqlite_master",
    "persist",
    ".persist",
    ".git",
    "lost+found",
    "_",
    "__proto__",
    "id",
    "rowid",
    "version",
    "x#meta",
    "x\u{1f}meta",
    "x\u{1}",
];

/// Pairs and triples that are one name after folding case or normalising Unicode.
pub const TWINS: &[&str] = &[
    "a",
    "A",
    "ab",
    "aB",
    "Ab",
    "AB",
    "straße",
    "STRASSE",
    "strasse",
    "ı",
    "i",
    "İ",
    "I",
    "σ",
    "ς",
    "Σ",
    "é",
    "e\u{301}",
    "É",
    "Å",
    "\u{212b}",
    "A\u{30a}",
    "ﬁ",
    "fi",
    "Ⅷ",
    "VIII",
    "ａ",
    "각",
    "\u{1100}\u{1161}\u{11a8}",
    "ẛ̣",
    "ṩ",
    "K",
    "\u{212a}",
    "ß",
    "ẞ",
    "Ǆ",
    "ǅ",
    "ǆ",
    "²",
    "2",
];

/// Escapes that must not be decoded, and what they would decode to.
pub const ESCAPES: &[&str] = &[
    "%",
    "%%",
    "%2F",
    "%2f",
    "%252F",
    "%00",
    "%0",
    "%zz",
    "%2e%2e%2fx",
    "%C3%A9",
    "a%2Fb",
    "a/b",
    "a+b",
    "a b",
    "a%20b",
    "&amp;",
    "&",
    "\\n",
    "\\u0041",
    "\\x41",
    "=41",
    "=",
    "_x41_",
    "$HOME",
    "${HOME}",
    "$(id)",
    "`id`",
    "{{x}}",
    "!x",
];

/// What query languages, shells and patterns take for their own.
pub const SYNTAX: &[&str] = &[
    "'",
    "\"",
    "''",
    "';DROP TABLE x;--",
    "\" OR 1=1",
    "`",
    "a'b",
    "*",
    "?",
    "[a]",
    "[!a]",
    "a*",
    "a?",
    "{a,b}",
    "^a",
    "a$",
    "a|b",
    "(a)",
    "<a>",
    ";",
    "#",
    "#a",
    "@",
    "a@b",
    ",",
    "_",
    "__",
    "a_b",
    "a%b",
    "axb",
    "+",
    "a\tb",
    "a\nb",
    "\n",
    "\r\n",
    "\u{1b}[31mred",
    "\u{7f}",
    "\u{8}",
    "{a}b",
    "{a}",
    "{}",
    "KEYS *",
    "\r\nFLUSHALL\r\n",
    ":",
    "a::b",
];

/// Unicode at its edges.
pub const UNICODE: &[&str] = &[
    "😀",
    "👨‍👩‍👧‍👦",
    "🇩🇪",
    "日本語",
    "العربية",
    "\u{202e}gpj.x",
    "\u{200b}",
    "a\u{200b}",
    "\u{feff}",
    "\u{feff}a",
    "\u{fffd}",
    "\u{ffff}",
    "\u{fffe}",
    "\u{10ffff}",
    "\u{e000}",
    "\u{d7ff}",
    "\u{80}",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\u{2029}",
    "\u{301}",
    "𝔘𝔫𝔦",
    "\u{10000}",
    "\u{ad}",
    "\u{3000}",
    "ｆｕｌｌ",
];

/// All of them, and every ASCII byte but NUL alone and within a word, and keys as long as keys may be: each once, in
/// byte order.
///
/// # Panics
/// Never: every one is a valid key, which a test shows.
pub fn keys() -> Vec<Key> {
    let lists = [PATHS, DEVICES, OWN_NAMES, TWINS, ESCAPES, SYNTAX, UNICODE];
    let listed = lists.into_iter().flatten().map(|text| (*text).to_owned());
    let texts = listed.chain(ascii()).chain(long());
    let mut keys: Vec<Key> = texts.filter_map(|text| Key::new(text).ok()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Every ASCII byte but NUL, alone and within a word.
pub fn ascii() -> impl Iterator<Item = String> {
    (1..=127_u8).flat_map(|byte| {
        let c = char::from(byte);
        [c.to_string(), format!("m{c}n")]
    })
}

/// Keys of 1024 bytes, or with levels longer than file systems allow, some of which differ in their last byte alone.
pub fn long() -> impl Iterator<Item = String> {
    let filled = ["a", "/", "%", ".", " ", "é", "😀", "A", "a/", "\u{1}", "'"];
    let full = filled.into_iter().map(|unit| unit.repeat(1024 / unit.len()));
    let levels = [254, 255, 256, 300, 511, 512, 1022];
    let twins = levels.into_iter().flat_map(|len| {
        let level = "l".repeat(len);
        [format!("{level}1"), format!("{level}2"), format!("{}/x", &level[..len - 1])]
    });
    full.chain(twins).chain(["1", "2"].map(|end| format!("{}{end}", "z".repeat(1023))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hostile_key_is_a_valid_key() {
        let lists = [PATHS, DEVICES, OWN_NAMES, TWINS, ESCAPES, SYNTAX, UNICODE];
        let listed = lists.into_iter().flatten().map(|text| (*text).to_owned());
        for text in listed.chain(ascii()).chain(long()) {
            Key::new(text).unwrap();
        }
        assert!(keys().len() > 400, "{}", keys().len());
        assert!(keys().iter().filter(|key| key.len() == 1024).count() >= 9);
    }
}
