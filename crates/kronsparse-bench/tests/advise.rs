//! The estimates that `advise` makes for CPUs, and its watts of a GPU, against the committed records: how far they are off.

use std::path::Path;

use kronsparse::advise::cpu::{chain_seconds, dense_seconds};
use kronsparse::advise::spread::{self, Spread};
use kronsparse::advise::{Calibration, Case, CpuDescription, Gpu, Target, energy};
use kronsparse::measure::Summary;
use kronsparse::plan::Algorithm;
use kronsparse::plan::gpu::{CALL, GpuMachine, GpuProblem, libraries};
use kronsparse::{Activation, DType, Join, Pattern};
use kronsparse_bench::{Cache, Record, Row};

fn record(folder: &str) -> Record {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels above the crate");
    Record::read(&root.join("record").join(folder)).expect("the committed record is readable")
}

/// The least, the median, the largest.
fn quantiles(values: Vec<f64>) -> [f64; 3] {
    let all = Summary::of(&values).expect("finite values");
    [all.min, all.median, all.max]
}

fn assert_stated(what: &str, found: [f64; 3], stated: [f64; 3], within: f64) {
    println!("{what}: {found:.2?}");
    for (found, stated) in found.iter().zip(stated) {
        assert!((found - stated).abs() <= within, "{what}: {found:.3}, stated {stated}");
    }
}

/// Not in the record: what one thread has from memory, and the caches of both cores, in bytes per second. `Calibration::measure` gave
/// them on that machine at another time.
const ALONE: u64 = 20_000_000_000;
const CACHE: u64 = 225_000_000_000;

/// The figures in the comment of `advise/cpu.rs`.
#[test]
fn estimates_of_a_cpu_are_as_good_as_stated() {
    let record = record("2026-11-22-epyc-zen4/quick");
    let ceiling = |dtype: DType| record.ceilings.iter().find(|c| c.dtype == dtype.into()).expect("a ceiling");
    let (single, double) = (ceiling(DType::F32), ceiling(DType::F64));
    let machine = CpuDescription {
        platform: "x86_64 linux".into(),
        cpu: record.machine.cpu.clone(),
        isa: "avx512".into(),
        threads: single.threads,
        vector_bytes: 64,
        core_cache: 1 << 20,
        caches: record.machine.caches.clone(),
    };
    let flops = [single.flops_per_second as u64, double.flops_per_second as u64];
    let calibration = |alone: u64, cache: u64| {
        let memory = [single.bytes_per_second as u64, alone];
        Calibration::new(machine.clone(), flops, memory, cache).expect("plausible rates")
    };
    let real = |row: &&Row| !row.dtype.dtype.is_complex() && row.cache == Cache::Cold;
    let of = |algorithm: Algorithm, calibration: &Calibration| -> Vec<f64> {
        let ratio = |row: &Row| {
            let problem = row.problem();
            let (chain, dtype, n) = (&problem.chain, problem.dtype, problem.batch);
            let estimate = match algorithm {
                Algorithm::Fused => chain_seconds(chain, dtype, n, calibration),
                _ => dense_seconds(chain.rows(), chain.cols(), dtype, n, calibration),
            };
            Some(estimate / row.median_s?)
        };
        record.rows.iter().filter(real).filter(|row| row.algorithm == algorithm).filter_map(ratio).collect()
    };
    let stated = calibration(ALONE, CACHE);
    let (fused, dense) = (of(Algorithm::Fused, &stated), of(Algorithm::Dense, &stated));
    assert_eq!((fused.len(), dense.len()), (14, 14));
    // The rows of a case stand in one order.
    let gains = dense.iter().zip(&fused).map(|(dense, fused)| dense / fused).collect();
    assert_spread("gains on a CPU", gains, spread::CPU);
    assert_stated("fused", quantiles(fused), [0.78, 0.90, 1.00], 0.02);
    assert_stated("dense", quantiles(dense), [0.88, 0.98, 1.19], 0.02);
    // What hangs on the two rates that the record lacks, a quarter off either way.
    for (alone, cache, stated) in [
        (ALONE * 3 / 4, CACHE, [0.91, 0.99]),
        (ALONE * 5 / 4, CACHE, [0.89, 0.98]),
        (ALONE, CACHE * 3 / 4, [0.98, 0.98]),
        (ALONE, CACHE * 5 / 4, [0.86, 0.98]),
    ] {
        let other = calibration(alone, cache);
        let medians = [Algorithm::Fused, Algorithm::Dense].map(|algorithm| quantiles(of(algorithm, &other))[1]);
        println!("{alone} from memory by one thread, {cache} in the caches: medians {medians:.2?}");
        let close = medians.iter().zip(stated).all(|(median, stated)| (median - stated).abs() < 0.01);
        assert!(close, "medians: stated {stated:?}, found {medians:?}");
    }
}

