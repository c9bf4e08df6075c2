//! Arrays of more than 2^31 elements, where a 32-bit index anywhere would read or write the wrong place.

use half::f16;
use kronsparse::cuda::{Buffer, Device, Operator, Options, Stream};
use kronsparse::plan::Algorithm;
use kronsparse::{Chain, Factor, Layout, Pattern};

/// X and Y of 2^31 and a few elements each, in f16.
const NEEDED_GIB: u64 = 9;

/// A number in -1 … 1 that belongs to a vector and a feature.
fn value(vector: usize, feature: usize) -> f16 {
    let mixed =
        (vector as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (feature as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    f16::from_f32((mixed >> 40) as f32 / (1u32 << 23) as f32 - 1.0)
}

pub(crate) fn beyond_31_bits(device: &Device) -> Result<(), String> {
    let allowed = std::env::var("KRONSPARSE_LARGE_GIB").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    if allowed < NEEDED_GIB {
        return Err(format!("set KRONSPARSE_LARGE_GIB={NEEDED_GIB} where GPU and host have that many GiB free"));
    }
    let p = Pattern::new(1, 2, 2, 64).unwrap();
    let n = (1usize << 24) + 5;
    let weight = |o: usize, l: usize, j: usize| value(1 + o * 2 + l, j);
    let chain = Chain::from(Factor::from_fn(p, |_, o, l, j| weight(o, l, j)));
    let ours = Options { algorithm: Algorithm::Fused, ..Options::default() };
    let operator = Operator::new(device, &chain, ours).unwrap();
    let stream = Stream::new(device).unwrap();
    let mut host = vec![f16::ZERO; n * p.cols()];
    assert!(host.len() > 1 << 31);
    for layout in Layout::ALL {
        for (at, slot) in host.iter_mut().enumerate() {
            let (vector, feature) = match layout {
                Layout::BatchFirst => (at / p.cols(), at % p.cols()),
                Layout::BatchLast => (at % n, at / n),
            };
            *slot = value(vector, feature);
        }
        let x = Buffer::from_slice(device, &host).unwrap();
        host.fill(f16::NAN);
        let mut y = Buffer::from_slice(device, &host).unwrap();
        operator.apply(&x, &mut y, n, layout, &stream).unwrap();
        y.read(0, &mut host).unwrap();
        let ends = [0, 1, n / 2, (1 << 24) - 1, 1 << 24, n - 1];
        for vector in ends.into_iter().chain((0..20_000).map(|_| fastrand::usize(..n))) {
            for o in 0..2 {
                for j in 0..64 {
                    let sum = |l| weight(o, l, j).to_f64() * value(vector, p.col(0, l, j)).to_f64();
                    let (expected, row) = (sum(0) + sum(1), p.row(0, o, j));
                    let found = host[layout.index(vector, row, n, p.rows())].to_f64();
                    assert!(
                        (found - expected).abs() <= 2e-3,
                        "{layout}: vector {vector}, row {row}: {found}, expected {expected}"
                    );
                }
            }
        }
        assert!(!host.iter().any(|v| v.is_nan()), "{layout}: something was not written");
    }
    Ok(())
}
