//! Numbers and texts as bytes, and back without trust.

/// What is wrong with bytes that were read, in words that complete "it is damaged: …".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wrong(pub(crate) &'static str);

const CUT: Wrong = Wrong("it is cut off");

/// Unsigned LEB128, as in DWARF and WebAssembly: seven bits a byte, lowest first.
pub(crate) fn put_varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    to.push(number.to_le_bytes()[0]);
}

/// A signed number as an unsigned one: 0, -1, 1, -2, … become 0, 1, 2, 3, ….
pub(crate) fn put_zigzag(to: &mut Vec<u8>, number: i64) {
    put_varint(to, ((number << 1) ^ (number >> 63)).cast_unsigned());
}

/// The length, then the bytes.
pub(crate) fn put_text(to: &mut Vec<u8>, text: &str) {
    put_varint(to, text.len() as u64);
    to.extend(text.as_bytes());
}

/// Reads from the front of some bytes.
#[derive(Debug)]
pub(crate) struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    /// The next bytes.
    pub(crate) fn take(&mut self, len: usize) -> Result<&'b [u8], Wrong> {
        let (front, rest) = self.0.split_at_checked(len).ok_or(CUT)?;
        self.0 = rest;
        Ok(front)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        self.take(N)?.try_into().map_err(|_| CUT)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Wrong> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Wrong> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Wrong> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Wrong> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number in its shortest form; any other form of it is refused, so that one number has one form.
    pub(crate) fn varint(&mut self) -> Result<u64, Wrong> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err(Wrong("a number in it is none"));
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Wrong("a number in it is none"))
    }

    pub(crate) fn zigzag(&mut self) -> Result<i64, Wrong> {
        let number = self.varint()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    pub(crate) fn text(&mut self) -> Result<&'b str, Wrong> {
        let len = usize::try_from(self.varint()?).map_err(|_| CUT)?;
        std::str::from_utf8(self.take(len)?).map_err(|_| Wrong("a text in it is none"))
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'b [u8] {
        self.0
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<(), Wrong> {
        if self.0.is_empty() { Ok(()) } else { Err(Wrong("it goes on after its end")) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic in a test is its report")]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_form() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            assert_eq!(Reader::new(&bytes).varint().unwrap(), number);
        }
        for number in [0, -1, 1, i64::MIN, i64::MAX, 1_700_000_000_000] {
            let mut bytes = Vec::new();
            put_zigzag(&mut bytes, number);
            assert_eq!(Reader::new(&bytes).zigzag().unwrap(), number);
        }
        assert!(Reader::new(&[0x80, 0]).varint().is_err(), "a longer form of zero");
        assert!(Reader::new(&[0xFF; 10]).varint().is_err(), "more than 64 bits");
        assert!(Reader::new(&[0x80]).varint().is_err(), "cut off");
        assert!(Reader::new(&[200, 1, b'a']).text().is_err(), "longer than what is there");
    }
}
