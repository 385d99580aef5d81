use crate::{DType, MAX_RANK};

const MAGIC: &[u8] = b"\x93NUMPY";

/// The longest header that is read, in bytes; [`MAX_RANK`] axes of 20 digits stay far below it.
const MAX_HEADER: usize = 4096;

/// What is wrong with an `.npy` file, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpyError(pub(crate) String);

impl std::fmt::Display for NpyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NpyError {}

fn wrong<T>(what: impl Into<String>) -> Result<T, NpyError> {
    Err(NpyError(what.into()))
}

/// The header of an `.npy` file: dtype and shape; the elements follow row-major and little-endian.
///
/// Written as version 1.0 with a length that is a multiple of 64, always in the same form, so that one array has one
/// encoding. Versions 1.0 to 3.0 are read. Source: NumPy enhancement proposal 1 and `numpy.lib.format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpyHeader {
    /// What the elements are.
    pub dtype: DType,
    /// The length of each axis.
    pub shape: Vec<usize>,
}

impl NpyHeader {
    /// The bytes before the elements.
    pub fn encode(&self) -> Vec<u8> {
        let axes: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        let shape = match axes.as_slice() {
            [axis] => format!("({axis},)"),
            axes => format!("({})", axes.join(", ")),
        };
        let mut dict =
            format!("{{'descr': '{}', 'fortran_order': False, 'shape': {shape}, }}", self.dtype.npy());
        let unpadded = MAGIC.len() + 4 + dict.len() + 1;
        dict.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
        dict.push('\n');
        // 32 axes of 20 digits make 800 bytes, so the length fits.
        let len = u16::try_from(dict.len()).unwrap_or(u16::MAX);
        let mut header = Vec::with_capacity(MAGIC.len() + 4 + dict.len());
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&[1, 0]);
        header.extend_from_slice(&len.to_le_bytes());
        header.extend_from_slice(dict.as_bytes());
        header
    }

    /// Reads the header and says where the elements begin.
    ///
    /// # Errors
    /// What is wrong, or what this reader does not take: Fortran order, big-endian, other types than [`DType`] has.
    pub fn decode(npy: &[u8]) -> Result<(Self, usize), NpyError> {
        let Some(rest) = npy.strip_prefix(MAGIC) else {
            return wrong("it does not begin like an .npy file");
        };
        let (len, start) = match rest {
            [1, _, a, b, ..] => (usize::from(u16::from_le_bytes([*a, *b])), 10),
            [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, 12),
            _ => return wrong("its version is not 1, 2 or 3, or it is cut off"),
        };
        if len > MAX_HEADER {
            return wrong(format!("its header has {len} bytes; at most {MAX_HEADER} are read"));
        }
        let Some(text) = npy.get(start..start + len).and_then(|text| std::str::from_utf8(text).ok()) else {
            return wrong("its header is cut off or no text");
        };
        Dict(text).parse().map(|header| (header, start + len))
    }
}

/// The Python dictionary of a header, as numpy writes it: three known members in any order.
struct Dict<'a>(&'a str);

impl<'a> Dict<'a> {
    fn parse(mut self) -> Result<NpyHeader, NpyError> {
        let (mut dtype, mut order, mut shape) = (None, None, None);
        self.expect("{")?;
        while !self.eat("}") {
            match self.quoted()? {
                "descr" => dtype = Some(self.after_colon(Self::dtype)?),
                "fortran_order" => order = Some(self.after_colon(Self::order)?),
                "shape" => shape = Some(self.after_colon(Self::shape)?),
                other => return wrong(format!("its header has an unknown member {}", crate::escape(other))),
            }
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        match (dtype, order, shape, self.0.trim()) {
            (Some(dtype), Some(()), Some(shape), "") => Ok(NpyHeader { dtype, shape }),
            _ => wrong("its header lacks a member or goes on after the last"),
        }
    }

    fn after_colon<T>(&mut self, read: fn(&mut Self) -> Result<T, NpyError>) -> Result<T, NpyError> {
        self.expect(":")?;
        read(self)
    }

    fn eat(&mut self, token: &str) -> bool {
        self.0 = self.0.trim_start();
        match self.0.strip_prefix(token) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), NpyError> {
        if self.eat(token) { Ok(()) } else { wrong(format!("its header lacks a {token:?}")) }
    }

    fn quoted(&mut self) -> Result<&'a str, NpyError> {
        let quote = if self.eat("'") {
            '\''
        } else if self.eat("\"") {
            '"'
        } else {
            '\0'
        };
        match self.0.split_once(quote) {
            Some((text, rest)) => {
                self.0 = rest;
                Ok(text)
            }
            None => wrong("its header lacks a string"),
        }
    }

