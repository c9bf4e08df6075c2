//! Fresh random content, files made by hand, and what the tests ask of a message.

use std::fs;
use std::path::{Path, PathBuf};

use kronsparse::scalar::Wide;
use kronsparse::{Chain, ChainPattern, Layer, Scalar};

/// Random numbers, seeded afresh by every test; the seed is printed with a failure.
pub(crate) struct Random(fastrand::Rng);

impl Random {
    pub(crate) fn fresh() -> Random {
        let seed = fastrand::u64(..);
        eprintln!("seed {seed}");
        Random(fastrand::Rng::with_seed(seed))
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0.u64(..)
    }
    /// Uniform in [-2, 2).
    pub(crate) fn number<T: Scalar>(&mut self) -> T {
        let mut part = || 4.0 * self.0.f64() - 2.0;
        let (re, im) = (part(), part());
        T::narrow(T::Wide::from_parts(re, im))
    }
    pub(crate) fn numbers<T: Scalar>(&mut self, count: usize) -> Vec<T> {
        (0..count).map(|_| self.number()).collect()
    }
    pub(crate) fn layer<T: Scalar>(&mut self, pattern: &str, with_bias: bool) -> Layer<T> {
        let pattern = pattern.parse::<kronsparse::ChainSpec>().unwrap();
        let kronsparse::ChainSpec::Explicit(pattern) = pattern else { panic!("an explicit chain") };
        self.layer_of(&pattern, with_bias)
    }
    pub(crate) fn layer_of<T: Scalar>(&mut self, pattern: &ChainPattern, with_bias: bool) -> Layer<T> {
        let chain = Chain::from_fn(pattern, |_, _, _, _, _| self.number());
        let bias = with_bias.then(|| self.numbers(pattern.rows()));
        Layer::new(chain, bias).unwrap()
    }
}

/// A folder that goes away with the test.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        // Some file systems flush a file that is cut and written anew, which takes milliseconds; a new file they do not.
        let _ = fs::remove_file(&path);
        fs::write(&path, content).unwrap();
        path
    }
    /// Names of all files, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A safetensors file from the text of its header and its data.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    file
}

/// The text of a safetensors file's header, and its data.
pub(crate) fn parts(file: &[u8]) -> (String, Vec<u8>) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (String::from_utf8(file[8..8 + length].to_vec()).unwrap(), file[8 + length..].to_vec())
}

/// That `message` is one line that names the file and holds all of `expected`.
#[track_caller]
pub(crate) fn assert_says(message: &str, path: &Path, expected: &[&str]) {
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(message.contains(name), "no file name in: {message}");
    assert!(!message.contains('\n'), "several lines: {message}");
    for part in expected {
        assert!(message.contains(part), "no `{part}` in: {message}");
    }
}
