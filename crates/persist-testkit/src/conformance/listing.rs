use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use persist_core::{
    Condition, ErrorKind, Expiry, Key, ListOptions, MAX_KEY_BYTES, MAX_PAGE, Operation, StoreOptions,
};

use super::kit::{
    Storage, bytes, expect_error, fill, key, keys, list, noise, numbered, page, put, remove, walk,
};
use super::{Harness, Verdict};

group! { "Listing":
    C052 "Keys are listed in byte order, each once" byte_order,
    C053 "A prefix is literal" literal_prefix,
    C054 "A prefix may end anywhere" prefix_ends_anywhere,
    C055 "A prefix is exact in case and form" exact_prefix,
    C056 "A prefix without keys gives an empty page" empty_page,
    C057 "Pages of every size give the same listing" page_sizes,
    C058 "The last page has no next, every other page has" exact_end,
    C059 "A page starts after a key, which need not exist" after_any_key,
    C060 "A page after a key outside the prefix stays within the prefix" after_outside,
    C061 "A limit of zero is refused" limit_zero,
    C062 "A limit above the largest page is the largest page" limit_above,
    C063 "Keys stored between pages disturb nothing" stored_between,
    C064 "Keys deleted between pages disturb nothing" deleted_between,
    C065 "A prefix that no key can have is refused" invalid_prefix,
    C066 "Nothing but keys is listed" nothing_else,
    C067 "A listing shows what is there all the while, whatever else changes" while_changing,
}

async fn byte_order(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    // In the order of UTF-16 or of a dictionary this list would be another one.
    let ordered = keys(&[
        "\u{1}",
        " ",
        "!",
        "-",
        "/",
        "/a",
        "10",
        "2",
        "9",
        "A",
        "B",
        "Z",
        "_",
        "a",
        "a\u{1}",
        "a!",
        "a/",
        "a/b",
        "a0",
        "aa",
        "b",
        "ba",
        "z",
        "~",
        "\u{7f}",
        "ä",
        "é",
        "\u{d7ff}",
        "\u{e000}",
        "\u{ffff}",
        "\u{10000}",
        "😀",
    ])?;
    for key in ordered.iter().rev().chain(&ordered) {
        put(&storage, key, &bytes("x")).await?;
    }
    ensure_eq!(list(&storage, "").await?, ordered, "the keys");
    Ok(())
}

async fn literal_prefix(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let all = keys(&[
        "a%b", "a*b", "a+b", "a.b", "a?b", "a[b", "a[xb]", "a\\b", "a\\%b", "a^b", "a_b", "a{b}", "axb",
        "a$b", "a|b", "abb", "aa", "%", "_", "*", "?", "x", "[x]",
    ])?;
    fill(&storage, &all).await?;
    for prefix in [
        "a%", "a_", "a*", "a?", "a.", "a[", "a[xb]", "a\\", "a\\%", "a^", "a{", "a$", "a|", "a+", "%", "_",
        "*", "?", "[x]", "^", ".", ".*", "a.*", "%%",
    ] {
        let mut expected: Vec<_> = all.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
        expected.sort_unstable();
        ensure_eq!(list(&storage, prefix).await?, expected, "the keys under the prefix {prefix:?}");
    }
    Ok(())
}

async fn prefix_ends_anywhere(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let all = keys(&["users", "users/alice", "users/alice/x", "users/albert", "usersx", "v", "ünder", "üx"])?;
    fill(&storage, &all).await?;
    for prefix in ["", "u", "users", "users/", "users/al", "users/alice", "users/alice/", "ü", "v"] {
        let mut expected: Vec<_> = all.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
        expected.sort_unstable();
        ensure_eq!(list(&storage, prefix).await?, expected, "the keys under the prefix {prefix:?}");
    }
    Ok(())
}

async fn exact_prefix(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    fill(&storage, &keys(&["abc", "Abc", "ABC", "é/1", "e\u{301}/1", "ß", "ss", "a/b", "a%2Fb"])?).await?;
    let under = [
        ("a", vec!["a%2Fb", "a/b", "abc"]),
        ("A", vec!["ABC", "Abc"]),
        ("é", vec!["é/1"]),
        ("e\u{301}", vec!["e\u{301}/1"]),
        ("e", vec!["e\u{301}/1"]),
        ("s", vec!["ss"]),
        ("a/", vec!["a/b"]),
    ];
    for (prefix, expected) in under {
        ensure_eq!(list(&storage, prefix).await?, keys(&expected)?, "the keys under the prefix {prefix:?}");
    }
    Ok(())
}

