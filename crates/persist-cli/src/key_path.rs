//! Keys as relative paths of local files and back: the one place that decides whether a key may become a path.

use std::path::{Component, Path, PathBuf};

use crate::exit::{Failure, Result};
use crate::text::key_line;

/// Names that Windows keeps for devices, with or without an extension.
#[cfg(windows)]
const DEVICES: [&str; 6] = ["CON", "PRN", "AUX", "NUL", "COM", "LPT"];

/// The part of a key below a folder as a path below a local folder. Each `/` becomes a folder.
///
/// # Errors
/// Refuses what would not be exactly one file below that folder: absolute keys, `.` and `..`, empty levels, and
/// what the platform's file names cannot hold.
pub(crate) fn to_path(rest: &str) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    for level in rest.split('/') {
        if let Some(trouble) = trouble(level) {
            return Err(Failure::refused(format!(
                "{} cannot be a file below the target folder: {trouble}; copy it alone and name the file yourself: \
                 persist get NAME:KEY FILE",
                key_line(rest)
            )));
        }
        path.push(level);
    }
    Ok(path)
}

fn trouble(level: &str) -> Option<String> {
    match level {
        "" => {
            Some("it has a level without a name (it begins or ends with a /, or has two in a row)".to_owned())
        }
        "." | ".." => Some(format!("the level {level} has a meaning of its own in a path")),
        _ if level.len() > 255 => {
            Some(format!("a level has {} bytes; file names have at most 255", level.len()))
        }
        _ => foreign(level),
    }
}

/// What only some platforms refuse.
#[cfg(not(windows))]
fn foreign(level: &str) -> Option<String> {
    level.contains('\0').then(|| "it holds a NUL".to_owned())
}

/// What only some platforms refuse.
#[cfg(windows)]
fn foreign(level: &str) -> Option<String> {
    let stem = level.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let device = DEVICES.iter().any(|name| stem.trim_end_matches(|c: char| c.is_ascii_digit()) == *name);
    let forbidden = level.contains(|c: char| c.is_control() || "\\:*?\"<>|".contains(c));
    (device || forbidden || level.ends_with(['.', ' '])).then(|| "Windows cannot have such a name".to_owned())
}

/// A path relative to a folder as the part of a key below a prefix. Each folder becomes a level that ends with `/`.
///
/// # Errors
/// Refuses names that are not UTF-8.
pub(crate) fn to_key(relative: &Path) -> Result<String> {
    let mut rest = String::new();
    for component in relative.components() {
        let Component::Normal(name) = component else { continue };
        let Some(name) = name.to_str() else {
            return Err(Failure::refused(format!(
                "the file name {} is not UTF-8, and keys are; rename the file",
                persist_core::escape(&relative.to_string_lossy())
            )));
        };
        if !rest.is_empty() {
            rest.push('/');
        }
        rest.push_str(name);
    }
    Ok(rest)
}

/// The prefix that a key stands for where a folder is meant: itself with a `/` at the end, or nothing.
pub(crate) fn folder_prefix(key: &str) -> String {
    if key.is_empty() || key.ends_with('/') { key.to_owned() } else { format!("{key}/") }
}

/// The last level of a key: what a copy of it into a folder is called.
pub(crate) fn last_level(key: &str) -> &str {
    key.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_keys_never_become_paths() {
        let long = "k".repeat(256);
        let hostile = [
            "..",
            ".",
            "../x",
            "../../etc/passwd",
            "a/../../x",
            "a/./b",
            "/etc/passwd",
            "//x",
            "a//b",
            "a/",
            "/",
            "",
            "a/..",
            "x\0y",
            &long,
        ];
        for key in hostile {
            let failure = to_path(key).unwrap_err();
            assert!(failure.to_string().contains("persist get NAME:KEY FILE"), "{key}: {failure}");
        }
    }

    #[test]
    fn harmless_keys_come_back() {
        for key in ["a", "a/b/c.json", "..a", "a..", "...", "~", "%2F", "ü/😀", "a b", "-rf", "a'\"b"] {
            let path = to_path(key).unwrap();
            assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{key}");
            assert_eq!(to_key(&path).unwrap(), key);
        }
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_not_text_are_refused() {
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::OsStr::from_bytes(b"a\xffb");
        assert!(to_key(Path::new(name)).unwrap_err().to_string().contains("not UTF-8"));
    }

    #[test]
    fn folders_and_last_levels() {
        assert_eq!(folder_prefix("a"), "a/");
        assert_eq!(folder_prefix("a/"), "a/");
        assert_eq!(folder_prefix(""), "");
        assert_eq!(last_level("a/b.txt"), "b.txt");
        assert_eq!(last_level("a/b/"), "b");
        assert_eq!(last_level("//"), "");
    }
}
