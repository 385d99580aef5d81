use persist_core::{Array, Value};

use super::kit::{Storage, bytes, expect_absent, key, noise, put};
use super::{Harness, Verdict};

group! { "Ranges":
    C046 "A range is that part of the buffer" every_range,
    C047 "A range is cut at the end of the value" beyond_the_end,
    C048 "An empty or reversed range is empty" empty_ranges,
    C049 "A range of an absent key is None" absent_range,
    C050 "A range counts JSON text and array elements" ranges_of_kinds,
    C051 "Ranges of a large value are right at every border" large_ranges,
}

async fn expect_range(storage: &Storage, name: &str, value: &Value, start: u64, end: u64) -> Verdict {
    let found = storage.retrieve_range(&key(name)?, start..end).await?;
    ensure_eq!(found, Some(value.range(start..end)), "the range {start}..{end} of {} bytes", value.size());
    Ok(())
}

async fn every_range(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let value = noise(17, 3);
    put(&storage, &key("k")?, &value).await?;
    for start in 0..=17 {
        for end in start..=17 {
            expect_range(&storage, "k", &value, start, end).await?;
        }
    }
    Ok(())
}

async fn beyond_the_end(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for (name, value) in [("k", bytes("0123456789")), ("empty", bytes(""))] {
        put(&storage, &key(name)?, &value).await?;
        for (start, end) in [(0, 11), (5, u64::MAX), (9, 10), (10, 11), (11, 12), (u64::MAX - 1, u64::MAX)] {
            expect_range(&storage, name, &value, start, end).await?;
        }
        expect_range(&storage, name, &value, 0, u64::MAX).await?;
    }
    Ok(())
}

async fn empty_ranges(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let value = bytes("0123456789");
    put(&storage, &key("k")?, &value).await?;
    for (start, end) in [(0, 0), (4, 4), (10, 10), (50, 50), (7, 3), (u64::MAX, 0)] {
        expect_range(&storage, "k", &value, start, end).await?;
    }
    Ok(())
}

async fn absent_range(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    ensure_eq!(storage.retrieve_range(&key, 0..5).await?, None, "a range of a key never stored");
    put(&storage, &key, &bytes("x")).await?;
    storage.delete(&key, persist_core::DeleteOptions::new()).await?;
    ensure_eq!(storage.retrieve_range(&key, 0..0).await?, None, "an empty range of a deleted key");
    expect_absent(&storage, &key).await
}

async fn ranges_of_kinds(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let text = Value::json_text(r#" {"ä": [1, 2]} "#)?;
    let array = Value::Array(Array::from_vec(vec![2, 3], vec![1_i32, 2, 3, 4, 5, 6])?);
    for (name, value) in [("text", text), ("array", array)] {
        put(&storage, &key(name)?, &value).await?;
        for (start, end) in [(0, 4), (4, 12), (3, 5), (0, u64::MAX), (20, 99)] {
            expect_range(&storage, name, &value, start, end).await?;
        }
    }
    Ok(())
}

async fn large_ranges(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let size = storage.describe().max_value_bytes().min((1 << 20) + 5);
    let value = noise(usize::try_from(size).unwrap_or(usize::MAX), 9);
    put(&storage, &key("k")?, &value).await?;
    for border in [0, 512, 4096, 65_536, 131_072, 524_288, 1 << 20, size] {
        for start in border.saturating_sub(1)..=border + 1 {
            for len in [0, 1, 2, 4095, 4097, 65_537, size] {
                expect_range(&storage, "k", &value, start, start.saturating_add(len)).await?;
            }
        }
    }
    Ok(())
}
