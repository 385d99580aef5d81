use crate::{Result, StorageError};

/// Errors of several storages, none of which is lost.
#[derive(Debug, Default)]
pub struct Failures(Vec<StorageError>);

impl Failures {
    /// The errors among some results.
    pub fn collect<T>(results: impl IntoIterator<Item = Result<T>>) -> Self {
        Self(results.into_iter().filter_map(Result::err).collect())
    }

    /// Keeps the error of a result.
    pub fn note<T>(&mut self, result: Result<T>) {
        self.0.extend(result.err());
    }

    /// One error as it is; several as one of the first one's kind whose message holds them all.
    ///
    /// # Errors
    /// If there was any.
    pub fn into_result(mut self) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            1 => Err(self.0.swap_remove(0)),
            count => {
                let texts: Vec<String> = self.0.iter().map(ToString::to_string).collect();
                let message = format!("{count} storages failed: {}", texts.join("; "));
                let joined = StorageError::new(self.0[0].kind(), message);
                Err(if self.0.iter().any(StorageError::outcome_unknown) {
                    joined.with_outcome_unknown()
                } else {
                    joined
                })
            }
        }
    }
}
