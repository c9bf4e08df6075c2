//! The header of an npy array: magic, version, and a Python dictionary with three keys.

use std::io::Read;

use super::array::ByteOrder;
use crate::DType;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// NumPy writes headers of about a hundred bytes and by default reads none over 10,000.
const MAX_HEADER: usize = 1 << 16;
/// NumPy's own limit.
const MAX_RANK: usize = 64;
/// Where NumPy lets the numbers begin: a multiple of this.
const ALIGNMENT: usize = 64;

/// What the numbers of a file are, as its header says.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub(super) dtype: DType,
    pub(super) order: ByteOrder,
    pub(super) fortran: bool,
    pub(super) shape: Vec<usize>,
}

/// Why something is no array that we read: expected and found. The caller adds the file.
pub(super) type Why<T> = std::result::Result<T, String>;

/// Everything that stands before the numbers of an array in C order.
pub(super) fn bytes(descr: &str, shape: &[usize]) -> Why<Vec<u8>> {
    if shape.len() > MAX_RANK {
        return Err(format!("npy arrays have at most {MAX_RANK} dimensions, found {}", shape.len()));
    }
    // A Python tuple: `()`, `(3,)`, `(3, 4, )`.
    let dimensions: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let dimensions = if shape.len() == 1 { dimensions.trim_end() } else { dimensions.trim_end_matches(", ") };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dimensions}), }}");
    let before = MAGIC.len() + 4;
    let total = (before + text.len() + 1).next_multiple_of(ALIGNMENT);
    text.extend(std::iter::repeat_n(' ', total - before - text.len() - 1));
    text.push('\n');
    let length = u16::try_from(text.len()).map_err(|_| format!("a header of {} bytes is too long", text.len()))?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend(length.to_le_bytes());
    bytes.extend(text.bytes());
    Ok(bytes)
}

/// The header and the number of bytes that it took.
pub(super) fn read(source: &mut impl Read) -> Why<(Header, u64)> {
    let mut fixed = [0; 8];
    source.read_exact(&mut fixed).map_err(|e| format!("no npy array: cannot read its first 8 bytes: {e}"))?;
    let (magic, version) = fixed.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(format!("no npy array: expected it to begin with \\x93NUMPY, found {}", magic.escape_ascii()));
    }
    let width = match version {
        [1, 0] => 2,
        [2 | 3, 0] => 4,
        _ => return Err(format!("expected npy version 1.0, 2.0 or 3.0, found {}.{}", version[0], version[1])),
    };
    let too_short = |e| format!("truncated within the header: {e}");
    let mut length = [0; 4];
    source.read_exact(&mut length[..width]).map_err(too_short)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER {
        return Err(format!("expected a header of at most {MAX_HEADER} bytes, found {length}"));
    }
    let mut text = vec![0; length];
    source.read_exact(&mut text).map_err(too_short)?;
    let text = std::str::from_utf8(&text).map_err(|e| format!("the header is no text: {e}"))?;
    Ok((parse(text)?, (fixed.len() + width + length) as u64))
}

/// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`: the three keys, once each, in any order.
fn parse(text: &str) -> Why<Header> {
    let mut cursor = Cursor { rest: text };
    let (mut element, mut fortran, mut shape) = (None, None, None);
    cursor.expect("{")?;
    while !cursor.take("}") {
        let key = cursor.string()?;
        cursor.expect(":")?;
        let repeated = match key {
            "descr" => element.replace(cursor.element_type()?).is_some(),
            "fortran_order" => fortran.replace(cursor.truth()?).is_some(),
            "shape" => shape.replace(cursor.shape()?).is_some(),
            _ => return Err(format!("expected the keys descr, fortran_order, shape in the header, found `{key}`")),
        };
        if repeated {
            return Err(format!("the key `{key}` is in the header twice"));
        }
        if !cursor.take(",") {
            cursor.expect("}")?;
            break;
        }
    }
    if !cursor.rest.trim().is_empty() {
        return Err(cursor.unexpected("nothing after the closing brace"));
    }
    let missing = |key: &str| format!("the header lacks the key `{key}`");
    let (dtype, order) = element.ok_or_else(|| missing("descr"))?;
    let fortran = fortran.ok_or_else(|| missing("fortran_order"))?;
    Ok(Header { dtype, order, fortran, shape: shape.ok_or_else(|| missing("shape"))? })
}

