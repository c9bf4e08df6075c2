//! Safetensors files that are wrong in one thing each, and the sentence that each gets.

use std::path::Path;

use kronsparse::io::{Model, read_layer, write_layer};
use kronsparse::{Layer, Layout};

use crate::common::{Folder, Random, assert_says, parts, safetensors};

/// A good chain file without checksum, as text and data.
fn good(folder: &Folder) -> (String, Vec<u8>) {
    let layer: Layer<f32> = Random::fresh().layer("(1,3,2,4)(2,4,5,1)", true);
    let path = folder.path("good.safetensors");
    write_layer(&path, &layer, Layout::BatchFirst).unwrap();
    let (header, data) = parts(&std::fs::read(path).unwrap());
    let from = header.find("\"checksum\"").unwrap();
    let to = from + header[from..].find("\"dtype\"").unwrap();
    (format!("{}{}", &header[..from], &header[to..]), data)
}

#[track_caller]
fn refused(path: &Path, expected: &[&str]) {
    assert_says(&read_layer(path).unwrap_err().to_string(), path, expected);
}

/// The good file with one text in its header replaced is refused with `expected`.
#[track_caller]
fn edited(from: &str, to: &str, expected: &[&str]) {
    let folder = Folder::new();
    let (header, data) = good(&folder);
    read_layer(&folder.file("bad.safetensors", &safetensors(&header, &data))).expect("good before the edit");
    assert_eq!(header.matches(from).count(), 1, "`{from}` in {header}");
    refused(&folder.file("bad.safetensors", &safetensors(&header.replace(from, to), &data)), expected);
}

#[test]
fn metadata() {
    edited("\"format\":\"kronsparse\"", "\"format\":\"pt\"", &["\"format\": expected \"kronsparse\", found \"pt\""]);
    edited("\"format\"", "\"fromat\"", &["no chain file", "\"format\"", "found none"]);
    edited("\"version\":\"1\"", "\"version\":\"2\"", &["\"version\": expected \"1\", found \"2\""]);
    edited("\"layout\":\"bsf\"", "\"layout\":\"bfs\"", &["\"layout\"", "`bfs`", "expected bsf"]);
    edited("\"layout\":\"bsf\",", "", &["expected metadata \"layout\""]);
    edited("\"dtype\":\"f32\"", "\"dtype\":\"f64\"", &["\"dtype\": expected \"f32\", found \"f64\""]);
    edited("\"layout\":\"bsf\"", "\"layout\":3", &["header is not valid", "__metadata__"]);
    edited("\"layout\":\"bsf\"", "\"layout\":\"bsf\",\"layout\":\"bsf\"", &["\"layout\" is there twice"]);
    edited("\"layout\":\"bsf\"", "\"layout\":\"bsf\",\"checksum\":\"md5:1\"", &["\"checksum\"", "found \"md5:1\""]);
}

#[test]
fn names() {
    edited("\"factors.1\"", "\"factors.2\"", &["\"factors.1\": not in the file", "\"factors.2\" is"]);
    edited("\"factors.0\"", "\"factors.00\"", &["\"factors.0\": not in the file"]);
    edited("\"factors.1\"", "\"factors.18446744073709551615\"", &["\"factors.1\": not in the file"]);
    edited("\"factors.1\"", "\"factors.0\"", &["\"factors.0\" is there twice"]);
    edited("\"bias\"", "\"biases\"", &["tensor \"biases\": not expected"]);
    edited("\"bias\"", "\"bi\\u001b[1m\\nas\"", &["tensor \"bi\u{fffd}[1m\u{fffd}as\": not expected"]);
    edited("\"bias\"", &format!("\"{}\"", "é".repeat(5000)), &["tensor \"éé", "é…"]);
    edited("\"bias\"", "\"factors.x\"", &["tensor \"factors.x\": not expected"]);
    let folder = Folder::new();
    let metadata = r#"{"__metadata__":{"format":"kronsparse","version":"1","layout":"bsf"}}"#;
    refused(
        &folder.file("x.safetensors", &safetensors(metadata, &[])),
        &["\"factors.0\": not in the file", "no tensors"],
    );
}

