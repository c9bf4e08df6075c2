//! Which problems are drawn: sizes uniform in their logarithms, within what a device holds and multiplies in no time.
//!
//! A problem is a pattern, or with a probability of a quarter a chain of two. `b` and `c` are 1 to 1024 and `a` and `d` 1 to 64, each
//! rounded in half of the problems to a power of two, as layers mostly have them; of the left factor of a chain `a` and `d` are
//! divisors of what its neighbour gives. The number of vectors is 1 to 50,000 (4096 on a CPU); layouts and element types are equally
//! likely. What is drawn is left out and drawn again where it is in the article's grid, is one dense matrix, or is beyond the limits
//! of [`Settings`].

use std::collections::HashSet;
use std::sync::LazyLock;

use kronsparse::plan::{Layout, Problem};
use kronsparse::{ChainPattern, DType, Pattern};

use crate::definition::Case;
use crate::random::Random;
use crate::{Cache, Definition, Kind, Sweep};

/// Where to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// This machine's CPU.
    Cpu,
    /// A GPU by its number.
    Cuda(usize),
}

/// What is drawn and how it is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where.
    pub device: Device,
    /// Number of problems.
    pub problems: usize,
    /// Seed of the problems.
    pub seed: u64,
    /// State of the caches before a sample.
    pub cache: Cache,
    /// GPU: kernels of a factor that are measured at most.
    pub kernels: usize,
    /// Seconds after which no problem is begun.
    pub seconds: f64,
    /// Most rows and columns of a matrix.
    pub largest: usize,
}

impl Settings {
    /// The usual ones for a device: 300 problems, cold caches, no limit of time.
    pub fn new(device: Device, seed: u64) -> Settings {
        let largest = if device == Device::Cpu { 4096 } else { 16384 };
        Settings { device, problems: 300, seed, cache: Cache::Cold, kernels: 10, seconds: f64::INFINITY, largest }
    }

    /// The element types of the device; real ones, of which there are estimates.
    fn kinds(&self) -> Vec<Kind> {
        let real = [DType::F16, DType::Bf16, DType::F32, DType::F64].map(Kind::from);
        let tf32 = (self.device != Device::Cpu).then_some(Kind::TF32);
        real.into_iter().chain(tf32).collect()
    }

    /// Bytes of X or Y, numbers of the dense matrix, weights, operations of the dense product, vectors: at most.
    fn limits(&self) -> Limits {
        match self.device {
            Device::Cpu => Limits { array: 32 << 20, dense: 1 << 22, weights: 1 << 20, work: 2e9, batch: 4096 },
            Device::Cuda(_) => Limits { array: 512 << 20, dense: 1 << 25, weights: 1 << 22, work: 1e12, batch: 50_000 },
        }
    }

    /// Problem `number`, which depends on the seed and the device alone.
    pub fn problem(&self, number: usize) -> Case {
        // Any odd multiplier keeps the beginnings of the sequences apart.
        let mut random = Random::new(self.seed ^ (number as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95));
        loop {
            if let Some(case) = self.try_problem(&mut random) {
                return case;
            }
        }
    }

    fn try_problem(&self, random: &mut Random) -> Option<Case> {
        let Limits { array, dense, weights, work, batch } = self.limits();
        let chain = chain(random)?;
        let kinds = self.kinds();
        let kind = kinds[random.below(kinds.len())];
        let layout = Layout::ALL[random.below(2)];
        let batch = log_uniform(random, batch);
        let (rows, cols) = (chain.rows(), chain.cols());
        let widest = chain.patterns().iter().map(|p| p.rows()).max().unwrap_or(rows).max(cols);
        let fits = rows >= 8
            && cols >= 8
            && widest <= self.largest
            && batch * widest * kind.dtype.size() <= array
            && rows * cols <= dense
            && chain.parameters() <= weights
            && 2.0 * batch as f64 * (rows * cols) as f64 <= work
            && chain.density() < 1.0
            && !GRID.contains(&chain.to_string());
        let problem = Problem { chain, dtype: kind.dtype, batch, layout };
        fits.then(|| Case { problem, kind, cache: self.cache, why: String::new() })
    }
}

