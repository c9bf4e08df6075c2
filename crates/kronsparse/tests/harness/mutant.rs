//! Engines that are wrong on purpose, one mistake each, and one that is right but rounds like a simple real engine.
//!
//! Each is the definition in plain loops with a mistake that somebody could make in a kernel.

use kronsparse::scalar::Wide;
use kronsparse::{Activation, DType, Error, Join, Layout, Pattern, Result, Scalar};

use super::inputs::nan;
use super::{Case, Engine, Job, Ready, Record};

/// Which mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// None: sums one after the other in the accumulator's precision, hidden values rounded to the element type.
    Honest,
    /// Lanes are stored in reverse order.
    SwappedLanes,
    /// The last row of the output is not written.
    UnwrittenLastRow,
    /// The last vector of the batch is not written.
    UnwrittenLastVector,
    /// Square weights are read as `w[i, l, o, j]`.
    TransposedWeights,
    /// The last term of every sum is left out.
    LostLastTerm,
    /// The factors are applied left to right.
    ReversedChain,
    /// The bias is not added.
    MissingBias,
    /// The bias is added after the activation.
    LateBias,
    /// The activation is not applied.
    MissingActivation,
    /// The exact GELU where the tanh form is asked for, and the other way round.
    OtherGelu,
    /// The output of a batch-last problem is written batch-first.
    WrongLayout,
    /// The result passes through a type with half the digits.
    NarrowStore,
    /// The imaginary parts of weights change sign.
    Conjugated,
    /// The residual is not added.
    MissingResidual,
    /// A gate and what it gates change places.
    SwappedGate,
    /// Every run panics, as an index out of bounds does.
    Panics,
    /// Everything is refused.
    Refuses,
    /// Everything ends in an error.
    Errors,
}

/// What the harness has to say of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Must {
    Pass,
    Fail,
    /// The mistake is below what the element type can show.
    Either,
}

impl Mutant {
    pub(crate) const WRONG: [Mutant; 18] = [
        Mutant::SwappedLanes,
        Mutant::UnwrittenLastRow,
        Mutant::UnwrittenLastVector,
        Mutant::TransposedWeights,
        Mutant::LostLastTerm,
        Mutant::ReversedChain,
        Mutant::MissingBias,
        Mutant::LateBias,
        Mutant::MissingActivation,
        Mutant::OtherGelu,
        Mutant::WrongLayout,
        Mutant::NarrowStore,
        Mutant::Conjugated,
        Mutant::MissingResidual,
        Mutant::SwappedGate,
        Mutant::Panics,
        Mutant::Refuses,
        Mutant::Errors,
    ];

    /// Whether the mistake makes a difference to this run.
    pub(crate) fn must(self, case: &Case, run: &Record) -> Must {
        let patterns = case.chain.patterns();
        let any = |holds: fn(&Pattern) -> bool| patterns.iter().any(holds);
        let differs = match self {
            Mutant::Honest => false,
            Mutant::Panics | Mutant::Refuses | Mutant::Errors => return Must::Fail,
            Mutant::SwappedLanes => any(|p| p.d() > 1),
            Mutant::UnwrittenLastRow | Mutant::UnwrittenLastVector => true,
            Mutant::TransposedWeights => any(|p| p.b() == p.c() && p.b() > 1),
            Mutant::LostLastTerm => true,
            Mutant::ReversedChain => is_reversible(patterns),
            Mutant::MissingBias => case.bias,
            Mutant::LateBias => case.bias && case.activation != Activation::None && case.join != Join::Gate,
            Mutant::MissingActivation => case.activation != Activation::None,
            Mutant::OtherGelu => matches!(case.activation, Activation::Gelu | Activation::GeluTanh),
            Mutant::WrongLayout => run.layout == Layout::BatchLast && run.batch > 1 && case.chain.rows() > 1,
            Mutant::NarrowStore => run.dtype != DType::Bf16,
            Mutant::Conjugated => run.dtype.is_complex(),
            Mutant::MissingResidual => case.join == Join::Residual,
            // Without an activation the two are equal.
            Mutant::SwappedGate => case.join == Join::Gate && case.activation != Activation::None,
        };
        // In a narrow type one term of many, or the last digits after several roundings, are within the rounding.
        let narrow = matches!(run.dtype, DType::F16 | DType::Bf16);
        match (self, differs && run.batch > 0) {
            (_, false) => Must::Pass,
            (Mutant::LostLastTerm | Mutant::NarrowStore | Mutant::OtherGelu, true) if narrow => Must::Either,
            _ => Must::Fail,
        }
    }

    fn multiply<T: Scalar>(self, job: Job<T>, x: &[T], y: &mut [T], n: usize, layout: Layout) {
        let (rows, cols) = (job.chain.rows(), job.chain.cols());
        let mut factors: Vec<_> = job.chain.factors().iter().rev().collect();
        if self == Mutant::ReversedChain && is_reversible(job.chain.pattern().patterns()) {
            factors.reverse();
        }
        let skip = |on: bool| usize::from(on);
        for batch in 0..n - skip(self == Mutant::UnwrittenLastVector && n > 0) {
            let input = (0..cols).map(|col| x[layout.index(batch, col, n, cols)]).collect::<Vec<T>>();
            let mut value: Vec<T::Wide> = input.iter().map(|v| v.widen()).collect();
            for (at, factor) in factors.iter().enumerate() {
                let p = factor.pattern();
                let mut out = vec![T::Wide::ZERO; p.rows()];
                for i in 0..p.a() {
                    for o in 0..p.b() {
                        for j in 0..p.d() {
                            let mut sum = T::Wide::ZERO;
                            for l in 0..p.c() - skip(self == Mutant::LostLastTerm) {
                                let transposed = self == Mutant::TransposedWeights && p.b() == p.c();
                                let w = if transposed { factor.weight(i, l, o, j) } else { factor.weight(i, o, l, j) };
                                let w = if self == Mutant::Conjugated { w.conj() } else { w };
                                sum = accumulated::<T>(sum + w.widen() * value[p.col(i, l, j)]);
                            }
                            let lane = if self == Mutant::SwappedLanes { p.d() - 1 - j } else { j };
                            out[p.row(i, o, lane)] = sum;
                        }
                    }
                }
                if at + 1 < factors.len() {
                    out.iter_mut().for_each(|v| *v = T::narrow(*v).widen());
                }
                value = out;
            }
            for (row, value) in value.into_iter().enumerate().take(rows - skip(self == Mutant::UnwrittenLastRow)) {
                let store = if self == Mutant::WrongLayout { Layout::BatchFirst } else { layout };
                y[store.index(batch, row, n, rows)] = self.epilogue(job, row, value);
            }
        }
    }

