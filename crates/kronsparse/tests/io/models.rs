//! Models: foreign tensors survive to the bit, replaced ones become chains, the map is streamed, the write is atomic.

use std::collections::BTreeMap;
use std::fs;

use half::bf16;
use kronsparse::io::{AnyLayer, AnyVec, Array, Model, read_array, read_layer, write_layer, write_model};
use kronsparse::{DType, Layer, Layout};
use num_complex::Complex64;

use crate::common::{Folder, Random, assert_says, parts, safetensors};

/// A model of many dtypes: an unaligned header, tensors in no particular order, an empty one, a scalar.
fn model_file(random: &mut Random) -> Vec<u8> {
    let mut header = String::from(r#"{"__metadata__":{"format":"pt","who":"tests"}"#);
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in [
        ("lin.weight", "BF16", "[6,4]", 48),
        ("steps", "I64", "[3]", 24),
        ("mask", "BOOL", "[5]", 5),
        ("empty", "F32", "[0,7]", 0),
        ("half", "F16", "[3]", 6),
        ("small", "F8_E4M3", "[3,1]", 3),
        ("pairs", "F64", "[3,2]", 48),
        ("lin.bias", "BF16", "[6]", 12),
        ("scalar", "F32", "[]", 4),
        ("waves", "C64", "[2]", 16),
    ] {
        let from = data.len();
        data.extend((0..bytes).map(|_| random.next() as u8));
        header += &format!(r#","{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{}]}}"#, data.len());
    }
    safetensors(&(header + "}"), &data)
}

fn replacement(random: &mut Random, layer: &Layer<bf16>) -> BTreeMap<String, Vec<(String, Array)>> {
    let factors = layer.chain().factors().iter().enumerate();
    let mut arrays: Vec<(String, Array)> = factors
        .map(|(at, f)| {
            let shape = f.pattern().shape().to_vec();
            (format!("lin.factors.{at}"), Array::new(shape, AnyVec::new(f.weights().to_vec())).unwrap())
        })
        .collect();
    arrays.sort_by_key(|_| random.next());
    BTreeMap::from([("lin.weight".to_string(), arrays)])
}

#[test]
fn foreign_tensors_are_copied_to_the_bit() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let model = Model::open(&folder.file("model.safetensors", &model_file(&mut random))).unwrap();
    assert_eq!(model.names().count(), 10);
    let layer: Layer<bf16> = random.layer("(1,3,2,2)(2,2,2,1)", false);
    let replaced = replacement(&mut random, &layer);
    let extra = BTreeMap::from([("who".to_string(), "a converter".to_string()), ("chain".into(), "monarch".into())]);
    let path = folder.path("converted.safetensors");
    write_model(&path, &model, &replaced, &extra).unwrap();

    let written = Model::open(&path).unwrap();
    assert!(!written.contains("lin.weight"));
    assert_eq!(written.names().count(), 11);
    for name in model.names().filter(|name| *name != "lin.weight") {
        assert_eq!(written.bytes(name).unwrap(), model.bytes(name).unwrap(), "{name}");
        assert_eq!(written.shape(name).unwrap(), model.shape(name).unwrap(), "{name}");
        assert_eq!(written.stored_dtype(name).unwrap(), model.stored_dtype(name).unwrap(), "{name}");
    }
    let value = |key: &str| written.metadata()[key].as_str();
    assert_eq!((value("format"), value("who"), value("chain")), ("pt", "a converter", "monarch"));
    assert!(value("checksum").starts_with("crc32:"));

    // The layer with the bias that the model had.
    let read = written.layer("lin").unwrap().into_layer::<bf16>();
    assert_eq!(read.chain(), layer.chain());
    let bias = model.array("lin.bias").unwrap();
    let bits = |numbers: &[bf16]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(read.bias().unwrap()), bits(&bias.data.cast::<bf16>()));
    assert!(written.layer("other").unwrap_err().to_string().contains("\"other.factors.0\": not in the file"));
    assert_eq!(folder.names(), ["converted.safetensors", "model.safetensors"]);
}

