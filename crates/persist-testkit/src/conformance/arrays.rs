use bytes::Bytes;
use ndarray::{Array2, ArrayD, arr0, array};
use num_complex::Complex;
use persist_core::{Array, DType, ErrorKind, MAX_RANK, StorageExt, Value};

use super::kit::{bytes, entry, expect_error, expect_value, key, noise, put};
use super::{Harness, Verdict};

group! { "Arrays":
    C037 "Arrays of every dtype come back bit for bit" every_dtype,
    C038 "An array of rank 0 is an array" rank_zero,
    C039 "Empty axes keep their shape" empty_axes,
    C040 "NaN, infinities and negative zero are data" special_floats,
    C041 "Arrays of up to 32 axes come back" many_axes,
    C042 "Dtype and shape belong to the value" same_buffer,
    C043 "An ndarray of any layout comes back as it was" any_layout,
    C044 "A large array comes back" large_array,
    C045 "A value read as what it is not is an error" wrong_reading,
}

/// An array of a dtype and shape whose elements are valid for it.
fn sample(dtype: DType, shape: &[usize]) -> Result<Value, super::Stop> {
    let len = shape.iter().product::<usize>() * dtype.size();
    let content = noise(len, len as u64 + 1);
    let data: Bytes = match dtype {
        DType::Bool => content.buffer().iter().map(|byte| byte & 1).collect(),
        _ => content.buffer().clone(),
    };
    Ok(Value::Array(Array::new(dtype, shape.to_vec(), data)?))
}

async fn every_shape(harness: &dyn Harness, shapes: &[&[usize]]) -> Verdict {
    let storage = harness.open().await?;
    for dtype in DType::ALL {
        for shape in shapes {
            let (key, value) = (key(&format!("{dtype}/{shape:?}"))?, sample(dtype, shape)?);
            put(&storage, &key, &value).await?;
            expect_value(&storage, &key, &value).await?;
            let found = entry(&storage, &key).await?.metadata.size;
            ensure_eq!(found, value.size(), "the size of a {dtype} array of shape {shape:?}");
        }
    }
    Ok(())
}

async fn every_dtype(harness: &dyn Harness) -> Verdict {
    every_shape(harness, &[&[1], &[7], &[3, 5], &[2, 1, 4]]).await
}

async fn rank_zero(harness: &dyn Harness) -> Verdict {
    every_shape(harness, &[&[]]).await?;
    let (storage, key) = (harness.open().await?, key("scalar")?);
    storage.put_array(&key, arr0(2.5_f64)).await?;
    let found = storage.get_array::<f64>(&key).await?;
    ensure_eq!(found, Some(arr0(2.5_f64).into_dyn()), "an array of rank 0");
    Ok(())
}

async fn empty_axes(harness: &dyn Harness) -> Verdict {
    every_shape(harness, &[&[0], &[0, 3], &[3, 0], &[2, 0, 5], &[0, 0, 0]]).await
}

async fn special_floats(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let doubles = [f64::NAN, -f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, f64::MIN_POSITIVE / 2.0];
    // Signalling and quiet NaN with a payload: only the bits tell them apart.
    let odd = [0x7ff0_0000_0000_0001, 0xfff8_0000_dead_beef].map(f64::from_bits);
    let doubles = [&doubles[..], &odd[..]].concat();
    let floats: Vec<f32> = doubles.iter().map(|x| *x as f32).collect();
    let complex = doubles.iter().map(|x| Complex::new(*x, -*x)).collect();
    let len = doubles.len();
    let arrays = [
        Array::from_vec(vec![len], doubles)?,
        Array::from_vec(vec![len], floats)?,
        Array::from_vec::<Complex<f64>>(vec![len], complex)?,
    ];
    for array in arrays {
        put(&storage, &key, &array.clone().into()).await?;
        expect_value(&storage, &key, &array.into()).await?;
    }
    Ok(())
}

async fn many_axes(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    for rank in 0..=MAX_RANK {
        let mut shape = vec![1; rank];
        shape.iter_mut().take(3).enumerate().for_each(|(i, axis)| *axis = i + 2);
        let value = sample(DType::I16, &shape)?;
        put(&storage, &key, &value).await?;
        expect_value(&storage, &key, &value).await?;
    }
    Ok(())
}

async fn same_buffer(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let data = Bytes::from_static(&[1; 16]);
    let forms: [(DType, &[usize]); 8] = [
        (DType::U8, &[16]),
        (DType::U8, &[4, 4]),
        (DType::U8, &[16, 1]),
        (DType::U8, &[1, 16]),
        (DType::I8, &[16]),
        (DType::Bool, &[16]),
        (DType::F64, &[2]),
        (DType::Complex128, &[]),
    ];
    let key = key("k")?;
    let mut checksums = Vec::new();
    for (dtype, shape) in forms {
        let value = Value::Array(Array::new(dtype, shape.to_vec(), data.clone())?);
        put(&storage, &key, &value).await?;
        expect_value(&storage, &key, &value).await?;
        let checksum = entry(&storage, &key).await?.metadata.checksum;
        ensure!(
            !checksums.contains(&checksum),
            "{dtype} of shape {shape:?} has the checksum of another form"
        );
        checksums.push(checksum);
    }
    Ok(())
}

async fn any_layout(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let rows: Array2<i32> = array![[1, 2, 3], [4, 5, 6]];
    let backwards = {
        let mut turned = rows.clone();
        turned.invert_axis(ndarray::Axis(1));
        turned
    };
    for matrix in [rows.clone(), rows.reversed_axes(), backwards] {
        storage.put_array(&key, matrix.clone()).await?;
        let found: Option<ArrayD<i32>> = storage.get_array(&key).await?;
        ensure_eq!(found, Some(matrix.into_dyn()), "a matrix in another layout");
    }
    Ok(())
}

async fn large_array(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let room = usize::try_from(storage.describe().max_value_bytes() / 8).unwrap_or(usize::MAX);
    let rows = (room / 512).min(1024);
    let value = sample(DType::F64, &[rows, 512])?;
    put(&storage, &key, &value).await?;
    let found = entry(&storage, &key).await?.value;
    ensure!(found == value, "an array of {rows} x 512 doubles came back as {found:?} with other elements");
    Ok(())
}

async fn wrong_reading(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    storage.put("json", &7).await?;
    put(&storage, &key("bytes")?, &bytes("7")).await?;
    storage.put_array("array", array![1.0_f32]).await?;
    let wrong = ErrorKind::InvalidValue;
    expect_error(storage.get::<u8>("bytes").await, wrong, "get of bytes")?;
    expect_error(storage.get::<String>("json").await, wrong, "get of a number as text")?;
    expect_error(storage.get_bytes("json").await, wrong, "get_bytes of JSON")?;
    expect_error(storage.get_array::<f32>("bytes").await, wrong, "get_array of bytes")?;
    expect_error(storage.get_array::<f64>("array").await, wrong, "get_array of another dtype")?;
    Ok(())
}
