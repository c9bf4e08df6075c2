//! What is fuzzed: one function of bytes for each reader and parser. It returns whether the input was accepted, and panics
//! if something is accepted that does not come back the same.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use kronsparse::io::{self, AnyLayer, AnyVec, Array, Model, Visit};
use kronsparse::plan::Algorithm;
use kronsparse::{Activation, ChainSpec, DType, Error, Factor, Layout, Pattern, Scalar};

/// What kind of valid inputs a target has.
#[derive(Clone, Copy)]
pub enum Format {
    /// Short texts; the valid ones that mutation begins with.
    Text(&'static [&'static str]),
    /// A chain file.
    Chain,
    /// Any safetensors file.
    Model,
    /// A NumPy array.
    Npy,
    /// A NumPy archive.
    Npz,
}

impl Format {
    /// Words of the format that mutation puts in, and in each other's place.
    pub(crate) fn words(self) -> &'static [&'static [u8]] {
        match self {
            Format::Text(_) => {
                &[b"(", b")", b",", b":", b"(1,1,1,1)", b" ", b"monarch:", b"butterfly:", b"f16", b"gelu"]
            }
            Format::Chain | Format::Model => &[
                b"factors.0",
                b"factors.1",
                b"bias",
                b"F16",
                b"BF16",
                b"F32",
                b"F64",
                b"C64",
                b"I64",
                b"F4",
                b"BOOL",
                b"\"c128\"",
                b"shape",
                b"data_offsets",
                b"__metadata__",
                b"format",
                b"version",
                b"checksum",
                b"[]",
                b"bsf",
            ],
            Format::Npy | Format::Npz => &[
                b"True",
                b"False",
                b"descr",
                b"shape",
                b"fortran_order",
                b"<f4",
                b">f8",
                b"<c16",
                b"<f2",
                b"|V2",
                b"(",
                b"()",
                b"PK\x01\x02",
                b"PK\x05\x06",
                b"PK\x06\x06",
            ],
        }
    }
}

/// A reader or parser under test.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its valid inputs.
    pub format: Format,
    /// Runs it on some bytes: whether they were accepted.
    pub run: fn(&[u8]) -> bool,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "read-layer", format: Format::Chain, run: read_layer },
    Target { name: "model", format: Format::Model, run: model },
    Target { name: "npy", format: Format::Npy, run: npy },
    Target { name: "npz", format: Format::Npz, run: npz },
    Target {
        name: "array-source",
        format: Format::Text(&["x.npy", "x.npz::w", "x.safetensors::a"]),
        run: array_source,
    },
    Target { name: "pattern", format: Format::Text(&["(1,2,3,4)", "5, 6,7 ,8"]), run: parser::<Pattern> },
    Target {
        name: "chain-spec",
        format: Format::Text(&[
            "monarch:4,8",
            "square-dyadic",
            "butterfly:4,2,8",
            "butterfly:2,2,2",
            "(1,2,2,4)(2,2,2,2)(4,2,2,1)",
            "(1,4,4,16)(4,16,16,1)",
        ]),
        run: chain_spec,
    },
    Target { name: "dtype", format: Format::Text(&["f16", "bf16", "f32", "f64", "c64", "c128"]), run: parser::<DType> },
    Target { name: "layout", format: Format::Text(&["bsf", "bsl"]), run: parser::<Layout> },
    Target {
        name: "activation",
        format: Format::Text(&["none", "relu", "gelu", "gelu-tanh", "silu"]),
        run: parser::<Activation>,
    },
    Target {
        name: "algorithm",
        format: Format::Text(&["auto", "fused", "dense", "permute-bmm", "einsum", "csr", "bsr"]),
        run: parser::<Algorithm>,
    },
];

/// Runs `f` on a file of this name with this content.
fn with_file<R>(name: &str, content: &[u8], f: impl FnOnce(&Path) -> R) -> R {
    thread_local! {
        static FOLDER: tempfile::TempDir = scratch().expect("a temporary folder");
    }
    FOLDER.with(|folder| {
        let path = folder.path().join(name);
        fs::write(&path, content).expect("the temporary folder takes a file");
        f(&path)
    })
}

