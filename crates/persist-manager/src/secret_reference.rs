use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::config_error::ConfigError;
use crate::context::Context;
use crate::node::{Origin, Place, Scalar};

/// The most that a secret file may hold, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// The text of a secret: what `env:NAME` or `file:PATH` refers to, or what variables of the environment gave.
///
/// A text that variables were expanded into is taken as it is: the environment cannot make the manager read files.
///
/// # Errors
/// Why it cannot be had; in strict mode also that it stands in the file itself.
pub(crate) fn reveal(scalar: &Scalar, place: &Place, context: &Context<'_>) -> Result<String, ConfigError> {
    if let Origin::Expanded(_) = scalar.origin {
        return Ok(scalar.text.clone());
    }
    if let Some(name) = scalar.text.strip_prefix("env:") {
        let found = context.environment.get(name.trim());
        return found.map(str::to_owned).ok_or_else(|| {
            ConfigError::new(place, format!("the secret's environment variable {} is not set", name.trim()))
        });
    }
    if let Some(path) = scalar.text.strip_prefix("file:") {
        let path = context.base.join(path.trim());
        return read(&path)
            .map_err(|why| ConfigError::new(place, format!("the secret file `{}` {why}", path.display())));
    }
    if scalar.origin == Origin::File {
        context.literal_secret(
            place,
            "a secret stands in the configuration itself; write `env:NAME` or `file:PATH` in its place",
        )?;
    }
    Ok(scalar.text.clone())
}

/// The text of a secret file, without the line break at its end.
fn read(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    // Asked before opening too, because opening a pipe would wait for somebody who writes to it.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let file = File::open(path).map_err(unreadable)?;
    check(&file.metadata().map_err(unreadable)?)?;
    let mut text = String::new();
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes"));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let secret = line.strip_suffix('\r').unwrap_or(line);
    if secret.is_empty() { Err("is empty".to_owned()) } else { Ok(secret.to_owned()) }
}

fn check(file: &std::fs::Metadata) -> Result<(), String> {
    if !file.is_file() {
        return Err("is not a regular file".to_owned());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(format!(
                "can be used by others than its owner (mode {:03o}); run `chmod 600` on it",
                mode & 0o777
            ));
        }
    }
    Ok(())
}