/// What is left of the header's text.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, token: &str) -> bool {
        let after = self.rest.trim_start().strip_prefix(token);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn expect(&mut self, token: &str) -> Why<()> {
        if self.take(token) { Ok(()) } else { Err(self.unexpected(&format!("`{token}`"))) }
    }

    fn unexpected(&self, expected: &str) -> String {
        let found: String = self.rest.trim().chars().take(40).collect();
        format!("expected {expected} in the header, found `{found}`")
    }

    /// A string in either kind of quotes. Escapes are not interpreted: no key and no type that we know has one.
    fn string(&mut self) -> Why<&'a str> {
        for quote in ["'", "\""] {
            if self.take(quote) {
                let Some((inside, after)) = self.rest.split_once(quote) else {
                    return Err(self.unexpected(&format!("a closing {quote}")));
                };
                self.rest = after;
                return Ok(inside);
            }
        }
        Err(self.unexpected("a string"))
    }

    fn truth(&mut self) -> Why<bool> {
        if self.take("True") {
            Ok(true)
        } else if self.take("False") {
            Ok(false)
        } else {
            Err(self.unexpected("True or False"))
        }
    }

    fn shape(&mut self) -> Why<Vec<usize>> {
        self.expect("(")?;
        let mut shape = Vec::new();
        while !self.take(")") {
            shape.push(self.number()?);
            if shape.len() > MAX_RANK {
                return Err(format!("expected at most {MAX_RANK} dimensions, found more"));
            }
            if !self.take(",") {
                if shape.len() == 1 {
                    return Err(self.unexpected("a tuple (a comma after its only number)"));
                }
                self.expect(")")?;
                break;
            }
        }
        Ok(shape)
    }

    fn number(&mut self) -> Why<usize> {
        let text = self.rest.trim_start();
        let digits = &text[..text.bytes().take_while(u8::is_ascii_digit).count()];
        let number = digits.parse().map_err(|_| self.unexpected("a dimension of at most 64 bits"))?;
        self.rest = &text[digits.len()..];
        Ok(number)
    }

    /// NumPy's `array.dtype.str`: byte order, kind, bytes of an element.
    fn element_type(&mut self) -> Why<(DType, ByteOrder)> {
        if !self.rest.trim_start().starts_with(['\'', '"']) {
            return Err(self.unexpected("one plain element type such as '<f4' (structured arrays are not read)"));
        }
        let descr = self.string()?;
        let order = match descr.bytes().next() {
            Some(b'<') => Some(ByteOrder::Little),
            Some(b'>') => Some(ByteOrder::Big),
            _ => None,
        };
        let dtype = match descr.get(1..) {
            Some("f2") => Some(DType::F16),
            Some("f4") => Some(DType::F32),
            Some("f8") => Some(DType::F64),
            Some("c8") => Some(DType::C64),
            Some("c16") => Some(DType::C128),
            _ => None,
        };
        dtype.zip(order).ok_or_else(|| {
            let hint = match descr.get(1..) {
                // What the ml_dtypes package writes for bfloat16, and what people store its bits as.
                Some("V2") => "; npy has no type for bf16, save it as float32 or as safetensors",
                Some("u2") => "; if these are the bits of bf16, save them as float32 or as safetensors",
                _ => "; convert it with NumPy's astype first",
            };
            format!("expected element type f2, f4, f8, c8 or c16 with byte order < or >, found `{descr}`{hint}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(text: &str) -> String {
        parse(text).unwrap_err()
    }

    #[test]
    fn reads_what_numpy_writes() {
        let header = |dtype, order, fortran, shape: &[usize]| Header { dtype, order, fortran, shape: shape.into() };
        let (little, big) = (ByteOrder::Little, ByteOrder::Big);
        for (text, expected) in [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (), }   \n", header(DType::F32, little, false, &[])),
            ("{'descr': '>c16', 'fortran_order': True, 'shape': (3,), }\n", header(DType::C128, big, true, &[3])),
            ("{'shape':(0,2,1),\"descr\":'<f2','fortran_order':False}", header(DType::F16, little, false, &[0, 2, 1])),
            (
                "{'descr': '<c8', 'fortran_order': False, 'shape': (1, 2, ), }",
                header(DType::C64, little, false, &[1, 2]),
            ),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_aligned_and_read_again() {
        for shape in [&[][..], &[5], &[0], &[2, 3], &[7; 64]] {
            for (descr, dtype) in [("<f2", DType::F16), ("<c16", DType::C128)] {
                let bytes = bytes(descr, shape).unwrap();
                assert_eq!(bytes.len() % ALIGNMENT, 0);
                assert_eq!(bytes.last(), Some(&b'\n'));
                let (header, length) = read(&mut &bytes[..]).unwrap();
                assert_eq!(header, Header { dtype, order: ByteOrder::Little, fortran: false, shape: shape.into() });
                assert_eq!(length as usize, bytes.len());
            }
        }
        let text = bytes("<f8", &[3, 4]).unwrap();
        assert!(text[10..].starts_with(b"{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }"));
        assert!(bytes("<f8", &[1; 65]).is_err());
    }

    #[test]
    fn refusals_name_what_was_found() {
        let with =
            |descr: &str, shape: &str| why(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"));
        assert!(with("'<i8'", "(1,)").contains("found `<i8`"));
        assert!(with("'|V2'", "(1,)").contains("no type for bf16"));
        assert!(with("'<u2'", "(1,)").contains("bits of bf16"));
        assert!(with("'=f4'", "(1,)").contains("byte order < or >, found `=f4`"));
        assert!(with("'é4'", "(1,)").contains("found `é4`"));
        assert!(with("[('x', '<f4')]", "(1,)").contains("structured arrays"));
        assert!(with("'<f4'", "(3)").contains("a tuple"));
        assert!(with("'<f4'", "(-1,)").contains("found `-1,)"));
        assert!(with("'<f4'", "(99999999999999999999,)").contains("at most 64 bits"));
        assert!(with("'<f4'", &format!("({})", "1,".repeat(65))).contains("at most 64 dimensions"));
        assert!(with("'<f4'", "(1,2").contains("`)`"));
        assert!(why("{'descr': '<f4', 'descr': '<f4'}").contains("twice"));
        assert!(why("{'descr': '<f4', 'fortran_order': False}").contains("lacks the key `shape`"));
        assert!(why("{'descr': '<f4', 'size': 3}").contains("found `size`"));
        assert!(why("{'descr': '<f4").contains("closing '"));
        assert!(why("{'fortran_order': 0}").contains("True or False"));
        assert!(why("{'fortran_order': False, 'descr': '<f4', 'shape': ()} + 1").contains("found `+ 1`"));
        assert!(why("").contains("expected `{`"));
    }

    #[test]
    fn magic_version_and_length_are_checked() {
        let start = |bytes: &[u8]| read(&mut &bytes[..]).unwrap_err();
        assert!(start(b"PK\x03\x04....").contains("begin with \\x93NUMPY, found PK\\x03\\x04"));
        assert!(start(b"\x93NUM").contains("first 8 bytes"));
        assert!(start(b"\x93NUMPY\x04\x00..").contains("found 4.0"));
        assert!(start(b"\x93NUMPY\x02\x00\xff\xff\xff\xff{").contains("found 4294967295"));
        assert!(start(b"\x93NUMPY\x01\x00\x20\x00{").contains("truncated within the header"));
        assert!(start(b"\x93NUMPY\x01\x00\x01\x00\xff").contains("no text"));
    }
}
