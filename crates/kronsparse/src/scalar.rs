//! The element types: which numbers a chain may hold, and the wider type in which its algebra is computed.

use std::fmt::{self, Debug, Display};
use std::str::FromStr;

use half::{bf16, f16};
use num_complex::{Complex32, Complex64};

use crate::{Error, Result};

/// The name of an element type, for files, messages and choices made at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE half precision, accumulated in `f32`.
    F16,
    /// bfloat16, accumulated in `f32`.
    Bf16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
    /// Complex of two `f32`.
    C64,
    /// Complex of two `f64`.
    C128,
}

impl DType {
    /// Every element type, narrowest first.
    pub const ALL: [DType; 6] = [DType::F16, DType::Bf16, DType::F32, DType::F64, DType::C64, DType::C128];

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F16 | DType::Bf16 => 2,
            DType::F32 => 4,
            DType::F64 | DType::C64 => 8,
            DType::C128 => 16,
        }
    }

    /// The name used in files and on the command line: `f16`, `bf16`, `f32`, `f64`, `c64`, `c128`.
    pub fn name(self) -> &'static str {
        match self {
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::C64 => "c64",
            DType::C128 => "c128",
        }
    }

    /// Whether the type has an imaginary part.
    pub fn is_complex(self) -> bool {
        matches!(self, DType::C64 | DType::C128)
    }

    /// Unit roundoff of storing a result in this type: half the distance from 1 to the next number.
    pub fn unit_roundoff(self) -> f64 {
        match self {
            DType::F16 => 2f64.powi(-11),
            DType::Bf16 => 2f64.powi(-8),
            DType::F32 | DType::C64 => 2f64.powi(-24),
            DType::F64 | DType::C128 => 2f64.powi(-53),
        }
    }

    /// The largest relative Frobenius error against f64 arithmetic on the rounded inputs that a product of a chain may
    /// show, where `terms` is the largest `c` of its factors and `factors` their number. The only place where a
    /// tolerance is set.
    ///
    /// Storing rounds each factor's result once; summing `terms` products in the accumulator adds an error that grows
    /// like the square root of the number of terms (independent roundings). In the narrow types the accumulator's part
    /// is in f32. For f32 the bound is 1e-6 at 1,000 terms. In f64 the oracle sums with as much rounding as the engine,
    /// so the two may differ by twice as much.
    pub fn tolerance(self, terms: usize, factors: usize) -> f64 {
        let accumulator = match self {
            DType::F16 | DType::Bf16 | DType::F32 | DType::C64 => 0.5 * DType::F32.unit_roundoff(),
            DType::F64 | DType::C128 => DType::F64.unit_roundoff(),
        };
        // One complex output sums two real products per term.
        let products = if self.is_complex() { 2 * terms } else { terms };
        let sums = accumulator * (products as f64).sqrt().max(4.0);
        factors.max(1) as f64 * (self.unit_roundoff() + sums)
    }

    /// [`DType::tolerance`] on a GPU. There `f32` may be the sum of three TF32 products, which tensor cores cut off instead of
    /// rounding: below 1e-6 per factor for any number of terms, as long sums are added up in pieces (5.5e-7 to 8e-7 measured).
    pub fn tolerance_on_gpu(self, terms: usize, factors: usize) -> f64 {
        let floor = if self == DType::F32 { 1e-6 * factors.max(1) as f64 } else { 0.0 };
        self.tolerance(terms, factors).max(floor)
    }

    /// [`DType::tolerance`] for `f32` multiplied as TF32: both operands of every product are cut to 10 bits after the point
    /// (some hardware truncates), which is far more than what the sums add.
    pub fn tolerance_tf32(factors: usize) -> f64 {
        factors.max(1) as f64 * 2f64.powi(-9)
    }
}

impl Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(text: &str) -> Result<DType> {
        DType::ALL.into_iter().find(|t| t.name() == text).ok_or_else(|| Error::Parse {
            what: "a dtype",
            text: text.into(),
            why: "expected one of f16, bf16, f32, f64, c64, c128".into(),
        })
    }
}