async fn empty_page(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for stored in [&[][..], &keys(&["a", "ab/c", "b"])?] {
        fill(&storage, stored).await?;
        for prefix in ["c", "abc", "ab/c/", "aa", "\u{10ffff}", "bb", "0"] {
            let found = page(&storage, prefix, None, 10).await?;
            ensure_eq!((found.keys, found.next), (vec![], None), "the page of the prefix {prefix:?}");
        }
    }
    Ok(())
}

async fn page_sizes(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let mut expected = keys(&["p", "p/", "p/a", "p/a/b", "p0", "pé", "p😀"])?;
    expected.extend(numbered("p/n", 20)?);
    expected.sort_unstable();
    fill(&storage, &expected).await?;
    fill(&storage, &keys(&["o", "q", "P", "\u{1}", "~"])?).await?;
    let count = expected.len();
    for limit in [1, 2, 3, 7, count - 1, count, count + 1, 1000] {
        ensure_eq!(walk(&storage, "p", limit).await?, expected, "the keys in pages of {limit}");
    }
    Ok(())
}

async fn exact_end(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let six = numbered("k", 6)?;
    fill(&storage, &six).await?;
    put(&storage, &key("l")?, &bytes("x")).await?;
    for limit in [1, 2, 3, 6] {
        let mut after = None;
        for turn in 1..=6 / limit {
            let found = page(&storage, "k", after.as_ref(), limit).await?;
            ensure_eq!(found.keys, six[(turn - 1) * limit..turn * limit], "page {turn} of {limit} keys each");
            let more = turn * limit < 6;
            ensure_eq!(found.next.is_some(), more, "whether a page follows page {turn} of {limit} keys each");
            after = found.next;
        }
    }
    Ok(())
}

async fn after_any_key(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let all = keys(&["b", "b/1", "b/2", "c", "d", "é"])?;
    fill(&storage, &all).await?;
    for after in ["a", "b", "b/", "b/1", "b/15", "b/2", "b0", "c", "cc", "d", "z", "é", "\u{10ffff}"] {
        let after = key(after)?;
        let expected: Vec<_> = all.iter().filter(|key| **key > after).cloned().collect();
        ensure_eq!(page(&storage, "", Some(&after), 100).await?.keys, expected, "the keys after {after:?}");
        let first: Vec<_> = expected.iter().take(1).cloned().collect();
        ensure_eq!(page(&storage, "", Some(&after), 1).await?.keys, first, "the one key after {after:?}");
    }
    Ok(())
}

async fn after_outside(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    fill(&storage, &keys(&["a", "m/1", "m/2", "m0", "z"])?).await?;
    for after in ["a", "b", "m", "m/", "\u{1}"] {
        let found = page(&storage, "m/", Some(&key(after)?), 10).await?.keys;
        ensure_eq!(found, keys(&["m/1", "m/2"])?, "the keys under m/ after {after:?}");
    }
    for after in ["m/2", "m/3", "m0", "z", "\u{10ffff}"] {
        let found = page(&storage, "m/", Some(&key(after)?), 10).await?;
        ensure_eq!((found.keys, found.next), (vec![], None), "the page under m/ after {after:?}");
    }
    Ok(())
}

async fn limit_zero(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    for stored in [&[][..], &keys(&["k"])?] {
        fill(&storage, stored).await?;
        let refused = storage.list_keys("", ListOptions::new().limit(0)).await;
        expect_error(refused, ErrorKind::InvalidValue, "a page of 0 keys")?;
    }
    Ok(())
}

async fn limit_above(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    require!(!storage.describe().capabilities().evicts, "it evicts, so it need not hold so many keys");
    let all = numbered("k", MAX_PAGE + 1)?;
    fill(&storage, &all).await?;
    for limit in [MAX_PAGE, MAX_PAGE + 1, usize::MAX] {
        let found = page(&storage, "", None, limit).await?;
        ensure_eq!(found.keys.len(), MAX_PAGE, "how many keys a page with a limit of {limit} holds");
        ensure!(found.keys[..] == all[..MAX_PAGE], "a page with a limit of {limit} holds other keys");
        let rest = page(&storage, "", found.next.as_ref(), limit).await?;
        ensure_eq!((rest.keys, rest.next), (vec![all[MAX_PAGE].clone()], None), "the page after the largest");
    }
    Ok(())
}

