//! Runs one multiplication and compares it with the oracle's answer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kronsparse::scalar::Wide;
use kronsparse::{Error, Layout, Result, Scalar, relative_error_wide};

use super::inputs::{Fenced, is_nan};
use super::{Outcome, Problem, Ready};

/// One run on fenced, poisoned memory.
/// `slack` as in [`Engine::slack`](super::Engine::slack).
pub(crate) fn one<T: Scalar>(ready: &mut dyn Ready<T>, problem: &Problem<T>, slack: f64) -> Outcome {
    let (x, residual) = (Fenced::new(&problem.x), Fenced::new(&problem.residual));
    let mut y = Fenced::<T>::poisoned(problem.expected.len());
    if let Err(outcome) = guarded(|| ready.run(x.get(), residual.get(), y.get_mut(), problem.n, problem.layout)) {
        return outcome;
    }
    if let Some(at) = y.broken() {
        return Outcome::Fail(format!("wrote element {at} of an output of {} elements", problem.expected.len()));
    }
    match compare(y.get(), &problem.expected, problem.tolerance * slack, problem.n, problem.layout) {
        Ok(()) => Outcome::Pass,
        Err(why) => Outcome::Fail(why),
    }
}

/// Turns errors and panics of an engine into outcomes.
pub(crate) fn guarded<R>(f: impl FnOnce() -> Result<R>) -> std::result::Result<R, Outcome> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error @ Error::Unsupported { .. })) => Err(Outcome::Unsupported(error.to_string())),
        Ok(Err(error)) => Err(Outcome::Fail(format!("error: {error}"))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(Outcome::Fail(format!("panicked: {}", text.unwrap_or_else(|| "without a message".into()))))
        }
    }
}

/// Whether `y` is `expected` within `tolerance` (relative, Frobenius); says where it is worst if not.
pub(crate) fn compare<T: Scalar>(
    y: &[T],
    expected: &[T::Wide],
    tolerance: f64,
    n: usize,
    layout: Layout,
) -> std::result::Result<(), String> {
    let error = relative_error_wide(y, expected);
    // Written so that a NaN fails.
    if error <= tolerance {
        return Ok(());
    }
    let rows = expected.len() / n.max(1);
    let distance = |at: usize| {
        let d = (y[at].widen() - expected[at]).abs2();
        if d.is_nan() { f64::INFINITY } else { d }
    };
    let worst = (0..y.len()).max_by(|&p, &q| distance(p).total_cmp(&distance(q))).unwrap_or(0);
    let (vector, row) = match layout {
        Layout::BatchFirst => (worst / rows, worst % rows),
        Layout::BatchLast => (worst % n, worst / n),
    };
    let nans = y.iter().filter(|&&v| is_nan(v)).count();
    Err(format!(
        "error {error:.2e} > {tolerance:.2e}; worst at vector {vector}, row {row}: {:?}, expected {:?}; {nans} of {} are NaN",
        y[worst],
        expected[worst],
        y.len()
    ))
}
