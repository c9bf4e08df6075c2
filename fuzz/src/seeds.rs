//! Valid inputs of every format, made by the library itself and varied by hand.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use fastrand::Rng;
use half::{bf16, f16};
use kronsparse::io::{write_layer, write_npy};
use kronsparse::scalar::Wide;
use kronsparse::{Chain, ChainSpec, Layer, Layout, Scalar};
use num_complex::{Complex32, Complex64};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::targets::Format;

/// All valid inputs of a format; always the same ones.
pub(crate) fn of(format: Format) -> Vec<Vec<u8>> {
    match format {
        Format::Text(texts) => texts.iter().map(|t| t.as_bytes().to_vec()).collect(),
        Format::Chain => chains(),
        Format::Model => chains().into_iter().chain([model()]).collect(),
        Format::Npy => {
            let mut rng = Rng::with_seed(1);
            (0..40).map(|_| npy(&mut rng)).collect()
        }
        Format::Npz => {
            let mut rng = Rng::with_seed(2);
            let mut archive = |deflated| {
                let (x, y) = (npy(&mut rng), npy(&mut rng));
                [npz(&[("x.npy", &x)], deflated), npz(&[("x.npy", &x), ("sub/y.npy", &y), ("notes", b"?")], deflated)]
            };
            (0..6).flat_map(|at| archive(at % 2 == 0)).collect()
        }
    }
}

fn chains() -> Vec<Vec<u8>> {
    fn of<T: Scalar>(rng: &mut Rng) -> [Vec<u8>; 2] {
        let spec = ["(1,3,2,4)(2,4,5,1)", "(2,3,5,1)", "(1,2,2,4)(2,2,2,2)(4,2,2,1)"][rng.usize(..3)];
        let pattern = match spec.parse() {
            Ok(ChainSpec::Explicit(pattern)) => pattern,
            other => panic!("{spec}: {other:?}"),
        };
        let mut number = || T::narrow(T::Wide::from_parts(rng.f64() - 0.5, rng.f64() - 0.5));
        let chain = Chain::from_fn(&pattern, |_, _, _, _, _| number());
        let bias = (0..pattern.rows()).map(|_| number()).collect();
        let layer = Layer::new(chain, Some(bias)).expect("as many as rows");
        let file = through_file(|path| write_layer(path, &layer, Layout::BatchLast).expect("writes"));
        // Once as it is, and once with a checksum that nobody looks for, so that damage gets further.
        let from = find(&file, b"\"checksum\"");
        let mut unchecked = file.clone();
        unchecked[from..from + 10].copy_from_slice(b"\"comments\"");
        [file, unchecked]
    }
    let mut rng = Rng::with_seed(3);
    let rng = &mut rng;
    [of::<f16>(rng), of::<bf16>(rng), of::<f32>(rng), of::<f64>(rng), of::<Complex32>(rng), of::<Complex64>(rng)]
        .concat()
}

/// A model of many dtypes with a converted layer.
fn model() -> Vec<u8> {
    let mut header = String::from(r#"{"__metadata__":{"format":"pt","dtype.pairs":"c128"}"#);
    let mut end = 0;
    for (name, dtype, shape, bytes) in [
        ("l.factors.0", "BF16", "[1,2,2,2]", 16),
        ("l.factors.1", "BF16", "[2,2,3,1]", 24),
        ("l.bias", "BF16", "[4]", 8),
        ("steps", "I64", "[3]", 24),
        ("mask", "BOOL", "[5]", 5),
        ("empty", "F32", "[0,7]", 0),
        ("four", "F4", "[3,2]", 3),
        ("pairs", "F64", "[3,2]", 48),
        ("scalar", "F32", "[]", 4),
    ] {
        header += &format!(r#","{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{end},{}]}}"#, end + bytes);
        end += bytes;
    }
    header.push('}');
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend((0..end).map(|k| (k * 37) as u8));
    file
}

/// An npy file of version 1: any element type, both byte orders, both index orders.
fn npy(rng: &mut Rng) -> Vec<u8> {
    fn of<T: Scalar>(rng: &mut Rng) -> Vec<u8> {
        let shapes: [&[usize]; 7] = [&[], &[5], &[2, 3], &[0], &[3, 1, 4], &[1, 2, 1, 3], &[40, 9]];
        let shape = shapes[rng.usize(..7)];
        let data: Vec<T> =
            (0..shape.iter().product()).map(|_| T::narrow(T::Wide::from_parts(rng.f64(), 1.0))).collect();
        through_file(|path| write_npy(path, shape, &data).expect("writes"))
    }
    let mut file = match rng.u32(..5) {
        0 => of::<f16>(rng),
        1 => of::<f32>(rng),
        2 => of::<f64>(rng),
        3 => of::<Complex32>(rng),
        _ => of::<Complex64>(rng),
    };
    if rng.bool() {
        let at = find(&file, b"'<");
        file[at + 1] = b'>';
    }
    if rng.bool() {
        let at = find(&file, b"False");
        file[at..at + 5].copy_from_slice(b"True ");
    }
    file
}

/// An archive with these members.
pub(crate) fn npz(members: &[(&str, &[u8])], deflated: bool) -> Vec<u8> {
    let method = if deflated { CompressionMethod::Deflated } else { CompressionMethod::Stored };
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in members {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).expect("a new member");
        zip.write_all(content).expect("memory takes it");
    }
    zip.finish().expect("memory takes it").into_inner()
}

fn find(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len()).position(|w| w == part).expect("the file holds it")
}

fn through_file(write: impl FnOnce(&Path)) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("seed");
    write(&path);
    fs::read(&path).expect("just written")
}
