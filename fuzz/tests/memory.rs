//! Models are streamed from their map: memory for opening and writing does not grow with the file.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};

use kronsparse::io::{AnyVec, Array, Model, write_model};
use kronsparse_fuzz::memory::peak;

#[test]
fn a_model_is_written_without_a_copy_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("big.safetensors"), folder.path().join("out.safetensors"));
    let big = 96usize << 20;
    let header = format!(
        r#"{{"big":{{"dtype":"I8","shape":[{big}],"data_offsets":[0,{big}]}},"w":{{"dtype":"F32","shape":[1],"data_offsets":[{big},{}]}}}}"#,
        big + 4
    );
    let mut file = std::fs::File::create(&from).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    // Mostly a hole, with something at its end.
    file.seek(SeekFrom::Current(big as i64 - 8)).unwrap();
    file.write_all(b"the end.").unwrap();
    file.write_all(&1f32.to_le_bytes()).unwrap();

    let replaced = BTreeMap::from([(
        "w".to_string(),
        vec![("w.factors.0".to_string(), Array::new(vec![1, 1, 1, 1], AnyVec::F32(vec![2.0])).unwrap())],
    )]);
    let ((), grown) = peak(|| {
        let model = Model::open(&from).unwrap();
        write_model(&to, &model, &replaced, &BTreeMap::new()).unwrap();
        let copy = Model::open(&to).unwrap();
        let bytes = copy.bytes("big").unwrap();
        assert_eq!((bytes.len(), &bytes[big - 8..]), (big, &b"the end."[..]));
    });
    assert!(grown < 4 << 20, "{grown} bytes for a file of {big}");
}

/// Opening takes memory in proportion to the header, whatever that holds; the format allows headers of 100 MB.
#[test]
fn a_large_header_takes_a_bounded_multiple_of_its_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("header.safetensors");
    let many: Vec<String> =
        (0..80_000).map(|k| format!(r#""{k}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    let high = format!(r#""a":{{"dtype":"U8","shape":[{}0],"data_offsets":[0,0]}}"#, "0,".repeat(2_000_000));
    for entries in [many.join(","), high] {
        let header = format!("{{{entries}}}");
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.bytes());
        std::fs::write(&path, file).unwrap();
        let (model, grown) = peak(|| Model::open(&path).unwrap());
        println!("{} tensors: {grown} bytes for a header of {}", model.names().len(), header.len());
        assert!(grown < 16 * header.len(), "{grown} bytes for a header of {}", header.len());
    }
}
