//! The algorithms of NVIDIA's libraries on a GPU, on every case of `testdata/`, against the oracle: poisoned outputs, aligned and
//! unaligned arrays, with and without a trial. Without a GPU it says so and passes; with `KRONSPARSE_REQUIRE_GPU=1` it fails.

mod harness;

use harness::{Case, Engine, Job, Outcome, Ready, case, inputs, run};
use kronsparse::cuda::inspect::Inspector;
use kronsparse::cuda::vendor::{Options, Part, Session, Vendor};
use kronsparse::cuda::{Buffer, Device, Stream};
use kronsparse::plan::Algorithm;
use kronsparse::{Chain, ChainPattern, DType, Error, Join, Layout, Result, Scalar, reference, relative_error_wide};

/// The GPU, or nothing where there is none and none is required.
fn device() -> Option<Device> {
    match Device::open(0) {
        Ok(device) => Some(device),
        Err(error) if std::env::var_os("KRONSPARSE_REQUIRE_GPU").is_some_and(|v| v == "1") => panic!("{error}"),
        Err(error) => {
            println!("not run: {error}");
            None
        }
    }
}

/// One algorithm; `aligned` says whether arrays are promised to be, `trial` whether ways are timed.
struct Library {
    device: Device,
    algorithm: Algorithm,
    aligned: bool,
    trial: bool,
}

impl Engine for Library {
    fn name(&self) -> String {
        format!("{} aligned={} trial={}", self.algorithm, self.aligned, self.trial)
    }
    /// cuSPARSE's CSR product rounds partial sums of long rows to the 16-bit type: up to 1.4e-3 in f16 on an H100. (Once 2.2e-3, for
    /// `shapes/very-long-sum`, which this test then reports as what it is, an error of the library.)
    fn slack<T: Scalar>(&self, _: &ChainPattern) -> f64 {
        let narrow = matches!(T::DTYPE, DType::F16 | DType::Bf16);
        if self.algorithm == Algorithm::Csr && narrow { 4.0 } else { 1.0 }
    }
    fn prepare<'a, T: Scalar>(&'a self, job: Job<'a, T>) -> Result<Box<dyn Ready<T> + 'a>> {
        Ok(Box::new(Prepared { library: self, job }))
    }
}

struct Prepared<'a, T: Scalar> {
    library: &'a Library,
    job: Job<'a, T>,
}

impl<T: Scalar> Ready<T> for Prepared<'_, T> {
    fn run(&mut self, x: &[T], _: &[T], y: &mut [T], n: usize, layout: Layout) -> Result<()> {
        let Library { device, algorithm, aligned, trial } = self.library;
        let stream = Stream::new(device)?;
        let mut options = Options::new(*algorithm, n, layout);
        (options.bias, options.activation, options.aligned) = (self.job.bias, self.job.activation, *aligned);
        // Fences before and behind, of the harness's NaN; without alignment the arrays start at an odd element.
        let shift = if *aligned { 16 } else { 17 };
        let nan = vec![inputs::nan::<T>(); shift];
        let on_device = |inside: &[T]| Buffer::from_slice(device, &[&nan[..], inside, &nan[..]].concat());
        let (from, to) = (on_device(x)?, on_device(y)?);
        let mut scratch = (Buffer::from_slice(device, x)?, Buffer::alloc(device, y.len())?);
        let arrays = trial.then_some((&scratch.0, &mut scratch.1, &stream));
        let vendor = Vendor::prepare(device, self.job.chain, &options, arrays)?;
        // The copies above are done.
        device.synchronize()?;
        // SAFETY: both arrays hold the harness's elements from `shift` on, and are read back before they are freed.
        unsafe { vendor.launch_raw(from.pointer_at(shift), to.pointer_at(shift), stream.raw())? };
        stream.synchronize()?;
        let all = to.to_vec()?;
        y.copy_from_slice(&all[shift..shift + y.len()]);
        let outside = all[..shift].iter().chain(&all[shift + y.len()..]);
        if let Some(at) = outside.clone().position(|&value| !inputs::is_nan(value)) {
            return Err(Error::Numerical {
                what: "the fence".into(),
                why: format!("element {at} outside Y was written"),
            });
        }
        Ok(())
    }
}