/// In memory where the system has such a folder: flushing to a disk would take nearly all of the time.
fn scratch() -> std::io::Result<tempfile::TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

/// A refusal is one line that names the file.
fn refusal(error: &Error, path: &Path) -> bool {
    let (text, name) = (error.to_string(), path.file_name().expect("a file").to_string_lossy());
    assert!(text.contains(&*name) && !text.contains('\n'), "{text:?}");
    false
}

/// Chain files: what is read, written and read again has the same bits.
fn read_layer(input: &[u8]) -> bool {
    fn bits<T: Scalar>(factors: &[Factor<T>], bias: Option<&[T]>) -> Vec<(Vec<usize>, AnyVec)> {
        let weights = factors.iter().map(|f| (f.pattern().shape().to_vec(), AnyVec::new(f.weights().to_vec())));
        weights.chain(bias.map(|b| (vec![b.len()], AnyVec::new(b.to_vec())))).collect()
    }
    struct Again(AnyLayer, Layout);
    impl Visit for Again {
        type Output = ();
        fn visit<T: Scalar>(self) {
            let layer = self.0.into_layer::<T>();
            with_file("again.safetensors", b"", |path| {
                io::write_layer(path, &layer, self.1).expect("what was read can be written");
                let (again, layout) = io::read_layer_and_layout(path).expect("what was written can be read");
                assert_eq!((again.dtype(), layout), (T::DTYPE, self.1));
                let again = again.into_layer::<T>();
                let (x, y) = (bits(layer.chain().factors(), layer.bias()), bits(again.chain().factors(), again.bias()));
                assert!(x.iter().zip(&y).all(|(x, y)| x.0 == y.0 && same_bits(&x.1, &y.1)) && x.len() == y.len());
            });
        }
    }
    with_file("chain.safetensors", input, |path| match io::read_layer_and_layout(path) {
        Ok((layer, layout)) => {
            io::visit_dtype(layer.dtype(), Again(layer, layout));
            true
        }
        Err(e) => refusal(&e, path),
    })
}

/// Any safetensors file: every tensor can be asked for, and a copy has the same bytes.
fn model(input: &[u8]) -> bool {
    with_file("model.safetensors", input, |path| {
        let model = match Model::open(path) {
            Ok(model) => model,
            Err(e) => return refusal(&e, path),
        };
        for name in model.names() {
            let (shape, bytes) = (model.shape(name).expect("there"), model.bytes(name).expect("there"));
            match (model.array(name), model.dtype(name)) {
                (Ok(array), Ok(dtype)) => {
                    assert_eq!((&array.shape[..], array.dtype()), (shape, dtype));
                    assert_eq!(array.data.len() * dtype.size(), bytes.len());
                }
                (Err(e), Err(_)) => drop(refusal(&e, path)),
                (array, dtype) => panic!("{name}: {array:?} but {dtype:?}"),
            }
            if let Some(prefix) = name.strip_suffix(".factors.0") {
                let _ = model.layer(prefix);
            }
        }
        with_file("copy.safetensors", b"", |to| {
            io::write_model(to, &model, &BTreeMap::new(), &BTreeMap::new()).expect("what was read can be written");
            let copy = Model::open(to).expect("what was written can be read");
            assert_eq!(copy.names().len(), model.names().len());
            for name in model.names() {
                assert_eq!(copy.bytes(name).expect("copied"), model.bytes(name).expect("there"), "{name}");
                assert_eq!(copy.shape(name).expect("copied"), model.shape(name).expect("there"), "{name}");
            }
        });
        true
    })
}

/// npy: what is read, written and read again has the same bits.
fn npy(input: &[u8]) -> bool {
    with_file("x.npy", input, read_again)
}