async fn stored_between(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    fill(&storage, &keys(&["b", "d", "f", "h"])?).await?;
    let first = page(&storage, "", None, 2).await?;
    ensure_eq!(first.keys, keys(&["b", "d"])?, "the first page");
    fill(&storage, &keys(&["a", "c", "d", "e", "g", "i"])?).await?;
    let mut rest = Vec::new();
    let mut after = first.next;
    while let Some(cursor) = after {
        let next = page(&storage, "", Some(&cursor), 2).await?;
        rest.extend(next.keys);
        ensure!(next.next.as_ref() > Some(&cursor) || next.next.is_none(), "the listing does not advance");
        after = next.next;
    }
    ensure_eq!(rest, keys(&["e", "f", "g", "h", "i"])?, "the pages after others were stored");
    Ok(())
}

async fn deleted_between(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    fill(&storage, &keys(&["a", "b", "c", "d", "e", "f"])?).await?;
    let first = page(&storage, "", None, 2).await?;
    ensure_eq!(first.keys, keys(&["a", "b"])?, "the first page");
    // Among them the key on which the listing stands, and the first one of the next page.
    for gone in keys(&["a", "b", "c", "e"])? {
        remove(&storage, &gone).await?;
    }
    let rest = page(&storage, "", first.next.as_ref(), 10).await?;
    ensure_eq!((rest.keys, rest.next), (keys(&["d", "f"])?, None), "the page after others were deleted");
    Ok(())
}

async fn invalid_prefix(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    put(&storage, &key("k")?, &bytes("x")).await?;
    for prefix in ["\0", "k\0", &"k".repeat(MAX_KEY_BYTES + 1)] {
        let refused = storage.list_keys(prefix, ListOptions::new()).await;
        expect_error(refused, ErrorKind::InvalidKey, "a prefix that no key can have")?;
    }
    ensure_eq!(
        list(&storage, &"k".repeat(MAX_KEY_BYTES)).await?,
        [],
        "the keys under a prefix of 1024 bytes"
    );
    Ok(())
}

async fn nothing_else(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let kept = keys(&["a/b", "k"])?;
    fill(&storage, &kept).await?;
    let (gone, k) = (key("gone")?, &kept[1]);
    put(&storage, &gone, &noise(100_000, 1)).await?;
    remove(&storage, &gone).await?;
    storage.touch(k, Expiry::Never).await?;
    let refused = storage.store(k, bytes("y"), StoreOptions::new().if_absent().tag("t", "x")).await;
    expect_error(refused, ErrorKind::Conflict, "if_absent on a stored key")?;
    let batch = vec![
        Operation::put(kept[0].clone(), bytes("z"), StoreOptions::new().tag("tag", "text")),
        Operation::Check(gone.clone(), Condition::IfAbsent),
    ];
    storage.transact(batch).await?;
    storage.maintain().await?;
    storage.flush().await?;
    storage.verify().await?;
    ensure_eq!(list(&storage, "").await?, kept, "all that is listed after changes of every sort");
    for prefix in [".", "_", "tmp", "\u{1}", "i", "m"] {
        ensure_eq!(
            list(&storage, prefix).await?,
            [],
            "what is listed under {prefix:?}, where nothing was stored"
        );
    }
    Ok(())
}

async fn while_changing(harness: &dyn Harness) -> Verdict {
    let storage = harness.open().await?;
    let stable = numbered("k", 30)?;
    fill(&storage, &stable).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let churn: Vec<_> = (0..2)
        .map(|task| tokio::spawn(churn(Arc::clone(&storage), stable.clone(), task, Arc::clone(&stop))))
        .collect();
    let mut seen = Ok(());
    for _ in 0..20 {
        seen = walk_past(&storage, &stable).await;
        if seen.is_err() {
            break;
        }
    }
    stop.store(true, Ordering::Release);
    for task in churn {
        task.await??;
    }
    seen
}

/// Stores and deletes neighbours of the stable keys, and overwrites the stable ones, until told to stop.
async fn churn(storage: Storage, stable: Vec<Key>, task: usize, stop: Arc<AtomicBool>) -> Verdict {
    for round in 0.. {
        if stop.load(Ordering::Acquire) {
            return Ok(());
        }
        let here = &stable[(round * 7 + task) % stable.len()];
        let neighbour = key(&format!("{here}/{task}"))?;
        put(&storage, &neighbour, &bytes("x")).await?;
        put(&storage, here, &noise(30, round as u64)).await?;
        remove(&storage, &neighbour).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn walk_past(storage: &Storage, stable: &[Key]) -> Verdict {
    let found = walk(storage, "", 3).await?;
    ensure!(found.is_sorted_by(|a, b| a < b), "keys are listed twice or out of order: {found:?}");
    let seen: Vec<_> = found.into_iter().filter(|key| stable.contains(key)).collect();
    ensure_eq!(seen, stable, "the keys that were there all the while");
    Ok(())
}
