//! Tuning on the CPU: what was measured is written down, looked up, and really taken, where it is known to be no slower.

use std::path::Path;
use std::sync::Arc;

use kronsparse::cpu::{Isa, Operator, Options, Scratch, tune};
use kronsparse::plan::Algorithm;
use kronsparse::plan::gpu::{ChainProblem, Cut};
use kronsparse::tune::{Machine, Measured, Record, Step, Store, Tuning};
use kronsparse::{Activation, Chain, ChainPattern, Join, Layout, Scalar, reference, relative_error_wide};

const THREADS: usize = 2;

fn chain<T: Scalar>() -> Chain<T> {
    let pattern = ChainPattern::monarch(24, 32, 4, 8).unwrap();
    let mut random = fastrand::Rng::new();
    Chain::from_fn(&pattern, |_, _, _, _, _| {
        T::narrow(<T::Wide as kronsparse::scalar::Wide>::from_parts(random.f64() - 0.5, random.f64() - 0.5))
    })
}

fn way(algorithm: Algorithm, arguments: &str, seconds: f64) -> Measured {
    let step = Step { arguments: arguments.into(), ..Step::algorithm(Cut { at: 0, count: 2 }, algorithm) };
    Measured { steps: vec![step], seconds, samples: 5 }
}

fn problem<T: Scalar>(layout: Layout, n: usize) -> ChainProblem {
    ChainProblem::new(chain::<T>().pattern().clone(), T::DTYPE, layout, n)
}

/// What says that `best` took a microsecond where the fused algorithm took two.
fn record(problem: ChainProblem, best: Measured) -> Record {
    let machine = Machine::cpu(Isa::detect(), THREADS);
    let usual = way(Algorithm::Fused, "", 2e-6);
    Record::new(machine, problem, "warm", usual.clone(), best.clone(), vec![usual, best])
}

fn store(folder: &Path, records: Vec<Record>) -> Tuning {
    let path = folder.join(format!("{}.txt", fastrand::u64(..)));
    let mut store = Store::open(&path).unwrap();
    records.into_iter().for_each(|record| store.append(record).unwrap());
    // As a later process finds it.
    Tuning::Store(Arc::new(Store::read(&path).unwrap()))
}

fn operator<T: Scalar>(tuning: &Tuning, options: Options<T>) -> Operator<T> {
    Operator::new(&chain(), Options { tuning: tuning.clone(), threads: THREADS, ..options }).unwrap()
}

#[test]
fn a_stored_way_is_taken_for_its_problem_and_for_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let dense = || way(Algorithm::Dense, "", 1e-6);
    let tuning = store(folder.path(), vec![record(problem::<f32>(Layout::BatchFirst, 64), dense())]);
    let tuned = operator::<f32>(&tuning, Options::default());
    let of = |operator: &Operator<f32>, n| operator.algorithm(n, Layout::BatchFirst);
    assert_eq!(of(&tuned, 64), Algorithm::Dense);
    let words = tuned.explain(64, Layout::BatchFirst);
    assert!(words.starts_with("dense on up to 2 threads; measured 1.00 µs with n = 64, untuned 2.00 µs"), "{words}");
    // Near numbers profit, others do not: 80 / 64 is a quarter more.
    assert_eq!([79, 80, 52, 51, 1].map(|n| of(&tuned, n) == Algorithm::Dense), [true, false, true, false, false]);
    assert_eq!(tuned.explain(80, Layout::BatchFirst), "fused on up to 2 threads");
    assert_eq!(tuned.algorithm(64, Layout::BatchLast), Algorithm::Fused);

    let others = [
        operator(&tuning, Options { bias: Some(vec![1.0; 24]), ..Options::default() }),
        operator(&tuning, Options { activation: Activation::Relu, ..Options::default() }),
        operator(&tuning, Options { join: Join::Residual, ..Options::default() }),
        operator(&tuning, Options { isa: Some(Isa::Portable), ..Options::default() }),
        operator(&Tuning::Off, Options::default()),
        Operator::new(&chain(), Options { tuning: tuning.clone(), threads: 1, ..Options::default() }).unwrap(),
        // What is asked for is done.
        operator(&tuning, Options { algorithm: Algorithm::Fused, ..Options::default() }),
    ];
    for (at, other) in others.iter().enumerate() {
        // Where there is nothing wider, the portable instruction set is the detected one.
        let same = at == 3 && Isa::detect() == Isa::Portable;
        assert_eq!(of(other, 64) == Algorithm::Dense, same, "{at}");
    }
    let asked = operator::<f32>(&tuning, Options { algorithm: Algorithm::Einsum, ..Options::default() });
    assert_eq!(of(&asked, 64), Algorithm::Einsum);
    assert_eq!(operator::<f64>(&tuning, Options::default()).algorithm(64, Layout::BatchFirst), Algorithm::Fused);
}

