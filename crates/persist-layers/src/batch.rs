use persist_core::{ErrorKind, Result, StorageError};

/// Parts a batch into what goes on and, for each place of it, the error of what does not.
pub(crate) fn split<T>(items: impl Iterator<Item = Result<T>>) -> (Vec<T>, Vec<Option<StorageError>>) {
    let mut passed = Vec::new();
    let refused = items.map(|item| item.map(|item| passed.push(item)).err()).collect();
    (passed, refused)
}

/// The answers to what went on, put in the places between the errors.
pub(crate) fn merge<T>(refused: Vec<Option<StorageError>>, answers: Vec<Result<T>>) -> Vec<Result<T>> {
    let mut answers = answers.into_iter();
    refused
        .into_iter()
        .map(|error| match error {
            Some(error) => Err(error),
            None => answers.next().unwrap_or_else(|| Err(too_few())),
        })
        .collect()
}

fn too_few() -> StorageError {
    let message = "a batch was answered with too few answers; the storage below breaks its contract";
    StorageError::new(ErrorKind::Internal, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_in_their_places() {
        let refuse = || Err(StorageError::new(ErrorKind::TooLarge, "no"));
        let (passed, refused) = split([Ok(1), refuse(), Ok(3)].into_iter());
        assert_eq!(passed, [1, 3]);
        let answers = merge(refused, passed.into_iter().map(|n| Ok(n * 10)).collect());
        let shown: Vec<_> =
            answers.iter().map(|answer| answer.as_ref().map_err(StorageError::kind)).collect();
        assert_eq!(shown, [Ok(&10), Err(ErrorKind::TooLarge), Ok(&30)]);
        assert_eq!(merge::<u8>(vec![None], Vec::new())[0].as_ref().unwrap_err().kind(), ErrorKind::Internal);
    }
}
