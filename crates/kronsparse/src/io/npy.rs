//! NumPy's npy format, versions 1 to 3: real and complex floating-point arrays, both byte orders, both index orders.
//!
//! The layout is that of NumPy's `numpy.lib.format`: a magic string, a version, the length of a header, the header as a
//! Python dictionary, the numbers. Read here rather than by a library because the known ones allocate what a header asks
//! for, or bring a whole Python grammar and a C compiler with them, or lack half precision.

use std::io::{Read, Write};
use std::path::Path;

use super::array::{decode, to_bytes};
use super::npy_header::{self, Header, Why};
use super::{AnyVec, Array, Visit, atomic, elements, visit_dtype};
use crate::{DType, Error, Result, Scalar};

/// Reads an array from `source`, which holds `size` bytes. Where `size` is only a claim (in a compressed archive), memory
/// grows with what has really been read; otherwise it is taken at once.
pub(super) fn read(mut source: impl Read, size: u64, claim: bool) -> Why<Array> {
    let (header, start) = npy_header::read(&mut source)?;
    let Header { dtype, shape, .. } = &header;
    let Some(count) = elements(shape) else {
        return Err(format!("an array of shape {shape:?} does not fit in the address space"));
    };
    let expected = count as u64 * dtype.size() as u64;
    let found = size.saturating_sub(start);
    if found != expected {
        let damage = if found < expected { "truncated" } else { "with something after the array" };
        return Err(format!("{damage}: shape {shape:?} of {dtype} needs {expected} bytes, found {found}"));
    }
    visit_dtype(header.dtype, Body { source, header, count, claim })
}

/// Reads the numbers after a header.
struct Body<R> {
    source: R,
    header: Header,
    count: usize,
    claim: bool,
}

impl<R: Read> Visit for Body<R> {
    type Output = Why<Array>;
    fn visit<T: Scalar>(mut self) -> Why<Array> {
        const PIECE: usize = 1 << 16;
        let Header { order, fortran, shape, .. } = self.header;
        let mut data: Vec<T> = Vec::new();
        let at_once = if self.claim { self.count.min(PIECE) } else { self.count };
        data.try_reserve_exact(at_once).map_err(|e| format!("no memory for {at_once} numbers: {e}"))?;
        let mut piece = vec![0; PIECE];
        while data.len() < self.count {
            let bytes = PIECE.min((self.count - data.len()) * size_of::<T>());
            self.source.read_exact(&mut piece[..bytes]).map_err(|e| format!("cannot read its numbers: {e}"))?;
            data.try_reserve(bytes / size_of::<T>()).map_err(|e| format!("no memory for its numbers: {e}"))?;
            data.extend(decode::<T>(&piece[..bytes], order));
        }
        // One read more: an archive verifies its checksum at the end.
        match self.source.read(&mut piece[..1]) {
            Ok(0) => {}
            Ok(_) => return Err("expected nothing after the array, found more bytes".into()),
            Err(e) => return Err(format!("cannot read its end: {e}")),
        }
        let data = if fortran { from_fortran(&shape, &data) } else { data };
        Ok(Array { shape, data: AnyVec::new(data) })
    }
}

/// C order from Fortran order, where the first index runs fastest.
fn from_fortran<T: Scalar>(shape: &[usize], data: &[T]) -> Vec<T> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = 1;
    for &n in shape {
        strides.push(stride);
        stride *= n;
    }
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    let mut out = Vec::with_capacity(data.len());
    while out.len() < data.len() {
        out.push(data[at]);
        // Count up like an odometer, the last index fastest.
        for k in (0..shape.len()).rev() {
            index[k] += 1;
            at += strides[k];
            if index[k] < shape[k] {
                break;
            }
            at -= strides[k] * shape[k];
            index[k] = 0;
        }
    }
    out
}

/// Writes an array of `shape` in C order as npy version 1, little-endian, atomically.
///
/// npy has no bf16: such numbers are refused, cast them to `f32`.
pub fn write_npy<T: Scalar>(path: &Path, shape: &[usize], data: &[T]) -> Result<()> {
    let unsupported = |why: String| Error::Unsupported { what: format!("writing {}", path.display()), why };
    let descr = match T::DTYPE {
        DType::F16 => "<f2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::C64 => "<c8",
        DType::C128 => "<c16",
        DType::Bf16 => return Err(unsupported("npy has no type for bf16; write f32, or a .safetensors file".into())),
    };
    match elements(shape) {
        Some(expected) if expected == data.len() => {}
        Some(expected) => {
            return Err(Error::Length { what: "array data (product of its shape)", expected, found: data.len() });
        }
        None => return Err(unsupported(format!("shape {shape:?} does not fit in the address space"))),
    }
    let header = npy_header::bytes(descr, shape).map_err(unsupported)?;
    atomic::write(path, |file| {
        file.write_all(&header)?;
        file.write_all(&to_bytes(data))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fortran_order_is_turned_into_c_order() {
        // x[i][j][k] = 100 i + 10 j + k, listed with i fastest.
        let mut listed = Vec::new();
        for k in 0..4 {
            for j in 0..3 {
                listed.extend((0..2).map(|i| (100 * i + 10 * j + k) as f32));
            }
        }
        let c = from_fortran(&[2, 3, 4], &listed);
        for (at, x) in c.iter().enumerate() {
            assert_eq!(*x, (100 * (at / 12) + 10 * (at / 4 % 3) + at % 4) as f32);
        }
        assert_eq!(from_fortran(&[], &[7.0]), [7.0]);
        assert!(from_fortran::<f64>(&[2, 0, 3], &[]).is_empty());
    }

    #[test]
    fn a_claimed_size_takes_no_memory_before_it_is_read() {
        // The archive claims as many bytes as the shape needs, 64 TiB, but has sixteen.
        let mut file = npy_header::bytes("<f8", &[1 << 23, 1 << 20]).unwrap();
        let size = file.len() as u64 + (8 << 43);
        file.extend([0; 16]);
        let why = read(&file[..], size, true).unwrap_err();
        assert!(why.contains("cannot read its numbers"), "{why}");
        let why = read(&file[..], file.len() as u64, false).unwrap_err();
        assert!(why.contains("needs 70368744177664 bytes, found 16"), "{why}");
    }
}