    fn dtype(&mut self) -> Result<DType, NpyError> {
        let text = self.quoted()?;
        let same = |dtype: &DType| {
            let (ours, size) = (dtype.npy(), dtype.size());
            text == ours || (size == 1 && text.strip_prefix('<') == ours.strip_prefix('|'))
        };
        DType::ALL.into_iter().find(same).map_or_else(
            || wrong(format!("its type {} is not one of persist's, little-endian", crate::escape(text))),
            Ok,
        )
    }

    fn order(&mut self) -> Result<(), NpyError> {
        if self.eat("False") {
            return Ok(());
        }
        wrong("it is in Fortran order; save it with numpy.ascontiguousarray")
    }

    fn shape(&mut self) -> Result<Vec<usize>, NpyError> {
        let mut shape = Vec::new();
        self.expect("(")?;
        while !self.eat(")") {
            let digits = self.0.trim_start();
            let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
            match digits[..end].parse() {
                Ok(axis) if shape.len() < MAX_RANK => shape.push(axis),
                _ => return wrong(format!("its shape is no list of at most {MAX_RANK} lengths")),
            }
            self.0 = &digits[end..];
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, dict: &str) -> Vec<u8> {
        let mut npy = [MAGIC, &[version, 0]].concat();
        match version {
            1 => npy.extend((dict.len() as u16).to_le_bytes()),
            _ => npy.extend((dict.len() as u32).to_le_bytes()),
        }
        npy.extend(dict.as_bytes());
        npy
    }

    #[test]
    fn the_header_is_what_numpy_writes() {
        let header = NpyHeader { dtype: DType::F64, shape: vec![2, 3] };
        let bytes = header.encode();
        assert_eq!(bytes.len(), 128);
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let text = std::str::from_utf8(&bytes[10..]).unwrap();
        assert!(text.starts_with("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }   "), "{text}");
        assert!(text.ends_with(" \n"));
        assert_eq!(NpyHeader::decode(&bytes).unwrap(), (header, 128));
    }

    #[test]
    fn other_writers_are_read() {
        let dict = "{'shape': (5,), \"descr\": '<u1', 'fortran_order': False}\n";
        for version in [1, 2, 3] {
            let (header, at) = NpyHeader::decode(&file(version, dict)).unwrap();
            assert_eq!(header, NpyHeader { dtype: DType::U8, shape: vec![5] });
            assert_eq!(at, dict.len() + if version == 1 { 10 } else { 12 });
        }
    }

    #[test]
    fn damage_is_named_and_never_panics() {
        for (dict, what) in [
            ("{'descr': '>f8', 'fortran_order': False, 'shape': ()}", "little-endian"),
            ("{'descr': '|O', 'fortran_order': False, 'shape': ()}", "little-endian"),
            ("{'descr': '<f8', 'fortran_order': True, 'shape': ()}", "Fortran"),
            ("{'descr': '<f8', 'shape': ()}", "lacks a member"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", "no list"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,)}", "no list"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (1,", "no list"),
            ("{'x': 1}", "unknown member"),
        ] {
            let error = NpyHeader::decode(&file(1, dict)).unwrap_err();
            assert!(error.to_string().contains(what), "{dict}: {error}");
        }
        let good = NpyHeader { dtype: DType::I16, shape: vec![7, 1] }.encode();
        for cut in 0..good.len() {
            assert!(NpyHeader::decode(&good[..cut]).is_err());
        }
        let mut huge = file(2, "");
        huge[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(NpyHeader::decode(&huge).unwrap_err().to_string().contains("at most 4096"));
    }
}
