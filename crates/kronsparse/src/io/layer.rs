//! Chain files: one layer in one safetensors file, and layers inside a converted model.

use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};
use num_complex::{Complex32, Complex64};

use super::array::{ByteOrder, cast, decode, each, same, to_bytes};
use super::write::{Out, stored, stored_shape, write_tensors};
use super::{Model, Visit, visit_dtype, wrong};
use crate::{Chain, ChainPattern, DType, Error, Factor, Layer, Layout, Pattern, Result, Scalar};

/// Metadata `format` and `version` of a chain file.
pub(super) const FORMAT: &str = "kronsparse";
const VERSION: &str = "1";
const BIAS: &str = "bias";

/// A layer of one of the six element types.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyLayer {
    /// IEEE half precision.
    F16(Layer<f16>),
    /// bfloat16.
    Bf16(Layer<bf16>),
    /// IEEE single precision.
    F32(Layer<f32>),
    /// IEEE double precision.
    F64(Layer<f64>),
    /// Complex of two `f32`.
    C64(Layer<Complex32>),
    /// Complex of two `f64`.
    C128(Layer<Complex64>),
}

impl AnyLayer {
    /// From a typed layer, without a copy.
    pub fn new<T: Scalar>(layer: Layer<T>) -> AnyLayer {
        match T::DTYPE {
            DType::F16 => AnyLayer::F16(same(layer)),
            DType::Bf16 => AnyLayer::Bf16(same(layer)),
            DType::F32 => AnyLayer::F32(same(layer)),
            DType::F64 => AnyLayer::F64(same(layer)),
            DType::C64 => AnyLayer::C64(same(layer)),
            DType::C128 => AnyLayer::C128(same(layer)),
        }
    }
    /// The element type.
    pub fn dtype(&self) -> DType {
        match self {
            AnyLayer::F16(_) => DType::F16,
            AnyLayer::Bf16(_) => DType::Bf16,
            AnyLayer::F32(_) => DType::F32,
            AnyLayer::F64(_) => DType::F64,
            AnyLayer::C64(_) => DType::C64,
            AnyLayer::C128(_) => DType::C128,
        }
    }
    /// The patterns of the chain.
    pub fn pattern(&self) -> &ChainPattern {
        each!(AnyLayer, self, layer => layer.chain().pattern())
    }
    /// Whether there is a bias.
    pub fn has_bias(&self) -> bool {
        each!(AnyLayer, self, layer => layer.bias().is_some())
    }
    /// The layer with every number rounded to `T`, or itself where it has that type. A real `T` drops imaginary parts.
    pub fn into_layer<T: Scalar>(self) -> Layer<T> {
        fn convert<S: Scalar, T: Scalar>(layer: Layer<S>) -> Layer<T> {
            let (chain, bias) = layer.into_parts();
            let bias = bias.map(|b| b.into_iter().map(cast).collect());
            Layer::new(chain.cast(), bias).expect("the sizes are those of a layer")
        }
        if self.dtype() == T::DTYPE {
            each!(AnyLayer, self, layer => same(layer))
        } else {
            each!(AnyLayer, self, layer => convert(layer))
        }
    }
}

/// Reads a chain file. Format and version, the names of all tensors, their dtypes, shapes and sizes, and the checksum if
/// there is one are checked before any weight is copied.
pub fn read_layer(path: &Path) -> Result<AnyLayer> {
    read_layer_and_layout(path).map(|(layer, _)| layer)
}

/// As [`read_layer`], with the order of batches that the file names.
pub fn read_layer_and_layout(path: &Path) -> Result<(AnyLayer, Layout)> {
    let model = Model::open(path)?;
    let value = |key: &str, expected: &str| match model.metadata().get(key) {
        Some(value) => Ok(value),
        None => Err(wrong(path, format!("no chain file: expected metadata \"{key}\" = {expected}, found none"))),
    };
    for (key, expected) in [("format", FORMAT), ("version", VERSION)] {
        let found = value(key, &format!("\"{expected}\""))?;
        if found != expected {
            return Err(wrong(path, format!("metadata \"{key}\": expected \"{expected}\", found \"{found}\"")));
        }
    }
    let layout = value("layout", "\"bsf\" or \"bsl\"")?;
    let layout = layout.parse().map_err(|e: Error| wrong(path, format!("metadata \"layout\": {e}")))?;
    let layer = model.layer("")?;
    if let Some(name) = model.metadata().get("dtype").filter(|name| *name != layer.dtype().name()) {
        return Err(wrong(path, format!("metadata \"dtype\": expected \"{}\", found \"{name}\"", layer.dtype())));
    }
    let factors = layer.pattern().patterns().len();
    let known = |name: &str| name == BIAS || factor_index(name, "factors.").is_some_and(|at| at < factors);
    if let Some(name) = model.names().find(|name| !known(name)) {
        return Err(model.wrong(name, format!("not expected in a chain file of {factors} factors")));
    }
    Ok((layer, layout))
}

