//! How each element type enters and leaves the engine: as one or two planes of the real type it is computed in.

use half::{bf16, f16};
use num_complex::{Complex, Complex32, Complex64};

use super::classic::{GemmOperand, Strided};
use super::dispatch;
use super::fused::Item;
use super::simd::{Isa, Real, Simd};

/// What the engine needs to know of an element type: implemented by the six types of [`Scalar`](crate::Scalar), and
/// closed to others because that trait is sealed.
pub trait Element: Sized + Copy + Send + Sync + 'static {
    /// The real type of the accumulators.
    #[doc(hidden)]
    type Real: Real;
    /// The type in which the comparison algorithms and their GEMM compute.
    #[doc(hidden)]
    type Compute: Compute;
    /// 1 for real numbers, 2 for complex ones (real part, imaginary part).
    #[doc(hidden)]
    const PLANES: usize;

    #[doc(hidden)]
    fn planes(self) -> [Self::Real; 2];
    /// From planes, rounded.
    #[doc(hidden)]
    fn from_planes(planes: [Self::Real; 2]) -> Self;
    #[doc(hidden)]
    fn widen_compute(self) -> Self::Compute;
    #[doc(hidden)]
    fn from_compute(value: Self::Compute) -> Self;
    /// Does one piece of work. Not generic, so that the kernels are compiled in this crate, once, and not in every crate
    /// that multiplies.
    #[doc(hidden)]
    fn run(isa: Isa, vectors: usize, item: Item<'_, '_, Self>, scratch: &mut [Self::Real]);
    /// The first `count` elements as planes, zeros behind.
    ///
    /// # Safety
    /// `p` is valid for `count ≤ LANES` elements, and the instruction set of `S` is present.
    #[doc(hidden)]
    unsafe fn load<S: Simd<Real = Self::Real>>(p: *const Self, count: usize) -> [S::V; 2];
    /// Rounds the first `count` elements and stores them.
    ///
    /// # Safety
    /// As for `load`.
    #[doc(hidden)]
    unsafe fn store<S: Simd<Real = Self::Real>>(p: *mut Self, v: [S::V; 2], count: usize);
    /// Stores `LANES` elements past the caches where the type is stored as it is computed.
    ///
    /// # Safety
    /// As for `load`; `p` is aligned to `LANES` elements.
    #[doc(hidden)]
    #[inline(always)]
    unsafe fn stream<S: Simd<Real = Self::Real>>(p: *mut Self, v: [S::V; 2]) {
        // SAFETY: the caller's promise.
        unsafe { Self::store::<S>(p, v, S::LANES) }
    }
}

/// A type that the `gemm` crate multiplies: `f32`, `f64` and their complex numbers.
#[doc(hidden)]
pub trait Compute:
    Copy
    + Default
    + Send
    + Sync
    + PartialEq
    + std::fmt::Debug
    + bytemuck::Pod
    + std::ops::Add<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::AddAssign
    + 'static
{
    /// `C = A·B` of sizes `[m, n, k]`, every element of `C` written. Compiled here, once, as [`Element::run`] is.
    fn gemm(
        sizes: [usize; 3],
        c: (&mut [Self], Strided),
        a: GemmOperand<'_, Self>,
        b: GemmOperand<'_, Self>,
        threads: usize,
    );
    /// The activation on the real part; complex numbers never have one.
    fn activate(self, activation: crate::Activation) -> Self;
}

macro_rules! compute {
    ($($t:ty),*) => {$(
        impl Compute for $t {
            fn gemm(
                sizes: [usize; 3],
                c: (&mut [Self], Strided),
                a: GemmOperand<'_, Self>,
                b: GemmOperand<'_, Self>,
                threads: usize,
            ) {
                super::classic::gemm(sizes, c, a, b, 1.0, threads)
            }
            fn activate(self, activation: crate::Activation) -> Self {
                Real::activate(self, activation)
            }
        }
        impl Compute for Complex<$t> {
            fn gemm(
                sizes: [usize; 3],
                c: (&mut [Self], Strided),
                a: GemmOperand<'_, Self>,
                b: GemmOperand<'_, Self>,
                threads: usize,
            ) {
                super::classic::gemm(sizes, c, a, b, Complex::new(1.0, 0.0), threads)
            }
            fn activate(self, _: crate::Activation) -> Self {
                self
            }
        }
    )*};
}
compute!(f32, f64);