#[test]
fn every_stored_way_multiplies_right() {
    let folder = tempfile::tempdir().unwrap();
    let mut ways: Vec<(Algorithm, &str)> = Algorithm::on_cpu().map(|algorithm| (algorithm, "")).to_vec();
    ways.push((Algorithm::Fused, "threads=1"));
    for (at, (algorithm, arguments)) in ways.iter().enumerate() {
        for layout in Layout::ALL {
            let (n, chain) = (3 + 40 * at, chain::<f32>());
            let best = way(*algorithm, arguments, 1e-6);
            let bias: Vec<f32> = (0..24).map(|_| fastrand::f32()).collect();
            let with_bias = ChainProblem { bias: true, activation: Activation::Relu, ..problem::<f32>(layout, n) };
            let tuning = store(folder.path(), vec![record(with_bias, best)]);
            let options = Options {
                bias: Some(bias.clone()),
                activation: Activation::Relu,
                threads: THREADS,
                tuning,
                ..Options::default()
            };
            let operator = Operator::new(&chain, options).unwrap();
            assert_eq!(operator.algorithm(n, layout), *algorithm);
            let threads = if arguments.is_empty() { "on up to 2 threads" } else { "on up to 1 thread;" };
            assert!(operator.explain(n, layout).contains(threads), "{}", operator.explain(n, layout));
            // As records name it, beside all threads that rayon has.
            let threads: usize = if arguments.is_empty() { THREADS } else { 1 };
            let found = &operator.steps(n, layout)[0];
            let fewer = (threads != rayon::current_num_threads()).then(|| format!("threads={threads}"));
            let expected = (algorithm.name().to_string(), 0, chain.factors().len(), fewer.unwrap_or_default());
            assert_eq!((found.name.clone(), found.at, found.count, found.arguments.clone()), expected);
            // And another number of vectors, by the usual way, with the same scratch.
            let mut scratch = Scratch::default();
            for n in [n, 3 * n, n] {
                let x: Vec<f32> = (0..n * 32).map(|_| fastrand::f32() - 0.5).collect();
                let mut y = vec![f32::NAN; n * 24];
                operator.apply_with(&x, &mut y, n, layout, &mut scratch).unwrap();
                let right = reference::multiply(&chain, Some(&bias), Activation::Relu, &x, n, layout);
                let error = relative_error_wide(&y, &right);
                assert!(error < 1e-5, "{algorithm} {arguments} {layout} n = {n}: {error}");
            }
        }
    }
}

#[test]
fn what_cannot_be_trusted_here_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let of = |record: Record| {
        let tuning = store(folder.path(), vec![record]);
        operator::<f32>(&tuning, Options::default()).algorithm(64, Layout::BatchFirst)
    };
    let good = || record(problem::<f32>(Layout::BatchFirst, 64), way(Algorithm::Dense, "", 1e-6));
    assert_eq!(of(good()), Algorithm::Dense);
    // Of another machine, build, or number of threads.
    for change in [
        |machine: &mut Machine| machine.device.push('X'),
        |machine: &mut Machine| machine.compiler.push('X'),
        |machine: &mut Machine| machine.threads += 1,
    ] {
        let mut other = good();
        change(&mut other.machine);
        assert_eq!(of(other), Algorithm::Fused);
    }
    // What the CPU does not have, and threads that are none.
    for (name, arguments) in
        [("strided", ""), ("pair_wgmma", "ks::PairTile<8>"), ("dense", "threads=0"), ("dense", "x")]
    {
        let mut other = good();
        other.best.steps[0].name = name.into();
        other.best.steps[0].arguments = arguments.into();
        assert_eq!(of(other), Algorithm::Fused, "{name}");
    }
    // Nobody measured what would be done now.
    let mut other = good();
    other.untuned.steps[0].name = "einsum".into();
    other.measured.remove(0);
    assert_eq!(of(other), Algorithm::Fused);
    // The latest says that the usual way is as fast.
    let tie = record(problem::<f32>(Layout::BatchFirst, 64), way(Algorithm::Dense, "", 1.99e-6));
    let tuning = store(folder.path(), vec![good(), tie]);
    assert_eq!(operator::<f32>(&tuning, Options::default()).algorithm(64, Layout::BatchFirst), Algorithm::Fused);
}

#[test]
fn measuring_covers_the_algorithms_and_its_result_is_used() {
    let folder = tempfile::tempdir().unwrap();
    for (join, layout) in
        [(Join::None, Layout::BatchLast), (Join::Residual, Layout::BatchFirst), (Join::Gate, Layout::BatchFirst)]
    {
        let options = || Options { join, activation: Activation::Silu, threads: THREADS, ..Options::<f32>::default() };
        let found = tune(&chain::<f32>(), &options(), 20, layout, false, 0.002).unwrap();
        let expected = ChainProblem { join, activation: Activation::Silu, ..problem::<f32>(layout, 20) };
        assert_eq!((&found.problem, &found.machine), (&expected, &Machine::cpu(Isa::detect(), THREADS)));
        let names: Vec<String> = found.measured.iter().map(Measured::name).collect();
        assert_eq!(names, ["fused", "dense", "permute-bmm", "einsum", "csr", "bsr", "fused threads=1"]);
        assert_eq!(found.untuned, found.measured[0]);
        assert!(found.untuned.samples >= 5, "{found:?}");
        let least = found.measured.iter().map(|way| way.seconds).fold(f64::INFINITY, f64::min);
        assert!(found.best.seconds == least || found.best == found.untuned, "{found:?}");

        let best: Algorithm = found.best.steps[0].name.parse().unwrap();
        let tuning = store(folder.path(), vec![found]);
        let operator = Operator::new(&chain(), Options { tuning, ..options() }).unwrap();
        assert_eq!(operator.algorithm(20, layout), best);
    }
    let none = tune(&chain::<f32>(), &Options::default(), 0, Layout::BatchFirst, false, 0.0).unwrap_err();
    assert!(none.to_string().contains("at least one vector"), "{none}");
    // A dense matrix with more than 32 times the weights is not tried.
    let sparse = ChainPattern::square_dyadic(1024).unwrap();
    let sparse = Chain::from_fn(&sparse, |_, _, _, _, _| 0.5f32);
    let found = tune(&sparse, &Options::default(), 2, Layout::BatchFirst, false, 0.0).unwrap();
    assert!(found.measured.iter().all(|way| way.name() != "dense"), "{found:?}");
}
