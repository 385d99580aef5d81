//! How the file begins, and how it does while a checkpoint is under way.

/// How an HDF5 file begins, at byte 0, 512, 1024, 2048, …
pub(super) const SIGNATURE: [u8; 8] = *b"\x89HDF\r\n\x1a\n";

/// What stands in its place during a checkpoint.
pub(super) const UNFINISHED: [u8; 8] = *b"\x89PERSIST";

/// True for the signature, for what stands in its place during a checkpoint, and for what a power cut left of one over the other.
pub(super) fn is_mark(bytes: &[u8; 8]) -> bool {
    bytes
        .iter()
        .zip(SIGNATURE.iter().zip(&UNFINISHED))
        .all(|(byte, (one, other))| byte == one || byte == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_mark_of_a_checkpoint_is_known() {
        for cut in 0..=SIGNATURE.len() {
            let torn: [u8; 8] =
                std::array::from_fn(|at| if at < cut { UNFINISHED[at] } else { SIGNATURE[at] });
            assert!(is_mark(&torn), "{torn:?}");
        }
        assert!(!is_mark(b"\x89PNG\r\n\x1a\n") && !is_mark(&[0; 8]));
    }
}
