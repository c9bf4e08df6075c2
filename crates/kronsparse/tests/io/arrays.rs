//! Arrays by name: npy and npz as NumPy writes them, tensors, and what is refused.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use half::{bf16, f16};
use kronsparse::io::{AnyVec, Array, read_array, write_layer, write_npy};
use kronsparse::{Layer, Layout, Scalar};
use num_complex::{Complex32, Complex64};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::common::{Folder, Random, assert_says, safetensors};

fn read(path: &Path) -> kronsparse::Result<Array> {
    read_array(path.to_str().unwrap())
}

#[track_caller]
fn refused(path: &Path, expected: &[&str]) {
    assert_says(&read(path).unwrap_err().to_string(), path, expected);
}

/// An npy file with a header of version 1.
fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
    let fortran = if fortran { "True" } else { "False" };
    let mut text = format!("{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}");
    text += &" ".repeat(64 - (text.len() + 11) % 64);
    text += "\n";
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((text.len() as u16).to_le_bytes());
    file.extend(text.bytes());
    file.extend(data);
    file
}

fn npz(members: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in members {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn npy_round_trip<T: Scalar>() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    for shape in [&[][..], &[1], &[17], &[0], &[3, 0, 2], &[5, 7], &[2, 3, 4, 5], &[70_001]] {
        let data: Vec<T> = random.numbers(shape.iter().product());
        let path = folder.path("x.npy");
        write_npy(&path, shape, &data).unwrap();
        assert_eq!(read(&path).unwrap(), Array::new(shape.to_vec(), AnyVec::new(data.clone())).unwrap());
        let file = fs::read(&path).unwrap();
        for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
            let archive = npz(&[("readme.txt", b"no array"), ("x.npy", &file)], method);
            let path = folder.file("x.npz", &archive);
            assert_eq!(read(&path).unwrap().data, AnyVec::new(data.clone()), "{method}");
        }
    }
}

#[test]
fn npy_and_npz_round_trip() {
    npy_round_trip::<f16>();
    npy_round_trip::<f32>();
    npy_round_trip::<f64>();
    npy_round_trip::<Complex32>();
    npy_round_trip::<Complex64>();
}

#[test]
fn both_byte_orders_and_both_index_orders_are_read() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let values: Vec<f64> = random.numbers(6);
    let little: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let big: Vec<u8> = values.iter().flat_map(|x| x.to_be_bytes()).collect();
    let array = |file: &[u8]| read(&folder.file("x.npy", file)).unwrap();
    let expected = Array::new(vec![2, 3], AnyVec::F64(values.clone())).unwrap();
    assert_eq!(array(&npy("'<f8'", false, "(2, 3)", &little)), expected);
    assert_eq!(array(&npy("'>f8'", false, "(2, 3)", &big)), expected);
    let v = &values;
    let turned = vec![v[0], v[2], v[4], v[1], v[3], v[5]];
    assert_eq!(array(&npy("'>f8'", true, "(2, 3)", &big)).data, AnyVec::F64(turned));
    let complex: Vec<Complex64> = v.chunks(2).map(|p| Complex64::new(p[0], p[1])).collect();
    assert_eq!(array(&npy("'>c16'", false, "(3,)", &big)).data, AnyVec::C128(complex));
}

#[test]
fn bf16_has_no_npy_type() {
    let folder = Folder::new();
    let path = folder.path("x.npy");
    let message = write_npy(&path, &[1], &[bf16::from_f32(1.0)]).unwrap_err().to_string();
    assert_says(&message, &path, &["no type for bf16"]);
    assert!(folder.names().is_empty());
    for descr in ["'<V2'", "'|V2'", "'<u2'"] {
        refused(&folder.file("x.npy", &npy(descr, false, "(1,)", &[0, 0])), &["bf16"]);
    }
}

