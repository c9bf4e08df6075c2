//! What the tests of the command share: a folder of their own, the real binary, and fresh random files.

// Each test file compiles this module by itself and uses a part of it, so `pub` reaches no further than that file.
#![allow(dead_code, unreachable_pub)]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use kronsparse::io::{self, Array};
use kronsparse::{Chain, ChainPattern, ChainSpec, Layer, Layout, Matrix, Scalar, relative_error_wide, scalar::Wide};
use safetensors::Dtype;
use safetensors::tensor::{SafeTensors, TensorView, serialize};

/// Numbers in (-1, 1) from a seed that is new in every run; the seed is printed, and shown when the test fails.
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_nanos() as u64;
        eprintln!("random seed {seed}");
        Random(seed)
    }
    pub fn next(&mut self) -> f64 {
        // SplitMix64 (Steele, Lea, Flood, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / 2f64.powi(52) - 1.0
    }
    pub fn number<T: Scalar>(&mut self) -> T {
        T::narrow(T::Wide::from_parts(self.next(), self.next()))
    }
    pub fn numbers<T: Scalar>(&mut self, count: usize) -> Vec<T> {
        (0..count).map(|_| self.number()).collect()
    }
    pub fn matrix<T: Scalar>(&mut self, rows: usize, cols: usize) -> Matrix<T> {
        Matrix::new(rows, cols, self.numbers(rows * cols)).expect("rows · cols numbers")
    }
    pub fn chain<T: Scalar>(&mut self, spec: &str) -> Chain<T> {
        Chain::from_fn(&pattern(spec), |_, _, _, _, _| self.number())
    }
}

pub fn pattern(spec: &str) -> ChainPattern {
    match spec.parse::<ChainSpec>().expect("a chain") {
        ChainSpec::Explicit(pattern) => pattern,
        other => panic!("{other} is no explicit chain"),
    }
}

/// A folder that is gone after the test, and the command run in it.
pub struct Sandbox(tempfile::TempDir);

impl Sandbox {
    pub fn new() -> Sandbox {
        Sandbox(tempfile::tempdir().expect("a temporary folder"))
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("the folder");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Run {
        let output = Command::new(env!("CARGO_BIN_EXE_kronsparse"))
            .args(args)
            .current_dir(self.0.path())
            .env("RUST_BACKTRACE", "1")
            .output()
            .expect("the command starts");
        Run::new(output)
    }
    /// Runs and asserts success and silence on stderr; returns stdout.
    pub fn succeed(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{args:?} prints {}", run.stdout);
        assert!(!run.stdout.contains('\u{1b}'), "colours without a terminal: {}", run.stdout);
        run.stdout
    }
    /// Runs with `--json` and parses what it prints.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let mut args = args.to_vec();
        args.push("--json");
        serde_json::from_str(&self.succeed(&args)).expect("one JSON document")
    }
    /// Runs and asserts a refusal: exit code 2, nothing on stdout, one line `error: …` on stderr that holds every one of
    /// `words`, and no file more or less than before. Returns the line.
    pub fn refuse(&self, args: &[&str], words: &[&str]) -> String {
        let before = self.files();
        let run = self.run(args);
        assert_eq!(run.code, 2, "{args:?}: {}{}", run.stdout, run.stderr);
        assert_eq!(run.stdout, "", "{args:?}");
        let line = run.stderr.strip_suffix('\n').expect("a whole line").to_owned();
        assert!(line.starts_with("error: ") && !line.contains('\n'), "{args:?}: {line}");
        for noise in ["panicked", "RUST_BACKTRACE", "{ ", "Some(", "kronsparse::"] {
            assert!(!line.contains(noise), "{args:?}: {line}");
        }
        for word in words {
            assert!(line.contains(word), "{args:?}: `{word}` is missing in: {line}");
        }
        assert_eq!(self.files(), before, "{args:?} left files behind");
        line
    }

    pub fn write_chain<T: Scalar>(&self, name: &str, chain: &Chain<T>, bias: Option<Vec<T>>) {
        let layer = Layer::new(chain.clone(), bias).expect("a layer");
        io::write_layer(&self.path(name), &layer, Layout::BatchFirst).expect("written");
    }
    pub fn write_npy<T: Scalar>(&self, name: &str, shape: &[usize], data: &[T]) {
        io::write_npy(&self.path(name), shape, data).expect("written");
    }
    pub fn read(&self, name: &str) -> Array {
        io::read_array(self.path(name).to_str().expect("UTF-8")).expect("an array")
    }
    pub fn write_model(&self, name: &str, tensors: &[Tensor], metadata: &[(&str, &str)]) {
        let views = tensors.iter().map(|t| {
            let view = TensorView::new(t.dtype, t.shape.clone(), &t.bytes).expect("a tensor");
            (t.name.as_str(), view)
        });
        let metadata: HashMap<String, String> = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let bytes = serialize(views, Some(metadata)).expect("serialised");
        std::fs::write(self.path(name), bytes).expect("written");
    }
    /// All tensors of a file by the format's own library, sorted by name.
    pub fn read_model(&self, name: &str) -> Vec<Tensor> {
        let bytes = std::fs::read(self.path(name)).expect("a file");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let mut tensors: Vec<Tensor> = file
            .tensors()
            .into_iter()
            .map(|(name, view)| Tensor {
                name,
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                bytes: view.data().to_vec(),
            })
            .collect();
        tensors.sort_by(|x, y| x.name.cmp(&y.name));
        tensors
    }
    pub fn metadata(&self, name: &str) -> HashMap<String, String> {
        let bytes = std::fs::read(self.path(name)).expect("a file");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("safetensors");
        header.metadata().clone().unwrap_or_default()
    }
    /// Changes one byte of a file.
    pub fn flip(&self, name: &str, at: impl FnOnce(usize) -> usize) {
        let mut bytes = std::fs::read(self.path(name)).expect("a file");
        let at = at(bytes.len());
        bytes[at] ^= 0x10;
        std::fs::write(self.path(name), bytes).expect("written");
    }
    /// Keeps the first `length(len)` bytes of a file.
    pub fn truncate(&self, name: &str, length: impl FnOnce(usize) -> usize) {
        let bytes = std::fs::read(self.path(name)).expect("a file");
        std::fs::write(self.path(name), &bytes[..length(bytes.len())]).expect("written");
    }
}

/// What a run printed.
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn new(output: Output) -> Run {
        Run {
            code: output.status.code().expect("an exit code"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

/// A tensor as the file holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub fn new<T: Scalar>(name: &str, dtype: Dtype, shape: &[usize], data: &[T]) -> Tensor {
        Tensor { name: name.into(), dtype, shape: shape.to_vec(), bytes: bytemuck::cast_slice(data).to_vec() }
    }
    pub fn numbers<T: Scalar>(&self) -> Vec<T> {
        self.bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }
}

/// The largest relative error that a product of this chain may show in its own type.
pub fn assert_close<T: Scalar>(found: &[T], expected: &[T::Wide], chain: &ChainPattern, what: &str) {
    let error = relative_error_wide(found, expected);
    let limit = T::DTYPE.tolerance(chain.longest_sum(), chain.patterns().len() + 1);
    assert!(error <= limit, "{what}: error {error:e}, allowed {limit:e}");
}
