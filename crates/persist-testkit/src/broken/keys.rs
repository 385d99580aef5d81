use persist_core::Key;

use super::Bug;

/// What a bug makes of a key.
pub(super) fn mangled(bug: Option<Bug>, key: &Key) -> Key {
    let Some(bug) = bug else { return key.clone() };
    let text = match bug {
        Bug::FoldsCase => key.to_lowercase(),
        Bug::NormalisesUnicode => key.replace("e\u{301}", "é").replace("A\u{30a}", "Å"),
        Bug::DecodesPercent => key.replace("%2F", "/").replace("%2f", "/"),
        Bug::CutsKeys => key.chars().scan(0, within).collect(),
        Bug::TrimsKeys => key.trim_end_matches(['.', ' ']).to_owned(),
        Bug::ResolvesPaths => resolved(key),
        Bug::SanitisesKeys => key.replace(|c: char| c.is_control() || "'\"`\\*?".contains(c), "_"),
        Bug::DropsInvisible => key.replace(['\u{200b}', '\u{feff}', '\u{202e}'], ""),
        _ => return key.clone(),
    };
    // What is left of some keys is no key; such a storage would fail on them in a way of its own.
    Key::new(text).unwrap_or_else(|_| key.clone())
}

fn within(len: &mut usize, c: char) -> Option<char> {
    *len += c.len_utf8();
    (*len <= 255).then_some(c)
}

fn resolved(key: &str) -> String {
    let mut levels = Vec::new();
    for level in key.split('/') {
        match level {
            "" | "." => {}
            ".." => {
                levels.pop();
            }
            level => levels.push(level),
        }
    }
    levels.join("/")
}