#[test]
fn shapes_and_sizes() {
    edited("[2,4,5,1]", "[2,4,5]", &["tensor \"factors.1\": expected a shape (a, b, c, d), found [2, 4, 5]"]);
    edited("[2,4,5,1]", "[2,4,5,1,1]", &["tensor \"factors.1\"", "found [2, 4, 5, 1, 1]"]);
    edited(
        "[2,4,5,1]",
        "[1,4,10,1]",
        &["tensor \"factors.1\": (1,4,10,1) has 4 rows, expected 8", "\"factors.0\" (1,3,2,4)"],
    );
    edited("[2,4,5,1]", "[2,4,5,2]", &["tensor \"factors.1\"", "needs 320 bytes"]);
    edited("[12]", "[3,4]", &["tensor \"bias\": expected shape [12]", "found [3, 4]"]);
    edited("[2,4,5,1]", "[4294967296,4294967296,4294967296,1]", &["tensor \"factors.1\"", "address space"]);
    edited("[2,4,5,1]", "[2,4,5,-1]", &["header is not valid", "\"factors.1\""]);
    edited("[2,4,5,1]", "[2,4,5,1e3]", &["header is not valid", "\"factors.1\""]);
    edited("[2,4,5,1]", "[18446744073709551616]", &["header is not valid", "\"factors.1\""]);
}

#[test]
fn a_bias_of_the_wrong_length() {
    let folder = Folder::new();
    let header = r#"{"__metadata__":{"format":"kronsparse","version":"1","layout":"bsf"},
        "factors.0":{"dtype":"F32","shape":[1,2,3,1],"data_offsets":[0,24]},
        "bias":{"dtype":"F32","shape":[3],"data_offsets":[24,36]}}"#;
    let path = folder.file("x.safetensors", &safetensors(header, &[0; 36]));
    refused(&path, &["tensor \"bias\": expected shape [2], the rows of the chain, found [3]"]);
    let empty = header.replace("[1,2,3,1]", "[0,2,3,1]").replace("[0,24]", "[0,0]").replace("[24,36]", "[0,12]");
    let path = folder.file("x.safetensors", &safetensors(&empty, &[0; 12]));
    refused(&path, &["tensor \"factors.0\"", "at least 1"]);
}

#[test]
fn dtypes() {
    let folder = Folder::new();
    let mixed = r#"{"__metadata__":{"format":"kronsparse","version":"1","layout":"bsf"},
        "factors.0":{"dtype":"F32","shape":[1,2,1,1],"data_offsets":[0,8]},
        "factors.1":{"dtype":"F16","shape":[1,1,4,1],"data_offsets":[8,16]}}"#;
    let path = folder.file("x.safetensors", &safetensors(mixed, &[0; 16]));
    refused(&path, &["tensor \"factors.1\": expected dtype f32 as in \"factors.0\", found f16"]);
    let path = folder.file("x.safetensors", &safetensors(&mixed.replace("F16", "BF16"), &[0; 16]));
    refused(&path, &["expected dtype f32", "found bf16"]);
    let path = folder.file("x.safetensors", &safetensors(&mixed.replace("F16", "I16"), &[0; 16]));
    refused(&path, &["tensor \"factors.1\": expected dtype F16, BF16", "found I16"]);
    let path = folder.file("x.safetensors", &safetensors(&mixed.replace("F16", "F15"), &[0; 16]));
    refused(&path, &["header is not valid", "\"factors.1\"", "F15"]);
    // c128 is only what is marked: plain F64 of rank 5 is no weight.
    let pairs = r#"{"__metadata__":{"format":"kronsparse","version":"1","layout":"bsf"},
        "factors.0":{"dtype":"F64","shape":[1,1,1,1,2],"data_offsets":[0,16]}}"#;
    refused(&folder.file("x.safetensors", &safetensors(pairs, &[0; 16])), &["found [1, 1, 1, 1, 2]"]);
    let marked = pairs.replace("\"layout\"", "\"dtype\":\"c128\",\"layout\"");
    read_layer(&folder.file("x.safetensors", &safetensors(&marked, &[0; 16]))).unwrap();
    let single = marked.replace("[1,1,1,1,2]", "[1,1,1,2]");
    read_layer(&folder.file("x.safetensors", &safetensors(&single, &[0; 16]))).unwrap_err();
    let three = marked.replace("[1,1,1,1,2]", "[1,2,1,1]");
    let path = folder.file("x.safetensors", &safetensors(&three, &[0; 16]));
    refused(&path, &["\"dtype\": expected \"f64\", found \"c128\""]);
}