impl Model {
    /// The layer whose tensors are `PREFIX.factors.0 …` and, if there is one, `PREFIX.bias`, all of one dtype. An empty
    /// prefix stands for `factors.0 …` and `bias`, as in a chain file.
    pub fn layer(&self, prefix: &str) -> Result<AnyLayer> {
        let full = |name: &str| if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
        let names = self.factor_names(&full("factors."))?;
        let dtype = self.dtype(&names[0])?;
        let same_dtype = |name: &str| match self.dtype(name)? {
            found if found == dtype => Ok(()),
            found => Err(self.wrong(name, format!("expected dtype {dtype} as in \"{}\", found {found}", names[0]))),
        };
        let mut patterns = Vec::with_capacity(names.len());
        for name in &names {
            same_dtype(name)?;
            let pattern = match *self.shape(name)? {
                [a, b, c, d] => Pattern::new(a, b, c, d).map_err(|e| self.wrong(name, e))?,
                ref other => return Err(self.wrong(name, format!("expected a shape (a, b, c, d), found {other:?}"))),
            };
            patterns.push(pattern);
        }
        let pattern = ChainPattern::new(patterns).map_err(|e| match e {
            Error::ChainSizes { at, left, right, cols, rows } => self.wrong(
                &names[at + 1],
                format!("{right} has {rows} rows, expected {cols}, the columns of \"{}\" {left}", names[at]),
            ),
            other => wrong(self.path(), other.to_string()),
        })?;
        let bias = Some(full(BIAS)).filter(|name| self.contains(name));
        if let Some(name) = &bias {
            same_dtype(name)?;
            let (found, rows) = (self.shape(name)?, pattern.rows());
            if *found != [rows] {
                return Err(
                    self.wrong(name, format!("expected shape [{rows}], the rows of the chain, found {found:?}"))
                );
            }
        }
        visit_dtype(dtype, Load { model: self, names: &names, pattern: &pattern, bias: bias.as_deref() })
    }

    /// `start0`, `start1`, … without a gap and at least one.
    fn factor_names(&self, start: &str) -> Result<Vec<String>> {
        let last = self.names().filter_map(|name| factor_index(name, start)).max();
        let Some(last) = last else {
            return Err(self.wrong(&format!("{start}0"), format!("not in the file; {}", self.some_names())));
        };
        let mut names = Vec::new();
        // Not more turns than there are tensors, whatever number a name ends with.
        for at in 0..=last {
            let name = format!("{start}{at}");
            if !self.contains(&name) {
                return Err(
                    self.wrong(&name, format!("not in the file, but \"{start}{last}\" is; {}", self.some_names()))
                );
            }
            names.push(name);
        }
        Ok(names)
    }
}

/// `k` of a name `STARTk`, written as plain decimal.
fn factor_index(name: &str, start: &str) -> Option<usize> {
    let digits = name.strip_prefix(start)?;
    let index: usize = digits.parse().ok()?;
    (index.to_string() == digits).then_some(index)
}

/// Copies the weights of a layer whose names, dtypes and shapes have been checked.
struct Load<'a> {
    model: &'a Model,
    names: &'a [String],
    pattern: &'a ChainPattern,
    bias: Option<&'a str>,
}

impl Visit for Load<'_> {
    type Output = Result<AnyLayer>;
    fn visit<T: Scalar>(self) -> Result<AnyLayer> {
        let numbers = |name: &str| Ok(decode::<T>(self.model.bytes(name)?, ByteOrder::Little));
        let factors = self.names.iter().zip(self.pattern.patterns());
        let factors = factors.map(|(name, &p)| Factor::new(p, numbers(name)?)).collect::<Result<Vec<_>>>()?;
        let bias = self.bias.map(numbers).transpose()?;
        Ok(AnyLayer::new(Layer::new(Chain::new(factors)?, bias)?))
    }
}

/// Writes a chain file, atomically and with a checksum. `layout` is the order of batches that the chain is meant for;
/// the weights are the same in both.
pub fn write_layer<T: Scalar>(path: &Path, layer: &Layer<T>, layout: Layout) -> Result<()> {
    let tensor = |name: String, shape: &[usize], data| Out {
        name,
        dtype: stored(T::DTYPE),
        shape: stored_shape(shape, T::DTYPE),
        bytes: to_bytes::<T>(data),
    };
    let factors = layer.chain().factors().iter().enumerate();
    let mut out: Vec<Out<'_>> =
        factors.map(|(at, f)| tensor(format!("factors.{at}"), &f.pattern().shape(), f.weights())).collect();
    if let Some(bias) = layer.bias() {
        out.push(tensor(BIAS.into(), &[bias.len()], bias));
    }
    let metadata = [("format", FORMAT), ("version", VERSION), ("layout", layout.name()), ("dtype", T::DTYPE.name())];
    let metadata: BTreeMap<String, String> = metadata.map(|(key, value)| (key.into(), value.into())).into();
    write_tensors(path, out, metadata)
}
