//! The estimates that `advise` makes for CPUs, and its watts of a GPU, against the committed records: how far they are off.

use std::path::Path;

use kronsparse::DType;
use kronsparse::advise::{Calibration, CpuDescription, chain_seconds, dense_seconds, energy};
use kronsparse::measure::Summary;
use kronsparse::plan::Algorithm;
use kronsparse_bench::{Record, Row};

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

/// Not in the record, but measured by `Calibration::measure` on a machine of the same kind, which others used too: bytes per second by one thread, and
/// within the caches of two cores.
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
    let calibration =
        Calibration::new(machine, flops, [single.bytes_per_second as u64, ALONE], CACHE).expect("plausible rates");
    let real = |row: &&Row| !row.dtype.dtype.is_complex() && row.cache == kronsparse_bench::Cache::Cold;
    let ratio = |row: &Row| {
        let (problem, measured) = (row.problem(), row.median_s?);
        let (chain, n) = (&problem.chain, problem.batch);
        let estimate = match row.algorithm {
            Algorithm::Fused => chain_seconds(chain, problem.dtype, n, &calibration),
            Algorithm::Dense => dense_seconds(chain.rows(), chain.cols(), problem.dtype, n, &calibration),
            _ => return None,
        };
        println!("{} {} {} n={n}: {:.2}", row.algorithm, chain, row.dtype, estimate / measured);
        Some(estimate / measured)
    };
    let of = |algorithm: Algorithm| -> Vec<f64> {
        record.rows.iter().filter(real).filter(|row| row.algorithm == algorithm).filter_map(ratio).collect()
    };
    let (fused, dense) = (of(Algorithm::Fused), of(Algorithm::Dense));
    assert_eq!((fused.len(), dense.len()), (14, 14));
    assert_stated("fused", quantiles(fused), [0.76, 0.88, 0.99], 0.02);
    assert_stated("dense", quantiles(dense), [0.88, 0.98, 1.19], 0.02);
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
