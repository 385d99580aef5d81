use persist_core::{Metadata, Timestamp, Version};

/// What the note begins with.
const MARK: &str = "persist-behind/1 ";

/// It is no note that this layer made.
#[derive(Debug)]
pub(super) struct NotANote;

/// The encodings of a value on its way down: the note, and those that it came with.
///
/// The storage below gives a version and times of its own when it is written. Those that were answered stand in the note, the
/// first of the encodings: `persist-behind/1 VERSION CREATED MODIFIED`, times in milliseconds since 1970. It is the first one so that
/// layers above find theirs at the end, also if this layer is taken away one day.
pub(super) fn noted(metadata: &Metadata) -> Vec<String> {
    let (created, modified) = (metadata.created_at.as_millis(), metadata.modified_at.as_millis());
    let mut encodings = Vec::with_capacity(metadata.encodings.len() + 1);
    encodings.push(format!("{MARK}{} {created} {modified}", metadata.version));
    encodings.extend(metadata.encodings.iter().cloned());
    encodings
}

/// The version that was answered; `None`: the value has no note.
pub(super) fn version(metadata: &Metadata) -> Option<Version> {
    let note = metadata.encodings.first()?.strip_prefix(MARK)?;
    note.split(' ').next()?.parse().ok().map(Version::from_u64)
}

/// The metadata as they were answered when the value was stored. What was stored before the layer was there has no note, and
/// stays as it is.
pub(super) fn read(mut metadata: Metadata) -> Result<Metadata, NotANote> {
    let Some(note) = metadata.encodings.first().and_then(|first| first.strip_prefix(MARK)) else {
        return Ok(metadata);
    };
    let mut numbers = note.split(' ');
    let version = numbers.next().and_then(|word| word.parse().ok()).ok_or(NotANote)?;
    let mut moment = || numbers.next().and_then(|word| word.parse().ok()).ok_or(NotANote);
    let (created, modified) = (moment()?, moment()?);
    if numbers.next().is_some() {
        return Err(NotANote);
    }
    metadata.version = Version::from_u64(version);
    metadata.created_at = Timestamp::from_millis(created);
    metadata.modified_at = Timestamp::from_millis(modified);
    metadata.encodings.remove(0);
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use persist_core::{Descriptor, StoreOptions, Value};

    use super::*;

    #[test]
    fn what_was_answered_comes_back_and_what_is_no_note_is_refused() {
        let options = StoreOptions { encodings: vec!["zstd".to_owned()], ..StoreOptions::new() };
        let answered = Descriptor::new("s", "memory").draft_metadata(&Value::bytes("x"), &options);
        let encodings = noted(&answered);
        let below = Metadata {
            version: Version::from_u64(1),
            created_at: Timestamp::from_millis(5),
            encodings,
            ..answered.clone()
        };
        assert_eq!(read(below.clone()).unwrap(), answered);
        assert_eq!(read(answered.clone()).unwrap(), answered);
        for wrong in [
            "persist-behind/1 ",
            "persist-behind/1 1 2",
            "persist-behind/1 1 2 3 4",
            "persist-behind/1 x 2 3",
        ] {
            let damaged = Metadata { encodings: vec![wrong.to_owned()], ..below.clone() };
            assert!(read(damaged).is_err(), "{wrong}");
        }
    }
}