/// Runs cases through an algorithm; what cuSPARSE does not have is printed and counted, not hidden.
fn suite(algorithm: Algorithm, keep: impl Fn(&mut Case) -> bool) {
    let Some(device) = device() else { return };
    let _session = Session::new(&device);
    let mut cases = case::all();
    // The libraries' algorithms join nothing by themselves.
    cases.retain(|case| case.join == Join::None);
    for case in &mut cases {
        case.dtypes.retain(|dtype| !dtype.is_complex());
    }
    cases.retain_mut(|case| !case.dtypes.is_empty() && keep(case));
    let engines = [(true, false), (false, false), (true, true)].map(|(aligned, trial)| Library {
        device: device.clone(),
        algorithm,
        aligned,
        trial,
    });
    let mut report = run(&cases, &engines, &|_, _, _| None, inputs::seed());
    let sparse = matches!(algorithm, Algorithm::Csr | Algorithm::Bsr);
    for record in &mut report.records {
        if let Outcome::Fail(why) = &record.outcome
            && sparse
            && (why.contains("the library answers") || why.contains("no common block"))
        {
            println!("{} {} {}: {why}", record.case, record.dtype, record.engine);
            record.outcome = Outcome::Unsupported("cuSPARSE does not have it".into());
        }
    }
    report.assert();
}

fn lanes(case: &Case) -> bool {
    case.chain.patterns().iter().any(|p| p.d() > 1)
}

#[test]
fn dense() {
    suite(Algorithm::Dense, |_| true);
}

#[test]
fn permute_bmm() {
    suite(Algorithm::PermuteBmm, |_| true);
}

#[test]
fn strided() {
    suite(Algorithm::Strided, |case| {
        if lanes(case) {
            case.layouts.retain(|layout| *layout == Layout::BatchLast);
        }
        !case.layouts.is_empty()
    });
}

#[test]
fn csr() {
    suite(Algorithm::Csr, |_| true);
}

#[test]
fn bsr() {
    suite(Algorithm::Bsr, |_| true);
}

/// A chain of one factor with random weights, a large random input on the device, and the oracle's result.
fn problem<T: Scalar>(
    device: &Device,
    stream: &Stream,
    n: usize,
    layout: Layout,
) -> (Chain<T>, Buffer<T>, Vec<T::Wide>) {
    let pattern = ChainPattern::new(vec!["3,40,24,16".parse().unwrap()]).unwrap();
    let mut rng = fastrand::Rng::new();
    let chain = Chain::from_fn(&pattern, |_, _, _, _, _| inputs::real::<T>(rng.f64() - 0.5));
    let mut x = Buffer::alloc(device, n * chain.cols() + 100).unwrap();
    Inspector::new(device).unwrap().fill(&mut x, rng.u64(..), stream).unwrap();
    let host = x.to_vec().unwrap();
    let expected =
        reference::multiply(&chain, None, kronsparse::Activation::None, &host[..n * chain.cols()], n, layout);
    (chain, x, expected)
}

#[test]
fn permute_bmm_is_its_three_parts_and_fits_a_graph() {
    let Some(device) = device() else { return };
    let stream = Stream::new(&device).unwrap();
    for layout in Layout::ALL {
        let n = 1000;
        let (chain, x, expected) = problem::<f32>(&device, &stream, n, layout);
        let mut y = Buffer::alloc(&device, expected.len()).unwrap();
        let inspector = Inspector::new(&device).unwrap();
        let options = Options::new(Algorithm::PermuteBmm, n, layout);
        let vendor = Vendor::prepare(&device, &chain, &options, Some((&x, &mut y, &stream))).unwrap();
        let count = y.len();
        inspector.poison(&mut y, count, &stream).unwrap();
        for part in Part::ALL {
            vendor.launch_part(part, &x, &mut y, &stream).unwrap();
        }
        assert!(relative_error_wide(&y.to_vec().unwrap(), &expected) < 1e-6, "{layout} {vendor}");
        inspector.poison(&mut y, count, &stream).unwrap();
        let graph = stream.capture(|| vendor.launch(&x, &mut y, &stream)).unwrap();
        assert!(y.to_vec().unwrap().iter().all(|v| v.is_nan()), "a capture runs nothing");
        // SAFETY: operator and buffers are alive until the read below has waited.
        unsafe { graph.launch(&stream).unwrap() };
        assert!(relative_error_wide(&y.to_vec().unwrap(), &expected) < 1e-6, "{layout}");
    }
}