#[test]
fn offsets() {
    let folder = Folder::new();
    let (header, data) = good(&folder);
    let bad = |header: &str, data: &[u8]| folder.file("bad.safetensors", &safetensors(header, data));
    let total = data.len();
    let short = total - 5;
    let expected = format!("truncated: expected {total} bytes of tensors, found {short}");
    refused(&bad(&header, &data[..short]), &[&expected]);
    let longer = [&data[..], &[0; 3]].concat();
    let expected = format!("expected {total} bytes of tensors, found {}", total + 3);
    refused(&bad(&header, &longer), &["something after the last tensor", &expected]);
    let gap = header.replace(&format!("{total}]"), &format!("{}]", total + 4));
    refused(&bad(&gap, &longer), &["tensor \"factors.1\"", "needs 160 bytes"]);
    refused(&bad(&header.replace("[48,", "[44,"), &data), &["expected its bytes to start at 48, found 44"]);
    let turned = header.replace("[0,48]", "[48,0]");
    assert_ne!(turned, header);
    refused(&bad(&turned, &data), &["tensor"]);
}

#[test]
fn truncated_anywhere() {
    let folder = Folder::new();
    let (header, data) = good(&folder);
    let file = safetensors(&header, &data);
    for length in 0..file.len() {
        let expected = if length < 8 { "at least 8 bytes" } else { "truncated" };
        refused(&folder.file("bad.safetensors", &file[..length]), &[expected]);
    }
}

#[test]
fn no_safetensors_at_all() {
    let folder = Folder::new();
    refused(&folder.file("x.safetensors", b""), &["expected at least 8 bytes, found 0"]);
    refused(&folder.file("x.safetensors", b"\x93NUMPY\x01\x00v\x00{'descr'"), &["looks like an npy file"]);
    refused(&folder.file("x.safetensors", b"PK\x03\x04abcdefghi"), &["looks like an npz"]);
    refused(
        &folder.file("x.safetensors", &u64::MAX.to_le_bytes()),
        &["announce a header of 18446744073709551615 bytes"],
    );
    refused(&folder.file("x.safetensors", &safetensors("[]", &[])), &["header is not valid", "expected an object"]);
    refused(&folder.file("x.safetensors", &safetensors("{\"a\":", &[])), &["header is not valid"]);
    refused(&folder.file("x.safetensors", b"\x01\0\0\0\0\0\0\0\xff"), &["not UTF-8"]);
    let deep = "[".repeat(100_000);
    refused(&folder.file("x.safetensors", &safetensors(&format!("{{\"a\":{deep}"), &[])), &["header is not valid"]);
    refused(&folder.path("none.safetensors"), &["cannot open"]);
    std::fs::create_dir(folder.path("folder.safetensors")).unwrap();
    refused(&folder.path("folder.safetensors"), &["expected a regular file, found a folder"]);
}

#[test]
fn a_missing_tensor_names_what_is_there() {
    let folder = Folder::new();
    good(&folder);
    let path = folder.path("good.safetensors");
    let model = Model::open(&path).unwrap();
    for message in [model.bytes("wieght").unwrap_err().to_string(), model.array("wieght").unwrap_err().to_string()] {
        assert_says(&message, &path, &["tensor \"wieght\": not in the file", "\"factors.0\"", "\"bias\""]);
    }
}
