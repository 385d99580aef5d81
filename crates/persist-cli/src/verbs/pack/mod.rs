//! `persist pack`: packs as files of their own, built, checked, unpacked, proved and compared.

mod build;
mod check_proof;
mod contents;
mod diff;
mod drift;
mod extract;
mod keygen;
mod ls;
mod prove;
mod sign;
mod verify;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use persist_pack::{Archive, PublicKey, SigningKey, merkle};

use crate::app::App;
use crate::exit::{Failure, Result};

/// Build packs, check and unpack them, prove what is in them, and compare
///
/// A pack is one file that ZIP tools open, with a hash of each entry, a root over all of them, and a signature if you want.
#[derive(Debug, Args)]
pub(crate) struct Pack {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Build(build::Build),
    Verify(verify::Verify),
    Ls(ls::Ls),
    Extract(extract::Extract),
    Prove(prove::Prove),
    CheckProof(check_proof::CheckProof),
    Keygen(keygen::Keygen),
    Sign(sign::Sign),
    Diff(diff::Diff),
    Drift(drift::Drift),
}

impl Pack {
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        match self.what {
            What::Build(verb) => verb.run(app).await,
            What::Verify(verb) => verb.run(app).await,
            What::Ls(verb) => verb.run(app).await,
            What::Extract(verb) => verb.run(app).await,
            What::Prove(verb) => verb.run(app).await,
            What::CheckProof(verb) => verb.run(app),
            What::Keygen(verb) => verb.run(app),
            What::Sign(verb) => verb.run(app).await,
            What::Diff(verb) => verb.run(app).await,
            What::Drift(verb) => verb.run(app).await,
        }
    }
}

/// Does something that holds its thread up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Failure::new(format!("the work ended before its time: {error}"))))
}

fn open(path: &Path) -> Result<Archive> {
    // Said first in the words of all verbs.
    std::fs::metadata(path).map_err(|error| Failure::io("read", path, &error))?;
    Ok(Archive::open(path)?)
}

/// A public key as it was printed, or a file with it.
fn public_key(text: &str) -> Result<PublicKey> {
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let path = Path::new(text);
    let content = std::fs::read_to_string(path).map_err(|error| Failure::io("read the key", path, &error))?;
    Ok(content.parse()?)
}

fn secret_key(path: &Path) -> Result<SigningKey> {
    let content = std::fs::read_to_string(path).map_err(|error| Failure::io("read the key", path, &error))?;
    Ok(content.parse()?)
}

/// A root in hexadecimal.
fn parse_root(text: &str) -> Result<merkle::Hash, String> {
    let hash =
        blake3::Hash::from_hex(text).map_err(|_| "give the 64 hexadecimal digits of a root".to_owned())?;
    Ok(*hash.as_bytes())
}

fn hex(root: &merkle::Hash) -> String {
    blake3::Hash::from_bytes(*root).to_hex().to_string()
}

/// The pack that a verb works on.
#[derive(Clone, Debug, Args)]
struct PackFile {
    /// The pack
    #[arg(value_name = "PACK")]
    pack: PathBuf,
}
