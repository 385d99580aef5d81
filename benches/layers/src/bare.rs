//! The codecs and the cipher without a layer.

use std::io::{Read, Write};

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::Outcome;

/// One way of encoding a buffer and of getting it back.
pub(crate) trait Bare {
    fn encode(&self, plain: &Bytes) -> Outcome<Bytes>;
    fn decode(&self, encoded: &Bytes, size: usize) -> Outcome<Bytes>;
}

pub(crate) struct Zstd;

impl Bare for Zstd {
    fn encode(&self, plain: &Bytes) -> Outcome<Bytes> {
        Ok(zstd::bulk::compress(plain, zstd::DEFAULT_COMPRESSION_LEVEL)?.into())
    }

    fn decode(&self, encoded: &Bytes, size: usize) -> Outcome<Bytes> {
        Ok(zstd::bulk::decompress(encoded, size)?.into())
    }
}

pub(crate) struct Lz4;

impl Bare for Lz4 {
    fn encode(&self, plain: &Bytes) -> Outcome<Bytes> {
        Ok(lz4_flex::block::compress(plain).into())
    }

    fn decode(&self, encoded: &Bytes, size: usize) -> Outcome<Bytes> {
        Ok(lz4_flex::block::decompress(encoded, size)?.into())
    }
}

pub(crate) struct Gzip;

impl Bare for Gzip {
    fn encode(&self, plain: &Bytes) -> Outcome<Bytes> {
        let mut writer = flate2::write::GzEncoder::new(
            Vec::with_capacity(plain.len() / 2),
            flate2::Compression::default(),
        );
        writer.write_all(plain)?;
        Ok(writer.finish()?.into())
    }

    fn decode(&self, encoded: &Bytes, size: usize) -> Outcome<Bytes> {
        let mut plain = Vec::with_capacity(size);
        flate2::bufread::GzDecoder::new(encoded.as_ref()).read_to_end(&mut plain)?;
        Ok(plain.into())
    }
}

/// AES-256-GCM over the whole buffer in one go.
pub(crate) struct Gcm(LessSafeKey);

impl Gcm {
    pub(crate) fn new() -> Outcome<Self> {
        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(|_| "no key")?;
        Ok(Self(LessSafeKey::new(key)))
    }

    fn nonce() -> Nonce {
        Nonce::assume_unique_for_key([0; 12])
    }
}

impl Bare for Gcm {
    fn encode(&self, plain: &Bytes) -> Outcome<Bytes> {
        let mut sealed = plain.to_vec();
        self.0
            .seal_in_place_append_tag(Self::nonce(), Aad::empty(), &mut sealed)
            .map_err(|_| "not sealed")?;
        Ok(sealed.into())
    }

    fn decode(&self, encoded: &Bytes, size: usize) -> Outcome<Bytes> {
        let mut plain = encoded.to_vec();
        self.0.open_in_place(Self::nonce(), Aad::empty(), &mut plain).map_err(|_| "not opened")?;
        plain.truncate(size);
        Ok(plain.into())
    }
}
