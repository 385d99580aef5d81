use std::cell::RefCell;
use std::path::Path;

use crate::Environment;
use crate::config_error::ConfigError;
use crate::node::Place;

/// What a section is read with.
pub(crate) struct Context<'a> {
    pub(crate) environment: &'a Environment,
    /// Where relative paths start.
    pub(crate) base: &'a Path,
    strict: bool,
    warnings: RefCell<Vec<ConfigError>>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(environment: &'a Environment, base: &'a Path, strict: bool) -> Self {
        Self { environment, base, strict, warnings: RefCell::default() }
    }

    /// Notes a secret that stands in the file itself.
    ///
    /// # Errors
    /// The same as an error, in strict mode.
    pub(crate) fn literal_secret(&self, place: &Place, message: &str) -> Result<(), ConfigError> {
        let note = ConfigError::new(place, message);
        if self.strict {
            return Err(note);
        }
        self.warn(note);
        Ok(())
    }

    /// Notes what is no error but should be looked at.
    pub(crate) fn warn(&self, note: ConfigError) {
        self.warnings.borrow_mut().push(note);
    }

    /// How many warnings there are.
    pub(crate) fn mark(&self) -> usize {
        self.warnings.borrow().len()
    }

    /// Says of the warnings since a mark that they are about this storage.
    pub(crate) fn end_storage(&self, mark: usize, name: &str) {
        let mut warnings = self.warnings.borrow_mut();
        let about: Vec<ConfigError> =
            warnings.drain(mark..).map(|warning| warning.in_storage(name)).collect();
        warnings.extend(about);
    }

    /// Takes the warnings out.
    pub(crate) fn take_warnings(&self) -> Vec<ConfigError> {
        self.warnings.take()
    }
}