#[test]
fn hostile_npy_headers_are_refused() {
    let folder = Folder::new();
    let with = |descr: &str, shape: &str, data: &[u8]| folder.file("x.npy", &npy(descr, false, shape, data));
    refused(&with("'<f4'", "(2, 3)", &[0; 23]), &["truncated", "needs 24 bytes, found 23"]);
    refused(&with("'<f4'", "(2, 3)", &[0; 25]), &["something after the array", "needs 24 bytes, found 25"]);
    refused(&with("'<f4'", "(1099511627776, 1099511627776)", &[0; 8]), &["does not fit in the address space"]);
    refused(&with("'<f4'", "(0, 4611686018427387904, 4611686018427387904)", &[]), &["address space"]);
    refused(&with("'<f4'", "(100000000000,)", &[0; 8]), &["needs 400000000000 bytes, found 8"]);
    refused(&with("'<i4'", "(2,)", &[0; 8]), &["found `<i4`"]);
    refused(&folder.file("x.npy", b""), &["first 8 bytes"]);
    refused(&folder.file("x.npy", b"hello, I am a text"), &["begin with"]);
    refused(&folder.path("none.npy"), &["cannot open"]);
    let whole = npy("'<f4'", false, "(2, 3)", &[7; 24]);
    for length in 0..whole.len() {
        read(&folder.file("x.npy", &whole[..length])).unwrap_err();
    }
}

#[test]
fn hostile_archives_are_refused() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let content: Vec<u8> = (0..4000).map(|_| random.next() as u8).collect();
    let array = npy("'<f4'", false, "(1000,)", &content);
    let refused_by = |name: &str, file: &[u8], expected: &[&str]| {
        let path = folder.file("x.npz", file);
        let source = format!("{}{name}", path.display());
        assert_says(&read_array(&source).unwrap_err().to_string(), &path, expected);
    };
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let good = npz(&[("w.npy", &array), ("b.npy", &array)], method);
        refused_by("", &good, &["expected ::NAME", "it has 2: \"w\", \"b\""]);
        refused_by("::x", &good, &["array \"x\": not in the file", "\"w\""]);
        refused_by("::w", &good[..good.len() / 2], &["npz"]);
        // Within the content of the first member.
        let mut damaged = good.clone();
        damaged[2000] ^= 4;
        refused_by("::w", &damaged, &["array \"w\": cannot read"]);
        let longer = [&array[..], &[0]].concat();
        refused_by("", &npz(&[("w.npy", &longer)], method), &["array \"w\"", "something after"]);
    }
    refused_by("", &npz(&[("notes.txt", b"no array")], CompressionMethod::Stored), &["it has none"]);
    refused_by("", b"not a zip file at all", &["no npz archive"]);
    refused_by("", b"", &["no npz archive"]);
}

#[test]
fn tensors_are_named_or_alone() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let path = folder.path("x.safetensors");
    let layer: Layer<f32> = random.layer("(2,3,5,7)", false);
    write_layer(&path, &layer, Layout::BatchFirst).unwrap();
    assert_eq!(read(&path).unwrap().data, AnyVec::F32(layer.chain().factors()[0].weights().to_vec()));
    write_layer(&path, &random.layer::<f32>("(2,3,5,7)", true), Layout::BatchFirst).unwrap();
    refused(&path, &["expected ::NAME", "it has 2", "\"bias\""]);
    let ids = r#"{"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    refused(&folder.file("ids.safetensors", &safetensors(ids, &[0; 8])), &["tensor \"ids\"", "found I64"]);
    refused(&folder.file("none.safetensors", &safetensors("{}", &[])), &["it has none"]);
}

#[test]
fn names_that_say_nothing_are_refused() {
    let folder = Folder::new();
    refused(&folder.file("x.txt", b""), &["expected a name that ends with .npy, .npz or .safetensors"]);
    refused(&folder.file("noending", b""), &["expected a name that ends with"]);
    let path = folder.file("x.npy", &npy("'<f4'", false, "(1,)", &[0; 4]));
    let message = read_array(&format!("{}::w", path.display())).unwrap_err().to_string();
    assert_says(&message, &path, &["expected no ::w"]);
    fs::create_dir(folder.path("d.npy")).unwrap();
    refused(&folder.path("d.npy"), &["expected a regular file, found a folder"]);
}

#[test]
fn a_write_of_the_wrong_length_leaves_the_old_file() {
    let folder = Folder::new();
    let path = folder.file("x.npy", b"old");
    let message = write_npy(&path, &[2, 3], &[1f32; 5]).unwrap_err().to_string();
    assert!(message.contains("expected 6 elements, found 5"), "{message}");
    write_npy(&path, &[1 << 40, 1 << 40], &[1f32; 5]).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(folder.names(), ["x.npy"]);
}
