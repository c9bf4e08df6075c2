//! Chain files: round trips in all dtypes, what stands in the file, and the checksum.

use std::fs;

use half::{bf16, f16};
use kronsparse::io::{AnyLayer, Model, read_layer, read_layer_and_layout, write_layer};
use kronsparse::{ChainPattern, DType, Layer, Layout, Scalar};
use num_complex::{Complex32, Complex64};

use crate::common::{Folder, Random, assert_says, parts, safetensors};

fn round_trip<T: Scalar>() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let chains = ["(1,3,2,4)(2,4,5,1)", "(2,3,5,7)", "(1,2,2,4)(2,2,2,2)(4,2,2,1)", "(3,1,1,1)(1,3,2,1)"];
    for (at, chain) in chains.iter().enumerate() {
        let layer: Layer<T> = random.layer(chain, at % 2 == 0);
        let layout = Layout::ALL[at % 2];
        let path = folder.path("chain.safetensors");
        write_layer(&path, &layer, layout).unwrap();
        let (read, read_layout) = read_layer_and_layout(&path).unwrap();
        assert_eq!(read.dtype(), T::DTYPE);
        assert_eq!(read.pattern().to_string(), *chain);
        assert_eq!(read.has_bias(), layer.bias().is_some());
        assert_eq!(read_layout, layout);
        assert_eq!(read, AnyLayer::new(layer.clone()));
        assert_eq!(read.into_layer::<T>(), layer);
        // The same content is the same file.
        let bytes = fs::read(&path).unwrap();
        write_layer(&path, &layer, layout).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    assert_eq!(folder.names(), ["chain.safetensors"]);
}

#[test]
fn all_dtypes_round_trip() {
    round_trip::<f16>();
    round_trip::<bf16>();
    round_trip::<f32>();
    round_trip::<f64>();
    round_trip::<Complex32>();
    round_trip::<Complex64>();
}

#[test]
fn every_bit_pattern_survives() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let mut odd = [f32::NAN, -0.0, f32::INFINITY, f32::MIN_POSITIVE / 3.0, f32::from_bits(0x7fc1_2345), -f32::MAX];
    odd.sort_by_key(|_| random.next());
    let mut at = 0;
    let chain = kronsparse::Chain::from_fn(&ChainPattern::monarch(6, 4, 2, 2).unwrap(), |_, _, _, _, _| {
        at += 1;
        odd[at % odd.len()]
    });
    let path = folder.path("odd.safetensors");
    write_layer(&path, &Layer::new(chain.clone(), None).unwrap(), Layout::BatchFirst).unwrap();
    let read = read_layer(&path).unwrap().into_layer::<f32>();
    for (x, y) in read.chain().factors().iter().zip(chain.factors()) {
        let bits = |f: &kronsparse::Factor<f32>| f.weights().iter().map(|w| w.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(x), bits(y));
    }
}

#[test]
fn a_chain_of_many_factors_keeps_their_order() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let layer: Layer<f32> = random.layer_of(&ChainPattern::square_dyadic(1 << 12).unwrap(), true);
    let path = folder.path("dyadic.safetensors");
    write_layer(&path, &layer, Layout::BatchFirst).unwrap();
    assert_eq!(read_layer(&path).unwrap(), AnyLayer::F32(layer));
}