/// The figures in the comment of `advise/energy.rs`.
#[test]
fn watts_are_those_of_the_record() {
    let rows: Vec<Row> = ["energy", "chains_energy"]
        .into_iter()
        .flat_map(|folder| record(&format!("2026-11-22-h100/{folder}")).rows)
        .filter(|row| row.energy_j.is_some())
        .collect();
    assert_eq!(rows.len(), 37);
    let watts = |row: &Row| row.energy_j.expect("filtered") / row.median_s.expect("timed");
    let mut ratios = Vec::new();
    for (algorithm, constant, stated) in [
        (Algorithm::Fused, energy::KERNEL, [600.0, 713.0, 848.0]),
        (Algorithm::PermuteBmm, energy::PERMUTE_BMM, [552.0, 617.0, 694.0]),
        (Algorithm::Dense, energy::DENSE, [709.0, 810.0, 910.0]),
    ] {
        let all: Vec<f64> = rows.iter().filter(|row| row.algorithm == algorithm).map(watts).collect();
        ratios.extend(all.iter().map(|watts| constant / watts));
        assert_stated(algorithm.name(), quantiles(all), stated, 1.0);
        assert!((stated[1] - constant).abs() < 1.0, "{algorithm}: {constant}");
    }
    assert_eq!(ratios.len(), rows.len(), "every row has one of these algorithms");
    let [least, _, most] = quantiles(ratios);
    assert!((least - 0.84).abs() < 0.01 && (most - 1.19).abs() < 0.01, "{least} to {most}");
    let shortest = rows.iter().filter_map(|row| row.median_s).fold(f64::INFINITY, f64::min);
    assert!((shortest / energy::SHORTEST - 1.0).abs() < 0.01, "{shortest}");
}

/// Rows of chains on an H100, by case: what this project's kernels and libraries factor by factor took, what dense took.
fn chains_and_dense(folder: &str) -> Vec<(Row, f64, f64)> {
    let rows = record(folder).rows;
    let mut all = Vec::new();
    for case in rows.chunk_by(|p, q| p.same_case(q)) {
        let time = |algorithm: Algorithm| {
            let row = case.iter().find(|row| row.algorithm == algorithm)?;
            row.median_s.filter(|_| !row.is_one_dense_product())
        };
        let dense = case.iter().find(|row| row.algorithm == Algorithm::Dense).and_then(|row| row.median_s);
        let chain = [Algorithm::Auto, Algorithm::Fused].into_iter().filter_map(time).reduce(f64::min);
        all.extend(chain.zip(dense).map(|(chain, dense)| (case[0].clone(), chain, dense)));
    }
    all
}

/// The figures in the comment of `advise/spread.rs`, which say when a verdict is too close to call.
#[test]
fn estimates_of_a_gpu_are_as_good_as_stated() {
    let machine = GpuMachine::h100();
    let target = Target::Gpu(Box::new(Gpu::h100()));
    let (mut large, mut medium, mut gains, mut small_gains) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let folders = ["2026-11-23-h100/layers", "2026-11-22-h100/chains", "2026-11-22-h100/chains_small"];
    for (row, chain, dense) in folders.into_iter().flat_map(chains_and_dense) {
        let problem = row.problem();
        let case = Case {
            dtype: row.dtype.dtype,
            precision: row.dtype.precision(),
            layout: problem.layout,
            batch: problem.batch,
        };
        let of_chain = target.chain(&problem.chain, &case).expect("a real type").seconds / chain;
        // What was measured is cuBLAS; the adviser's dense matrix is multiplied by a kernel where that is estimated to be faster.
        let whole = GpuProblem {
            pattern: Pattern::new(1, problem.chain.rows(), problem.chain.cols(), 1).expect("a size"),
            dtype: case.dtype,
            precision: case.precision,
            layout: case.layout,
            batch: case.batch,
            aligned: true,
            bias: false,
            activation: Activation::None,
            join: Join::None,
        };
        let cublas = CALL + libraries::seconds(Algorithm::Dense, &whole, &machine, usize::MAX).expect("it exists");
        let gain = cublas / dense / of_chain;
        println!("{} {} n={}: chain {of_chain:.2}, gain {gain:.2}", row.chain, row.dtype, row.n);
        match (row.cache, problem.batch) {
            (Cache::Warm, 1024) => {}
            (Cache::Warm, _) => small_gains.push(gain),
            (Cache::Cold, 1024) => medium.push(of_chain),
            (Cache::Cold, _) => large.push(of_chain),
        }
        if row.cache == Cache::Cold {
            gains.push(gain);
        }
    }
    let close = |ratios: &[f64]| ratios.iter().filter(|ratio| (0.8..=1.25).contains(*ratio)).count();
    println!("{} of {}, {} of {}", close(&large), large.len(), close(&medium), medium.len());
    assert_eq!([close(&large), large.len(), close(&medium), medium.len()], [16, 16, 5, 12]);
    assert_stated("chains, n > 1024", quantiles(large), [0.91, 1.03, 1.16], 0.02);
    assert_stated("chains, n = 1024", quantiles(medium), [0.07, 0.76, 1.03], 0.02);
    assert_spread("gains on a GPU", gains, spread::GPU);
    assert_spread("gains on a GPU, few vectors", small_gains, spread::GPU_SMALL);
}

/// One in ten below, one in ten above.
fn assert_spread(what: &str, mut gains: Vec<f64>, stated: Spread) {
    gains.sort_by(f64::total_cmp);
    let tenth = gains.len() / 10;
    let (least, most) = (gains[tenth], gains[gains.len() - 1 - tenth]);
    println!("{what}: {gains:.2?}");
    assert_eq!(gains.len(), stated.cases, "{what}");
    let close = (least - stated.least).abs() < 0.02 && (most - stated.most).abs() < 0.02;
    assert!(close, "{what}: {least:.3} to {most:.3}, stated {stated}");
}