/// npz: the same, from an archive.
fn npz(input: &[u8]) -> bool {
    with_file("x.npz", input, |path| {
        let named = io::read_array(&format!("{}::x", path.display()));
        // Without a name it is the only array, or a refusal; with the name it may still be there.
        match io::read_array(&path.to_string_lossy()) {
            Ok(array) => again(&array),
            Err(e) => refusal(&e, path) || named.map(|array| again(&array)).unwrap_or_else(|e| refusal(&e, path)),
        }
    })
}

fn read_again(path: &Path) -> bool {
    match io::read_array(&path.to_string_lossy()) {
        Ok(array) => again(&array),
        Err(e) => refusal(&e, path),
    }
}

fn again(array: &Array) -> bool {
    struct Write<'a>(&'a Path, &'a Array);
    impl Visit for Write<'_> {
        type Output = kronsparse::Result<()>;
        fn visit<T: Scalar>(self) -> kronsparse::Result<()> {
            io::write_npy(self.0, &self.1.shape, &self.1.data.clone().into_vec::<T>())
        }
    }
    with_file("again.npy", b"", |path| {
        io::visit_dtype(array.dtype(), Write(path, array)).expect("what was read can be written");
        let copy = io::read_array(&path.to_string_lossy()).expect("what was written can be read");
        assert_eq!(copy.shape, array.shape);
        assert!(same_bits(&copy.data, &array.data));
    });
    true
}

/// Names of arrays; the files do not exist, so that only those of one valid file are accepted.
fn array_source(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    // Nothing outside of the temporary folder is to be opened.
    if text.contains(['/', '\\', '\0']) || text.is_empty() {
        return false;
    }
    let tensor = br#"{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
    let mut file = (tensor.len() as u64).to_le_bytes().to_vec();
    file.extend(tensor);
    file.extend(1f32.to_le_bytes());
    with_file("x.safetensors", &file, |path| {
        let folder = path.parent().expect("a folder");
        match io::read_array(&format!("{}/{text}", folder.display())) {
            Ok(array) => {
                assert!(text == "x.safetensors" || text == "x.safetensors::a", "{text}");
                array.data == AnyVec::F32(vec![1.0])
            }
            Err(e) => e.to_string().is_empty(),
        }
    })
}

/// What parses prints, and parses again to the same.
fn parser<T: FromStr<Err = Error> + Display + PartialEq + std::fmt::Debug>(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    match text.parse::<T>() {
        Ok(value) => {
            assert_eq!(value.to_string().parse::<T>().expect("what is printed parses"), value);
            true
        }
        Err(e) => e.to_string().is_empty(),
    }
}

/// Chain specifications, and what they become for small matrices.
fn chain_spec(input: &[u8]) -> bool {
    let accepted = parser::<ChainSpec>(input);
    if accepted {
        let spec: ChainSpec = std::str::from_utf8(input).expect("it parsed").parse().expect("it parsed");
        for (rows, cols) in [(0, 0), (1, 1), (8, 8), (16, 32), (64, 64), (12, 18), (usize::MAX, usize::MAX)] {
            if let Ok(chain) = spec.resolve(rows, cols) {
                assert_eq!((chain.rows(), chain.cols()), (rows, cols), "{spec}");
                assert_eq!(chain.transpose().transpose(), chain);
                // A named chain is chainable; an explicit one need not be.
                let ranks = chain.ranks();
                assert!(ranks.is_ok() || matches!(spec, ChainSpec::Explicit(_)), "{spec}: {ranks:?}");
            }
        }
    }
    accepted
}

fn same_bits(x: &AnyVec, y: &AnyVec) -> bool {
    struct Bits<'a>(&'a AnyVec);
    impl Visit for Bits<'_> {
        type Output = Vec<u8>;
        fn visit<T: Scalar>(self) -> Vec<u8> {
            bytemuck::cast_slice(&self.0.clone().into_vec::<T>()).to_vec()
        }
    }
    x.dtype() == y.dtype() && io::visit_dtype(x.dtype(), Bits(x)) == io::visit_dtype(y.dtype(), Bits(y))
}