#[test]
fn the_file_is_what_the_documentation_says() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let layer: Layer<Complex64> = random.layer("(1,3,2,4)(2,4,5,1)", true);
    let path = folder.path("chain.safetensors");
    write_layer(&path, &layer, Layout::BatchLast).unwrap();
    let file = fs::read(&path).unwrap();
    // By the format's own library.
    let tensors = ::safetensors::SafeTensors::deserialize(&file).unwrap();
    let (_, header) = ::safetensors::SafeTensors::read_metadata(&file).unwrap();
    let metadata = header.metadata().clone().unwrap();
    for (key, value) in [("format", "kronsparse"), ("version", "1"), ("layout", "bsl"), ("dtype", "c128")] {
        assert_eq!(metadata[key], value);
    }
    let mut names = tensors.names();
    names.sort();
    assert_eq!(names, ["bias", "factors.0", "factors.1"]);
    let factor = tensors.tensor("factors.1").unwrap();
    assert_eq!((factor.dtype(), factor.shape()), (::safetensors::Dtype::F64, &[2, 4, 5, 1, 2][..]));
    let w = layer.chain().factors()[1].weight(1, 3, 4, 0);
    // C order of (2, 4, 5, 1): index (1, 3, 4, 0), two f64 each.
    let at = ((4 + 3) * 5 + 4) * 16;
    let stored = |from: usize| f64::from_le_bytes(factor.data()[from..from + 8].try_into().unwrap());
    assert_eq!(Complex64::new(stored(at), stored(at + 8)), w);

    let model = Model::open(&path).unwrap();
    assert_eq!(model.dtype("bias").unwrap(), DType::C128);
    assert_eq!(model.shape("bias").unwrap(), [12]);
    assert_eq!(model.stored_dtype("bias").unwrap(), "F64");
}

#[test]
fn the_checksum_is_what_the_documentation_says() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let layer: Layer<f16> = random.layer("(1,3,2,4)(2,4,5,1)", true);
    let path = folder.path("chain.safetensors");
    write_layer(&path, &layer, Layout::BatchFirst).unwrap();
    let model = Model::open(&path).unwrap();
    let mut text = Vec::new();
    for item in ["dtype", "f16", "format", "kronsparse", "layout", "bsf", "version", "1"] {
        text.extend(item.bytes().chain([0]));
    }
    for (name, shape) in [("bias", "12"), ("factors.0", "1,3,2,4"), ("factors.1", "2,4,5,1")] {
        let crc = format!("{:08x}", crc32fast::hash(model.bytes(name).unwrap()));
        for item in [name, "F16", shape, &crc] {
            text.extend(item.bytes().chain([0]));
        }
    }
    assert_eq!(model.metadata()["checksum"], format!("crc32:{:08x}", crc32fast::hash(&text)));
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (folder, mut random) = (Folder::new(), Random::fresh());
    let layer: Layer<f32> = random.layer("(1,2,3,2)(3,2,1,1)", true);
    let path = folder.path("chain.safetensors");
    write_layer(&path, &layer, Layout::BatchFirst).unwrap();
    let file = fs::read(&path).unwrap();
    let (header, _) = parts(&file);
    // A flip within the key `checksum` makes a file without a checksum: the numbers are right then. Likewise padding.
    let key = 8 + header.find("checksum").unwrap();
    let mut silent = 0;
    for bit in 0..8 * file.len() {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let damaged = folder.file("damaged.safetensors", &flipped);
        match read_layer(&damaged) {
            Err(e) => assert_says(&e.to_string(), &damaged, &[]),
            Ok(read) => {
                assert!((key..key + 8).contains(&(bit / 8)), "bit {bit} of byte {} was not noticed", bit / 8);
                assert_eq!(read, AnyLayer::F32(layer.clone()));
                silent += 1;
            }
        }
    }
    assert!(silent <= 64);
    // In particular a weight: what differs is said.
    let mut flipped = file.clone();
    *flipped.last_mut().unwrap() ^= 0x10;
    let damaged = folder.file("damaged.safetensors", &flipped);
    assert_says(&read_layer(&damaged).unwrap_err().to_string(), &damaged, &["checksum: expected crc32:", "damaged"]);
}

#[test]
fn a_file_without_checksum_or_dtype_is_read() {
    let folder = Folder::new();
    let header = r#"{"__metadata__":{"format":"kronsparse","version":"1","layout":"bsf","note":"by hand"},
        "factors.0":{"dtype":"F32","shape":[1,2,1,1],"data_offsets":[0,8]}}"#;
    let data: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    // A header of odd length: the numbers are not aligned.
    for padding in ["", " ", "   "] {
        let path = folder.file("hand.safetensors", &safetensors(&format!("{header}{padding}"), &data));
        let layer = read_layer(&path).unwrap().into_layer::<f64>();
        assert_eq!(layer.chain().factors()[0].weights(), [1.5, -2.0]);
        assert_eq!(layer.bias(), None);
    }
}
