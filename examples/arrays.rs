//! Keeps n-dimensional arrays in files that numpy loads, and reads a part of one.
#![allow(clippy::print_stdout)] // Output is what an example is for.

use persist::ndarray::{Array2, ArrayD, arr0};
use persist::{BaseStorage, Key, OpenContext, Result, StorageExt};

#[tokio::main]
async fn main() -> Result<()> {
    let config = persist::file::FileConfig::new("data/arrays");
    let storage = persist::file::FileStorage::open("arrays", config, &OpenContext::default()).await?;

    // Any rank and dtype; an array in standard layout is stored without a copy.
    let weights = Array2::from_shape_fn((1000, 64), |(row, column)| (row * 64 + column) as f32);
    let stored = storage.put_array("model/weights", weights.clone()).await?;
    storage.put_array("model/learning-rate", arr0(0.001_f64)).await?;
    println!(
        "stored model/weights: {} bytes, version {}, blake3 {}",
        stored.size, stored.version, stored.checksum
    );

    let back: Option<ArrayD<f32>> = storage.get_array("model/weights").await?;
    assert_eq!(back, Some(weights.into_dyn()));

    // The elements from the second row on, two rows of them, without the rest.
    let row = 64 * size_of::<f32>() as u64;
    let part = storage.retrieve_range(&Key::new("model/weights")?, row..3 * row).await?;
    println!("rows 1 and 2 are {} bytes", part.map_or(0, |bytes| bytes.len()));
    println!("python3 -c \"import numpy; print(numpy.load('data/arrays/model/weights.npy').shape)\"");
    storage.close().await
}