fn inspected<T: Scalar<Wide = f64>>() {
    let Some(device) = device() else { return };
    let stream = Stream::new(&device).unwrap();
    let inspector = Inspector::<T>::new(&device).unwrap();
    for (layout, n, features) in
        Layout::ALL.into_iter().flat_map(|l| [(1, 5), (333, 700), (5000, 3)].map(|(n, f)| (l, n, f)))
    {
        let mut values = Buffer::<T>::alloc(&device, n * features + 7).unwrap();
        inspector.fill(&mut values, fastrand::u64(..), &stream).unwrap();
        let host = values.to_vec().unwrap();
        let mix: Vec<f64> = (0..n).map(|_| fastrand::f64() - 0.5).collect();
        let sums =
            inspector.combine(&values, features, layout, &Buffer::from_slice(&device, &mix).unwrap(), &stream).unwrap();
        let which = [n - 1, 0, n / 2];
        let picked = inspector.pick(&values, n, features, layout, &which, &stream).unwrap();
        for feature in 0..features {
            let value = |s: usize| host[layout.index(s, feature, n, features)].widen();
            let (mixed, plain) = (0..n).fold((0.0, 0.0), |(m, p), s| (m + mix[s] * value(s), p + value(s)));
            assert!((sums[feature][0] - mixed).abs() < 1e-9 && (sums[feature][1] - plain).abs() < 1e-9, "{layout} {n}");
            for (at, &s) in which.iter().enumerate() {
                assert_eq!(picked[at * features + feature].widen(), value(s));
            }
        }
        assert!(host.iter().all(|v| (-1.0..=1.0).contains(&v.widen())));
        let mean = host.iter().map(|v| v.widen()).sum::<f64>() / host.len() as f64;
        assert!(mean.abs() < 6.0 / (host.len() as f64).sqrt(), "{mean}");
        inspector.poison(&mut values, n * features, &stream).unwrap();
        let poisoned = values.to_vec().unwrap();
        assert!(
            poisoned[..n * features].iter().all(|v| v.widen().is_nan()) && !poisoned[n * features].widen().is_nan()
        );
    }
}

#[test]
fn arrays_are_inspected_on_the_device() {
    inspected::<half::f16>();
    inspected::<half::bf16>();
    inspected::<f32>();
    inspected::<f64>();
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let Some(device) = device() else { return };
    let stream = Stream::new(&device).unwrap();
    let (chain, ..) = problem::<f32>(&device, &stream, 10, Layout::BatchFirst);
    let refused =
        |options: Options<'_, f32>| Vendor::prepare(&device, &chain, &options, None).err().unwrap().to_string();
    assert!(refused(Options::new(Algorithm::Strided, 10, Layout::BatchFirst)).contains("d is 16"));
    assert!(refused(Options::new(Algorithm::Fused, 10, Layout::BatchFirst)).contains("permute-bmm"));
    let small = Options { memory_limit: 1000, ..Options::new(Algorithm::Dense, 10, Layout::BatchLast) };
    assert!(refused(small).contains("the limit is 1000"));
    let bias = Options { bias: Some(&[1.0; 3]), ..Options::new(Algorithm::Dense, 10, Layout::BatchLast) };
    assert!(refused(bias).contains("expected 1920 elements, found 3"));
    let complex = Chain::from_fn(chain.pattern(), |_, _, _, _, _| num_complex::Complex32::new(1.0, 0.0));
    let error =
        Vendor::prepare(&device, &complex, &Options::new(Algorithm::Csr, 1, Layout::BatchLast), None).err().unwrap();
    assert!(error.to_string().contains(DType::C64.name()), "{error}");
}