macro_rules! full {
    ($($t:ty),*) => {$(
        impl Element for $t {
            type Real = $t;
            type Compute = $t;
            const PLANES: usize = 1;
            fn planes(self) -> [$t; 2] {
                [self, 0.0]
            }
            fn from_planes(planes: [$t; 2]) -> $t {
                planes[0]
            }
            fn widen_compute(self) -> $t {
                self
            }
            fn from_compute(value: $t) -> $t {
                value
            }
            fn run(isa: Isa, vectors: usize, item: Item<'_, '_, Self>, scratch: &mut [Self::Real]) {
                dispatch::run(isa, vectors, item, scratch)
            }
            #[inline(always)]
            unsafe fn load<S: Simd<Real = $t>>(p: *const $t, count: usize) -> [S::V; 2] {
                // SAFETY: the caller's promise is the one of `Simd`.
                unsafe { [if count == S::LANES { S::load(p) } else { S::load_first(p, count) }, S::splat(0.0)] }
            }
            #[inline(always)]
            unsafe fn store<S: Simd<Real = $t>>(p: *mut $t, v: [S::V; 2], count: usize) {
                // SAFETY: the caller's promise is the one of `Simd`.
                unsafe {
                    if count == S::LANES { S::store(p, v[0]) } else { S::store_first(p, v[0], count) }
                }
            }
            #[inline(always)]
            unsafe fn stream<S: Simd<Real = $t>>(p: *mut $t, v: [S::V; 2]) {
                // SAFETY: the caller's promise is the one of `Simd`.
                unsafe { S::stream(p, v[0]) }
            }
        }
    )*};
}
full!(f32, f64);

macro_rules! half {
    ($t:ty, $load:ident, $store:ident) => {
        impl Element for $t {
            type Real = f32;
            type Compute = f32;
            const PLANES: usize = 1;
            fn planes(self) -> [f32; 2] {
                [self.to_f32(), 0.0]
            }
            fn from_planes(planes: [f32; 2]) -> Self {
                Self::from_f32(planes[0])
            }
            fn widen_compute(self) -> f32 {
                self.to_f32()
            }
            fn from_compute(value: f32) -> Self {
                Self::from_f32(value)
            }
            fn run(isa: Isa, vectors: usize, item: Item<'_, '_, Self>, scratch: &mut [Self::Real]) {
                dispatch::run(isa, vectors, item, scratch)
            }
            #[inline(always)]
            unsafe fn load<S: Simd<Real = f32>>(p: *const $t, count: usize) -> [S::V; 2] {
                // SAFETY: the caller's promise is the one of `Simd`.
                unsafe { [S::$load(p, count), S::splat(0.0)] }
            }
            #[inline(always)]
            unsafe fn store<S: Simd<Real = f32>>(p: *mut $t, v: [S::V; 2], count: usize) {
                // SAFETY: the caller's promise is the one of `Simd`.
                unsafe { S::$store(p, v[0], count) }
            }
        }
    };
}
half!(f16, load_f16, store_f16);
half!(bf16, load_bf16, store_bf16);

macro_rules! complex {
    ($t:ty, $real:ty) => {
        impl Element for $t {
            type Real = $real;
            type Compute = $t;
            const PLANES: usize = 2;
            fn planes(self) -> [$real; 2] {
                [self.re, self.im]
            }
            fn from_planes(planes: [$real; 2]) -> $t {
                Complex::new(planes[0], planes[1])
            }
            fn widen_compute(self) -> $t {
                self
            }
            fn from_compute(value: $t) -> $t {
                value
            }
            fn run(isa: Isa, vectors: usize, item: Item<'_, '_, Self>, scratch: &mut [Self::Real]) {
                dispatch::run(isa, vectors, item, scratch)
            }
            #[inline(always)]
            unsafe fn load<S: Simd<Real = $real>>(p: *const $t, count: usize) -> [S::V; 2] {
                let (mut re, mut im) = ([0.0; 16], [0.0; 16]);
                for k in 0..count {
                    // SAFETY: the caller vouches for `count` elements.
                    let z = unsafe { *p.add(k) };
                    (re[k], im[k]) = (z.re, z.im);
                }
                // SAFETY: both arrays hold 16 ≥ LANES elements.
                unsafe { [S::load(re.as_ptr()), S::load(im.as_ptr())] }
            }
            #[inline(always)]
            unsafe fn store<S: Simd<Real = $real>>(p: *mut $t, v: [S::V; 2], count: usize) {
                let (mut re, mut im) = ([0.0; 16], [0.0; 16]);
                // SAFETY: both arrays hold 16 ≥ LANES elements, and the caller vouches for `count` at `p`.
                unsafe {
                    S::store(re.as_mut_ptr(), v[0]);
                    S::store(im.as_mut_ptr(), v[1]);
                    for k in 0..count {
                        *p.add(k) = Complex::new(re[k], im[k]);
                    }
                }
            }
        }
    };
}
complex!(Complex32, f32);
complex!(Complex64, f64);
