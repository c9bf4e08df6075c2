//! Every instruction set that this machine has computes what the oracle computes, in every element type and layout.

use half::{bf16, f16};
use kronsparse::cpu::{Isa, Operator, Options};
use kronsparse::scalar::Wide;
use kronsparse::{Chain, ChainPattern, Layout, Pattern, Scalar, reference, relative_error_wide};
use num_complex::{Complex32, Complex64};

/// Uniform numbers in [-1, 1) from a seed that is new in every run and printed when a check fails.
struct Random {
    state: u64,
    seed: u64,
}

impl Random {
    fn new() -> Random {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
        Random { state: seed as u64, seed: seed as u64 }
    }

    fn uniform(&mut self) -> f64 {
        // SplitMix64 (Steele, Lea, Flood, 2014).
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn element<T: Scalar>(&mut self) -> T {
        T::narrow(T::Wide::from_parts(self.uniform(), self.uniform()))
    }
}

const CHAINS: [&[[usize; 4]]; 12] = [
    &[[1, 8, 8, 16]],
    &[[2, 17, 9, 1]],
    &[[1, 5, 3, 35]],
    &[[3, 7, 33, 2]],
    &[[1, 1, 1, 1]],
    &[[1, 11, 600, 1]],
    &[[1, 3, 530, 5]],
    &[[1, 64, 64, 40]],
    &[[1, 8, 8, 8], [8, 8, 8, 1]],
    &[[1, 5, 4, 6], [4, 6, 7, 1]],
    &[[1, 2, 2, 8], [2, 2, 2, 4], [4, 2, 2, 2], [8, 2, 2, 1]],
    &[[1, 12, 10, 3], [6, 5, 9, 1], [2, 27, 4, 1]],
];

fn check<T: Scalar>(isa: Isa) -> usize {
    let mut random = Random::new();
    let mut checked = 0;
    for patterns in CHAINS {
        let patterns = patterns.iter().map(|&[a, b, c, d]| Pattern::new(a, b, c, d).unwrap()).collect();
        let pattern = ChainPattern::new(patterns).unwrap();
        let chain: Chain<T> = Chain::from_fn(&pattern, |_, _, _, _, _| random.element());
        let tolerance = T::DTYPE.tolerance(pattern.longest_sum(), pattern.patterns().len());
        for threads in [1, 2] {
            let options = Options { isa: Some(isa), threads, ..Default::default() };
            let operator = Operator::new(&chain, options).unwrap();
            for layout in Layout::ALL {
                for n in [1, 3, 16, 29, 50, 101] {
                    let x: Vec<T> = (0..n * chain.cols()).map(|_| random.element()).collect();
                    let mut y = vec![T::narrow(T::Wide::from_parts(f64::NAN, f64::NAN)); n * chain.rows()];
                    operator.apply(&x, &mut y, n, layout).unwrap();
                    let expected = reference::multiply(&chain, None, Default::default(), &x, n, layout);
                    let error = relative_error_wide(&y, &expected);
                    let case = format!("{} {} {pattern} {layout} n={n} seed={}", isa.name(), T::DTYPE, random.seed);
                    assert!(error <= tolerance, "{case}: error {error:e} above {tolerance:e}");
                    checked += 1;
                }
            }
        }
    }
    checked
}

#[test]
fn every_available_instruction_set_agrees_with_the_oracle() {
    assert!(Isa::available().contains(&Isa::Portable) && Isa::available().contains(&Isa::detect()));
    for &isa in Isa::available() {
        let checked = check::<f16>(isa)
            + check::<bf16>(isa)
            + check::<f32>(isa)
            + check::<f64>(isa)
            + check::<Complex32>(isa)
            + check::<Complex64>(isa);
        assert_eq!(checked, 6 * CHAINS.len() * 2 * 2 * 6);
        println!("{}: {checked} products", isa.name());
    }
}