/// Arithmetic of the wide types `f64` and [`Complex64`].
pub trait Wide:
    Copy
    + Send
    + Sync
    + Debug
    + PartialEq
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::AddAssign
    + std::iter::Sum
    + 'static
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// The squared absolute value.
    fn abs2(self) -> f64;
    /// From a real and an imaginary part; real types drop the second.
    fn from_parts(re: f64, im: f64) -> Self;
    /// Real and imaginary part; the second is zero for real types.
    fn parts(self) -> (f64, f64);
}

impl Wide for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    fn abs2(self) -> f64 {
        self * self
    }
    fn from_parts(re: f64, _im: f64) -> f64 {
        re
    }
    fn parts(self) -> (f64, f64) {
        (self, 0.0)
    }
}

impl Wide for Complex64 {
    const ZERO: Complex64 = Complex64::new(0.0, 0.0);
    const ONE: Complex64 = Complex64::new(1.0, 0.0);
    fn abs2(self) -> f64 {
        self.norm_sqr()
    }
    fn from_parts(re: f64, im: f64) -> Complex64 {
        Complex64::new(re, im)
    }
    fn parts(self) -> (f64, f64) {
        (self.re, self.im)
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A number that a chain can hold: `f16`, `bf16`, `f32`, `f64`, `Complex<f32>`, `Complex<f64>`. Sealed.
///
/// The algebra (fusing, dense conversion, sums) is computed in [`Scalar::Wide`] and rounded once. The engines have their
/// own accumulators.
pub trait Scalar: sealed::Sealed + bytemuck::Pod + Send + Sync + Debug + PartialEq + crate::cpu::Element {
    /// Its run-time name.
    const DTYPE: DType;
    /// The type in which algebra is computed: `f64`, or [`Complex64`] for complex numbers.
    type Wide: Wide;
    /// Zero.
    const ZERO: Self;
    /// To the wide type, exactly.
    fn widen(self) -> Self::Wide;
    /// From the wide type, rounded to nearest.
    fn narrow(wide: Self::Wide) -> Self;
    /// The complex conjugate; a real number is its own.
    fn conj(self) -> Self;
}

macro_rules! real {
    ($t:ty, $dtype:ident, $zero:expr, $from:expr) => {
        impl sealed::Sealed for $t {}
        impl Scalar for $t {
            const DTYPE: DType = DType::$dtype;
            type Wide = f64;
            const ZERO: Self = $zero;
            fn widen(self) -> f64 {
                f64::from(self)
            }
            fn narrow(wide: f64) -> Self {
                $from(wide)
            }
            fn conj(self) -> Self {
                self
            }
        }
    };
}

real!(f16, F16, f16::ZERO, f16::from_f64);
real!(bf16, Bf16, bf16::ZERO, bf16::from_f64);
real!(f32, F32, 0.0, |x: f64| x as f32);
real!(f64, F64, 0.0, |x: f64| x);

impl sealed::Sealed for Complex32 {}
impl Scalar for Complex32 {
    const DTYPE: DType = DType::C64;
    type Wide = Complex64;
    const ZERO: Self = Complex32::new(0.0, 0.0);
    fn widen(self) -> Complex64 {
        Complex64::new(self.re.into(), self.im.into())
    }
    fn narrow(wide: Complex64) -> Self {
        Complex32::new(wide.re as f32, wide.im as f32)
    }
    fn conj(self) -> Self {
        Complex32::conj(&self)
    }
}

impl sealed::Sealed for Complex64 {}
impl Scalar for Complex64 {
    const DTYPE: DType = DType::C128;
    type Wide = Complex64;
    const ZERO: Self = Complex64::new(0.0, 0.0);
    fn widen(self) -> Complex64 {
        self
    }
    fn narrow(wide: Complex64) -> Self {
        wide
    }
    fn conj(self) -> Self {
        Complex64::conj(&self)
    }
}