struct Limits {
    array: usize,
    dense: usize,
    weights: usize,
    work: f64,
    batch: usize,
}

/// The patterns of the article's grid, as text.
static GRID: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let list = include_str!("../../../../benchmarks/paper_grid.txt");
    let one = Sweep { batch: vec![1], ..Sweep::default() };
    let grid = Definition::from_lines(list, "benchmarks/paper_grid.txt", &one).expect("the committed grid is readable");
    grid.cases.iter().map(|case| case.problem.chain.to_string()).collect()
});

/// From 1 to `most`, the logarithm uniform.
fn log_uniform(random: &mut Random, most: usize) -> usize {
    let share = 0.5 * (random.symmetric() + 1.0);
    ((most as f64 + 1.0).powf(share) as usize).clamp(1, most)
}

fn chain(random: &mut Random) -> Option<ChainPattern> {
    let round = random.below(2) == 0;
    let mut size = |most: usize| match (round, log_uniform(random, most)) {
        (true, size) => size.next_power_of_two().min(most),
        (false, size) => size,
    };
    let first = [size(64), size(1024), size(1024), size(64)];
    let outputs = size(1024);
    let first = Pattern::new(first[0], first[1], first[2], first[3]).ok()?;
    if random.below(4) > 0 {
        return ChainPattern::new(vec![first]).ok();
    }
    let width = first.rows();
    if width > 1 << 16 {
        return None;
    }
    let a = divisor(random, width);
    let d = divisor(random, width / a);
    let second = Pattern::new(a, outputs, width / a / d, d).ok()?;
    ChainPattern::new(vec![second, first]).ok()
}

/// One of the divisors of a number.
fn divisor(random: &mut Random, number: usize) -> usize {
    let all: Vec<usize> = (1..=number).filter(|&x| number.is_multiple_of(x)).collect();
    all[random.below(all.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_of_all_kinds_within_the_limits_and_the_same_for_one_seed() {
        let seed = Random::fresh_seed();
        println!("seed {seed}");
        for device in [Device::Cpu, Device::Cuda(0)] {
            let settings = Settings::new(device, seed);
            let Limits { array, dense, weights, batch, .. } = settings.limits();
            let all: Vec<Case> = (0..300).map(|number| settings.problem(number)).collect();
            for (number, case) in all.iter().enumerate() {
                let Problem { chain, dtype, batch: n, .. } = &case.problem;
                let widest = chain.rows().max(chain.cols());
                assert!(widest <= settings.largest && n * widest * dtype.size() <= array, "{case:?}");
                assert!(
                    chain.rows() * chain.cols() <= dense && chain.parameters() <= weights && *n <= batch,
                    "{case:?}"
                );
                assert!(!GRID.contains(&chain.to_string()) && chain.density() < 1.0, "{case:?}");
                assert_eq!(*case, settings.problem(number));
            }
            let count = |what: &dyn Fn(&Case) -> bool| all.iter().filter(|case| what(case)).count();
            for kind in settings.kinds() {
                assert!(count(&|case| case.kind == kind) > 20, "{kind}");
            }
            for layout in Layout::ALL {
                assert!(count(&|case| case.problem.layout == layout) > 100, "{layout}");
            }
            assert!(count(&|case| case.problem.chain.patterns().len() == 2) > 20);
            assert!(count(&|case| case.problem.batch < 16) > 20 && count(&|case| case.problem.batch > 1000) > 10);
            assert!(count(&|case| case.problem.chain.patterns().iter().any(|p| p.d() > 1)) > 100);
            let mut names: Vec<String> = all.iter().map(|case| format!("{:?}", case.problem)).collect();
            names.sort();
            names.dedup();
            assert!(names.len() > 295, "{}", names.len());
        }
        assert!(GRID.len() > 700 && GRID.contains("(1,64,64,64)"), "{}", GRID.len());
    }
}
