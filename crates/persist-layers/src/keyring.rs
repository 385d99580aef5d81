use std::fmt;

use zeroize::Zeroizing;

/// The keys of a storage by their names. They are overwritten when it goes, and never shown.
#[derive(Default)]
pub(crate) struct Keyring(Vec<(String, Master)>);

/// A key that other keys are derived from; it never encrypts anything itself.
pub(crate) struct Master(Zeroizing<[u8; 32]>);

impl Keyring {
    /// Adds a key from its 64 hex digits.
    ///
    /// # Errors
    /// What is wrong, in words that hold nothing of the key.
    pub(crate) fn add(&mut self, id: &str, hex: &str) -> Result<(), String> {
        self.check_name(id)?;
        let master = Master::parse(hex).ok_or_else(|| {
            format!(
                "the key `{id}` is not 64 hex digits (32 random bytes); make one with `openssl rand -hex 32`"
            )
        })?;
        self.0.push((id.to_owned(), master));
        Ok(())
    }

    /// Adds a key that was unwrapped.
    ///
    /// # Errors
    /// What is wrong with its name.
    pub(crate) fn add_key(&mut self, id: &str, key: Zeroizing<[u8; 32]>) -> Result<(), String> {
        self.check_name(id)?;
        self.0.push((id.to_owned(), Master(key)));
        Ok(())
    }

    fn check_name(&self, id: &str) -> Result<(), String> {
        Self::check_id(id)?;
        match self.get(id) {
            Some(_) => Err(format!("two keys are called `{id}`; every key needs a name of its own")),
            None => Ok(()),
        }
    }

    /// Checks what can name a key.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check_id(id: &str) -> Result<(), String> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if id.is_empty() || id.len() > 32 || !id.chars().all(good) {
            let id = persist_core::escape(id);
            return Err(format!("{id} cannot name a key: write 1 to 32 letters, digits, `-`, `_` and `.`"));
        }
        Ok(())
    }

    /// The key of this name.
    pub(crate) fn get(&self, id: &str) -> Option<&Master> {
        self.0.iter().find(|(known, _)| known == id).map(|(_, master)| master)
    }

    /// The name of the first key.
    pub(crate) fn first(&self) -> Option<&str> {
        self.0.first().map(|(id, _)| id.as_str())
    }
}

impl Master {
    fn parse(hex: &str) -> Option<Self> {
        let digits = hex.trim().as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut key = Zeroizing::new([0_u8; 32]);
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let digit =
                |at: usize| char::from(pair[at]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *byte = digit(0)? << 4 | digit(1)?;
        }
        // What nobody has filled in is no secret.
        (*key != [0; 32]).then_some(Self(key))
    }

    /// The key itself, to derive from.
    pub(crate) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The names of the keys alone.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| id)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked_and_never_shown() {
        let good = "00ff".repeat(16);
        let mut keyring = Keyring::default();
        keyring.add("a", &good).unwrap();
        assert_eq!(keyring.get("a").unwrap().expose()[..2], [0, 255]);
        assert!(keyring.add("a", &good).unwrap_err().contains("two keys"));
        assert!(keyring.add("a b", &good).unwrap_err().contains("cannot name a key"));
        for bad in ["", "00ff", &"0g".repeat(32), &"0".repeat(64), &"é".repeat(32)] {
            let why = keyring.add("b", bad).unwrap_err();
            assert!(why.contains("64 hex digits") && (bad.is_empty() || !why.contains(bad)), "{why}");
        }
        assert_eq!(format!("{keyring:?}"), r#"["a"]"#);
    }
}