#[test]
fn a_model_is_converted_in_place_and_twice() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let path = folder.file("model.safetensors", &model_file(&mut random));
    let model = Model::open(&path).unwrap();
    let pairs: Vec<Complex64> = random.numbers(6);
    let array = |data: &Vec<Complex64>| Array::new(vec![2, 3], AnyVec::new(data.clone())).unwrap();
    let replaced = BTreeMap::from([("mask".to_string(), vec![("mask.c".to_string(), array(&pairs))])]);
    write_model(&path, &model, &replaced, &BTreeMap::new()).unwrap();
    // The old map still shows the old file, and the new one has the marked pairs beside plain F64 pairs.
    assert!(model.contains("mask"));
    let second = Model::open(&path).unwrap();
    assert_eq!(second.array("mask.c").unwrap(), array(&pairs));
    assert_eq!(second.dtype("pairs").unwrap(), DType::F64);
    assert_eq!(second.metadata()["dtype.mask.c"], "c128");
    let removed = BTreeMap::from([("mask.c".to_string(), vec![])]);
    write_model(&path, &second, &removed, &BTreeMap::new()).unwrap();
    let third = Model::open(&path).unwrap();
    assert!(!third.contains("mask.c") && !third.metadata().contains_key("dtype.mask.c"));
    assert_eq!(third.bytes("pairs").unwrap(), model.bytes("pairs").unwrap());
}

#[test]
fn a_chain_file_is_a_model_too() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let layer: Layer<Complex64> = random.layer("(1,3,2,2)(2,2,2,1)", true);
    let (path, copy) = (folder.path("chain.safetensors"), folder.path("copy.safetensors"));
    write_layer(&path, &layer, Layout::BatchFirst).unwrap();
    write_model(&copy, &Model::open(&path).unwrap(), &BTreeMap::new(), &BTreeMap::new()).unwrap();
    assert_eq!(read_layer(&copy).unwrap(), AnyLayer::C128(layer.clone()));
    let first = read_array(&format!("{}::factors.0", copy.display())).unwrap();
    assert_eq!(first.shape, [1, 3, 2, 2]);
    assert_eq!(first.data, AnyVec::new(layer.chain().factors()[0].weights().to_vec()));
}

#[test]
fn what_cannot_be_written_leaves_the_old_file() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let model = Model::open(&folder.file("model.safetensors", &model_file(&mut random))).unwrap();
    let path = folder.file("out.safetensors", b"the old content");
    let one = |shape: &[usize], count| Array { shape: shape.into(), data: AnyVec::F32(vec![1.0; count]) };
    let refused = |name: &str, new: &str, array: Array| {
        let replaced = BTreeMap::from([(name.to_string(), vec![(new.to_string(), array)])]);
        write_model(&path, &model, &replaced, &BTreeMap::new()).unwrap_err().to_string()
    };
    let message = refused("lin.wieght", "x", one(&[2], 2));
    assert!(message.contains("model.safetensors: tensor \"lin.wieght\": cannot be replaced"), "{message}");
    assert_says(&refused("mask", "steps", one(&[2], 2)), &path, &["tensor \"steps\"", "taken"]);
    assert_says(&refused("mask", "__metadata__", one(&[2], 2)), &path, &["taken"]);
    assert_says(&refused("mask", "x", one(&[2, 3], 5)), &path, &["tensor \"x\"", "expected 6 elements, found 5"]);
    assert_says(&refused("mask", "x", one(&[1 << 40, 1 << 40], 5)), &path, &["tensor \"x\"", "address space"]);
    assert_eq!(fs::read(&path).unwrap(), b"the old content");
    assert_eq!(folder.names(), ["model.safetensors", "out.safetensors"]);

    let missing = folder.path("no such folder/out.safetensors");
    let message = write_model(&missing, &model, &BTreeMap::new(), &BTreeMap::new()).unwrap_err().to_string();
    assert_says(&message, &missing, &["cannot write"]);
}

#[test]
fn written_files_are_aligned() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let model = Model::open(&folder.file("model.safetensors", &model_file(&mut random))).unwrap();
    let path = folder.path("out.safetensors");
    write_model(&path, &model, &BTreeMap::new(), &BTreeMap::new()).unwrap();
    let (header, _) = parts(&fs::read(&path).unwrap());
    assert_eq!(header.len() % 8, 0);
    let written = Model::open(&path).unwrap();
    for (name, size) in [("pairs", 8), ("steps", 8), ("waves", 4), ("scalar", 4), ("lin.weight", 2), ("half", 2)] {
        assert_eq!(written.bytes(name).unwrap().as_ptr() as usize % size, 0, "{name}");
    }
}