    /// [`Mutant::multiply`], and the join after it.
    fn joined<T: Scalar>(self, job: Job<T>, (x, residual): (&[T], &[T]), y: &mut [T], n: usize, layout: Layout) {
        match job.join {
            Join::Gate => {
                let rows = job.chain.rows();
                let mut v = vec![nan::<T>(); n * rows];
                self.multiply(Job { activation: Activation::None, ..job }, x, &mut v, n, layout);
                let shift = if self == Mutant::SwappedGate { 1 } else { 0 };
                for (batch, row) in (0..n).flat_map(|batch| (0..rows / 2).map(move |row| (batch, row))) {
                    let of = |odd: usize| v[layout.index(batch, 2 * row + (odd + shift) % 2, n, rows)].widen();
                    let gate = self.activated(job.activation, of(0));
                    y[layout.index(batch, row, n, rows / 2)] = self.stored(gate * of(1));
                }
            }
            Join::Residual if self != Mutant::MissingResidual => {
                self.multiply(job, x, y, n, layout);
                y.iter_mut().zip(residual).for_each(|(y, r)| *y = self.stored(y.widen() + r.widen()));
            }
            Join::None | Join::Residual => self.multiply(job, x, y, n, layout),
        }
    }

    fn activated<W: Wide>(self, activation: Activation, value: W) -> W {
        let activation = match (self, activation) {
            (Mutant::MissingActivation, _) => Activation::None,
            (Mutant::OtherGelu, Activation::Gelu) => Activation::GeluTanh,
            (Mutant::OtherGelu, Activation::GeluTanh) => Activation::Gelu,
            (_, activation) => activation,
        };
        match activation {
            Activation::None => value,
            _ => W::from_parts(activation.apply(value.parts().0), 0.0),
        }
    }

    fn stored<T: Scalar>(self, value: T::Wide) -> T {
        T::narrow(if self == Mutant::NarrowStore { narrower::<T>(value) } else { value })
    }

    fn epilogue<T: Scalar>(self, job: Job<T>, row: usize, value: T::Wide) -> T {
        let bias = job.bias.map_or(T::Wide::ZERO, |bias| bias[row].widen());
        let activate = |value: T::Wide| self.activated(job.activation, value);
        let value = match self {
            Mutant::MissingBias => activate(value),
            Mutant::LateBias => activate(value) + bias,
            _ => activate(accumulated::<T>(value + bias)),
        };
        self.stored(value)
    }
}

/// Whether the factors also multiply in the opposite order, to another product.
fn is_reversible(patterns: &[Pattern]) -> bool {
    let square = patterns.iter().all(|p| p.rows() == p.cols());
    let diagonal = patterns.iter().all(|p| p.b() == 1 && p.c() == 1);
    square && !diagonal && patterns.len() > 1
}

/// Rounded to the accumulator of the element type.
fn accumulated<T: Scalar>(value: T::Wide) -> T::Wide {
    let (re, im) = value.parts();
    match T::DTYPE {
        DType::F64 | DType::C128 => value,
        _ => T::Wide::from_parts(f64::from(re as f32), f64::from(im as f32)),
    }
}

/// Rounded to a type with about half the digits.
fn narrower<T: Scalar>(value: T::Wide) -> T::Wide {
    let (re, im) = value.parts();
    let round = |v: f64| match T::DTYPE {
        DType::F64 | DType::C128 => f64::from(v as f32),
        _ => half::bf16::from_f64(v).to_f64(),
    };
    T::Wide::from_parts(round(re), round(im))
}

impl Engine for Mutant {
    fn name(&self) -> String {
        format!("{self:?}")
    }

    fn prepare<'a, T: Scalar>(&'a self, job: Job<'a, T>) -> Result<Box<dyn Ready<T> + 'a>> {
        let real = job.activation != Activation::None || job.join != Join::None;
        if *self == Mutant::Refuses || (T::DTYPE.is_complex() && real) {
            return Err(Error::Unsupported { what: "a mutant".into(), why: "it refuses".into() });
        }
        Ok(Box::new(Running { mutant: *self, job }))
    }
}

struct Running<'a, T> {
    mutant: Mutant,
    job: Job<'a, T>,
}

impl<T: Scalar> Ready<T> for Running<'_, T> {
    fn run(&mut self, x: &[T], residual: &[T], y: &mut [T], n: usize, layout: Layout) -> Result<()> {
        match self.mutant {
            Mutant::Panics => panic!("index out of bounds, on purpose"),
            Mutant::Errors => Err(Error::EmptyChain),
            mutant => {
                mutant.joined(self.job, (x, residual), y, n, layout);
                Ok(())
            }
        }
    }
}
