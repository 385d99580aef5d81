//! The contract, for both promises of durability, and for a file that is cut into parts.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // A panic here is the report.

mod h5py;

use std::path::PathBuf;
use std::sync::Arc;

use persist_core::{Array, BaseStorage, ByteSize, Key, ManualClock, OpenContext, Result, async_trait};
use persist_hdf5::{Durability, Hdf5Config, Hdf5Storage};
use persist_testkit::{Harness, Variant};

struct Hdf5 {
    place: tempfile::TempDir,
    clock: Arc<ManualClock>,
    durability: Durability,
    /// The limit of a file.
    part: Option<ByteSize>,
}

impl Hdf5 {
    fn new(durability: Durability) -> Self {
        Self { place: tempfile::tempdir().unwrap(), clock: Arc::default(), durability, part: None }
    }

    /// Cut into small files.
    fn parts() -> Self {
        Self { part: Some(ByteSize(64 << 10)), ..Self::new(Durability::Strict) }
    }

    fn strict() -> Self {
        Self::new(Durability::Strict)
    }

    fn relaxed() -> Self {
        Self::new(Durability::Relaxed)
    }

    fn config(&self) -> Hdf5Config {
        let mut config = Hdf5Config::new("folder/main.h5").durability(self.durability);
        config.max_file_size = self.part;
        config
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("folder/main.h5")
    }

    async fn open_with(&self, config: Hdf5Config) -> Result<Arc<dyn BaseStorage>> {
        let mut context = OpenContext::new(self.place.path());
        context.clock = self.clock.clone();
        Ok(Arc::new(Hdf5Storage::open("main", config, &context).await?))
    }
}

#[async_trait]
impl Harness for Hdf5 {
    async fn open(&self) -> Result<Arc<dyn BaseStorage>> {
        self.open_with(self.config()).await
    }

    async fn open_variant(&self, variant: Variant) -> Result<Option<Arc<dyn BaseStorage>>> {
        let mut config = self.config();
        if !variant.settle(&mut config.ttl, &mut config.max_value, &mut config.read_only) {
            return Ok(None);
        }
        self.open_with(config).await.map(Some)
    }

    async fn open_another(&self) -> Result<Option<Arc<dyn BaseStorage>>> {
        self.open().await.map(Some)
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(Arc::clone(&self.clock))
    }

    /// Flips a bit of the last byte of the data, with h5py: where the bytes lie in the file is nobody's business here.
    async fn corrupt(&self, key: &Key) -> bool {
        h5py::settle(&self.path());
        let script = format!(
            "{}
with opened(args[0], 'r+') as f:
    d = find(f, args[1])
    old = np.array(d[()])
    raw = bytearray(old.tobytes())
    raw[-1] ^= 1
    d[()] = np.frombuffer(bytes(raw), old.dtype).reshape(old.shape)[()]
",
            h5py::FIND
        );
        h5py::tamper(&script, &[self.path().to_str().unwrap(), key]).unwrap();
        true
    }

    async fn foreign_array(&self, key: &Key) -> Result<Option<Array>> {
        h5py::settle(&self.path());
        let script = format!(
            "{}
with opened(args[0], 'r') as f:
    a = np.array(find(f, args[1])[()])
    print(a.dtype.name, json.dumps(a.shape), a.tobytes().hex())
",
            h5py::FIND
        );
        let answer = h5py::run(&script, &[self.path().to_str().unwrap(), key]).unwrap();
        let (dtype, rest) = answer.trim_end_matches('\n').split_once(' ').unwrap();
        let (shape, hex) = rest.rsplit_once(' ').unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        Array::new(dtype.parse()?, serde_json::from_str(shape).unwrap(), bytes.into()).map(Some)
    }
}

persist_testkit::conformance! {
    "strict" => Hdf5::strict,
    "relaxed" => Hdf5::relaxed,
    "parts" => Hdf5::parts,
}
