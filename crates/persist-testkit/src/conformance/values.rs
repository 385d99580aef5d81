use persist_core::{ErrorKind, StorageExt, Value};

use super::kit::{bytes, entry, expect_error, expect_value, key, list, noise, put};
use super::{Harness, Verdict};

group! { "Values":
    C013 "JSON text comes back byte for byte" json_text,
    C014 "JSON null is a value" null_is_a_value,
    C015 "Empty values are values" empty_values,
    C016 "Every byte comes back" every_byte,
    C017 "Content never changes the kind" kind_is_kept,
    C018 "Values of every length come back" every_length,
    C019 "A value of many megabytes comes back" large_value,
    C020 "JSON at the limits of depth and number comes back" json_limits,
    C021 "Storing another kind changes the kind" kind_is_replaced,
    C022 "NaN in JSON is refused and the old value stays" nan_in_json,
}

/// JSON that is right and that a rewriting storage would change.
const JSON_TEXTS: &[&str] = &[
    " { \"b\" : 1 , \"a\" : [ 1.50, 1e2, -0.0, -0, 1E+2 ] }\n",
    r#"{"a":1,"a":2}"#,
    r#""\u00e9\ud83d\ude00\/\b""#,
    r#"[12345678901234567890123456789, 0.1000000000000000055511151231257827]"#,
    "\"\u{1f600} e\u{301} \u{e9} \u{2028}\"",
    "true",
    "\t0",
    r#"{"":{"%":"_"}}"#,
];

async fn json_text(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    for text in JSON_TEXTS {
        put(&storage, &key, &Value::json_text(*text)?).await?;
        let found = entry(&storage, &key).await?.value;
        ensure_eq!(found.as_json()?.as_str(), *text, "the JSON text");
    }
    Ok(())
}

async fn null_is_a_value(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    put(&storage, &key, &Value::json(&())?).await?;
    expect_value(&storage, &key, &Value::json_text("null")?).await?;
    ensure!(storage.contains(&key).await?, "contains says false for a stored null");
    ensure_eq!(list(&storage, "").await?, std::slice::from_ref(&key), "the keys with a stored null");
    let found = storage.get::<Option<u8>>(&key).await?;
    ensure_eq!(found, Some(None), "a stored null read as an Option");
    Ok(())
}

async fn empty_values(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let empty = [bytes(""), Value::json_text("\"\"")?, Value::json_text("{}")?, Value::json_text("[]")?];
    for (i, value) in empty.iter().enumerate() {
        let key = key(&format!("k{i}"))?;
        put(&storage, &key, value).await?;
        expect_value(&storage, &key, value).await?;
        ensure!(storage.contains(&key).await?, "contains says false for the empty value {value:?}");
    }
    ensure_eq!(list(&storage, "").await?.len(), empty.len(), "how many empty values are listed");
    Ok(())
}

async fn every_byte(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let all: Vec<u8> = (0..=255).collect();
    let backwards: Vec<u8> = (0..=255).rev().cycle().take(1000).collect();
    for content in [all, backwards, b"\r\n\n\r\x00\x1a".to_vec(), vec![0; 300], vec![255; 300]] {
        put(&storage, &key, &bytes(&content)).await?;
        expect_value(&storage, &key, &bytes(&content)).await?;
    }
    Ok(())
}

async fn kind_is_kept(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let lookalikes = [
        bytes(br#"{"json": true}"#),
        bytes("null"),
        bytes(b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f8'"),
        bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00"),
        bytes(b"\x28\xb5\x2f\xfd\x00\x00"),
        Value::json(&"\u{feff}{}")?,
        Value::json(&"AAECAw==")?,
    ];
    for value in lookalikes {
        put(&storage, &key, &value).await?;
        expect_value(&storage, &key, &value).await?;
    }
    Ok(())
}

async fn every_length(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    for border in [0_usize, 16, 64, 256, 512, 1024, 4096, 8192, 65_536, 1 << 20] {
        for len in border.saturating_sub(1)..=border + 1 {
            put(&storage, &key, &noise(len, len as u64)).await?;
            expect_value(&storage, &key, &noise(len, len as u64)).await?;
        }
    }
    Ok(())
}

async fn large_value(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let size = storage.describe().max_value_bytes().min(8 << 20);
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let text = Value::json(&"x".repeat(size.saturating_sub(2)))?;
    for value in [noise(size, 1), bytes(vec![b'a'; size]), text] {
        put(&storage, &key, &value).await?;
        let found = entry(&storage, &key).await?.value;
        ensure!(found == value, "a value of {size} bytes came back as another one of {} bytes", found.size());
    }
    Ok(())
}

async fn json_limits(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let depth = persist_core::MAX_JSON_DEPTH;
    let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for text in [&deep, "18446744073709551615", "-9223372036854775808", "1.7976931348623157e308", "5e-324"] {
        put(&storage, &key, &Value::json_text(text.to_owned())?).await?;
        ensure_eq!(entry(&storage, &key).await?.value.as_json()?.as_str(), text, "the JSON text");
    }
    storage.put(&key, &u64::MAX).await?;
    ensure_eq!(storage.get(&key).await?, Some(u64::MAX), "the largest u64");
    storage.put(&key, &f64::MIN_POSITIVE).await?;
    ensure_eq!(storage.get(&key).await?, Some(f64::MIN_POSITIVE), "the smallest normal f64");
    Ok(())
}

async fn kind_is_replaced(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    let kinds = super::kit::one_of_each()?;
    for (name, value) in kinds.iter().chain(kinds.iter().rev()).chain([&kinds[2], &kinds[0]]) {
        let stored = put(&storage, &key, value).await?;
        ensure_eq!(stored.kind, value.kind(), "the kind that store answered for {name}");
        let found = entry(&storage, &key).await?;
        ensure_eq!(found.value, *value, "the value after {name} was stored over another kind");
        ensure_eq!(found.metadata.kind, value.kind(), "the kind after {name} was stored over another kind");
    }
    ensure_eq!(list(&storage, "").await?, [key], "the keys after one changed its kind");
    Ok(())
}

async fn nan_in_json(harness: &dyn Harness) -> Verdict {
    let (storage, key) = (harness.open().await?, key("k")?);
    storage.put(&key, &1.5).await?;
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let refused = storage.put(&key, &vec![number]).await;
        expect_error(refused, ErrorKind::InvalidValue, "put of a number that JSON lacks")?;
        ensure_eq!(storage.get(&key).await?, Some(1.5), "the value after a refused put");
    }
    Ok(())
}
