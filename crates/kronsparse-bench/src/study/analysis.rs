//! What a study shows: speed-ups and energy against the best of all others, the share of rewriting memory, and where dense is better.
//! Pure functions over a record.

use std::collections::HashMap;

use kronsparse::measure::{Summary, median, quantile};
use kronsparse::plan::Algorithm;

use super::cells::Part;
use super::heuristic::ratio;
use crate::gpu;
use crate::record::{Record, Row};
use crate::summary::{best_other, ours};

/// One cell of a study in the figures that its plots and tables show.
#[derive(Clone, Copy, Debug)]
pub struct Point<'a> {
    /// All rows of the cell.
    pub rows: &'a [Row],
    /// Ours, with a time.
    pub ours: &'a Row,
    /// The fastest of all others, if one has a time.
    pub best: Option<&'a Row>,
    /// Time of the fastest other over ours.
    pub speedup: Option<f64>,
    /// Energy of ours over the least energy of all others.
    pub energy: Option<f64>,
    /// (b + c)/(b·c), for single patterns.
    pub ratio: Option<f64>,
    /// Share of permute-bmm's time in which it rewrites memory.
    pub rewriting: Option<f64>,
    /// Time of the dense product over ours.
    pub over_dense: Dense,
    /// The part of the study.
    pub part: Part,
}

/// How the dense product of a cell compares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dense {
    /// Its time over ours.
    Measured(f64),
    /// The time of another cell's dense product, of the same shape, over ours.
    TakenOver(f64),
    /// Not measured, but even at the measured peak of the machine it takes so many times as long as ours, which is more than 1.
    Slower(f64),
    /// Not measured, and nothing follows.
    Unknown,
}

impl Dense {
    /// Whether ours is faster; `None` if that is not known.
    pub fn is_beaten(self) -> Option<bool> {
        match self {
            Dense::Measured(speedup) | Dense::TakenOver(speedup) => Some(speedup > 1.0),
            Dense::Slower(_) => Some(true),
            Dense::Unknown => None,
        }
    }

    /// The time of a dense product over ours, be it another cell's.
    pub fn times(self) -> Option<f64> {
        match self {
            Dense::Measured(times) | Dense::TakenOver(times) => Some(times),
            Dense::Slower(_) | Dense::Unknown => None,
        }
    }
}

impl<'a> Point<'a> {
    /// `d` of a single pattern; of a chain, that of its first factor from the left.
    pub fn d(&self) -> usize {
        self.ours.chain.patterns()[0].d()
    }
    /// The range of `d` by which points are grouped and filtered; chains have a word of their own.
    pub fn d_class(&self) -> &'static str {
        match self.d() {
            _ if self.part == Part::Layers => "chain",
            1 => "1",
            2..=4 => "2–4",
            5..=16 => "5–16",
            _ => "17 and more",
        }
    }
    /// Whether ours is faster than all others; `None` without others.
    pub fn wins(&self) -> Option<bool> {
        self.speedup.map(|speedup| speedup > 1.0)
    }
    fn of(rows: &'a [Row], record: &Record) -> Option<Point<'a>> {
        let ours = ours(rows)?;
        let own = ours.median_s?;
        let best = best_other(rows);
        let others = rows.iter().filter(|row| !row.is_ours()).filter_map(|row| row.energy_j);
        let dense = rows.iter().find(|row| row.algorithm == Algorithm::Dense);
        let dense = dense.and_then(|row| Some((row.median_s?, gpu::is_shared(row))));
        let bound = record.ceiling(ours).map(|ceiling| {
            let chain = &ours.chain;
            2.0 * ours.n as f64 * chain.rows() as f64 * chain.cols() as f64 / ceiling.flops_per_second / own
        });
        Some(Point {
            rows,
            ours,
            best,
            speedup: best.and_then(|best| best.median_s).map(|best| best / own),
            energy: others.min_by(f64::total_cmp).zip(ours.energy_j).map(|(best, own)| own / best),
            ratio: match ours.chain.patterns() {
                [one] => Some(ratio(one)),
                _ => None,
            },
            rewriting: rows.iter().find_map(|row| row.permutation_share),
            over_dense: match (dense, bound) {
                (Some((dense, false)), _) => Dense::Measured(dense / own),
                (Some((dense, true)), _) => Dense::TakenOver(dense / own),
                (None, Some(bound)) if bound > 1.0 => Dense::Slower(bound),
                _ => Dense::Unknown,
            },
            part: Part::of(ours),
        })
    }
}

/// All cells in which ours has a time, in the order of the record.
pub fn points(record: &Record) -> Vec<Point<'_>> {
    record.cases().into_iter().filter_map(|rows| Point::of(rows, record)).collect()
}

/// What some cells have in common, and how ours stands in them.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// By what they are grouped: `all`, `dtype`, `layout`, `d`.
    pub by: &'static str,
    /// The value of that.
    pub value: String,
    /// Cells with a speed-up.
    pub cells: usize,
    /// Cells in which ours is faster than all others.
    pub wins: usize,
    /// Speed-ups over the best of all others.
    pub speedup: Summary,
    /// Cells with energy.
    pub energy_cells: usize,
    /// Median energy over the least of all others.
    pub energy: Option<f64>,
}

/// Groups of the cells: all of them, then by element type, layout, both, and `d`. Empty groups are left out.
pub fn groups(points: &[Point<'_>]) -> Vec<Group> {
    type Key = fn(&Point<'_>) -> String;
    let keys: [(&'static str, Key); 5] = [
        ("all", |_| String::new()),
        ("dtype", |p| p.ours.dtype.to_string()),
        ("layout", |p| p.ours.layout.to_string()),
        ("dtype and layout", |p| format!("{} {}", p.ours.dtype, p.ours.layout)),
        ("d", |p| p.d_class().to_string()),
    ];
    let mut found = Vec::new();
    for (by, key) in keys {
        let mut values: Vec<String> = Vec::new();
        points.iter().map(key).for_each(|value| {
            if !values.contains(&value) {
                values.push(value)
            }
        });
        values.sort_by_key(|value| (D_ORDER.iter().position(|d| d == value), value.clone()));
        for value in values {
            let own: Vec<&Point<'_>> = points.iter().filter(|p| key(p) == value).collect();
            found.extend(group(by, value, &own));
        }
    }
    found
}

/// The classes of `d` in order.
pub const D_ORDER: [&str; 5] = ["1", "2–4", "5–16", "17 and more", "chain"];

fn group(by: &'static str, value: String, points: &[&Point<'_>]) -> Option<Group> {
    let speedups: Vec<f64> = points.iter().filter_map(|p| p.speedup).collect();
    let energy: Vec<f64> = points.iter().filter_map(|p| p.energy).collect();
    Some(Group {
        by,
        value,
        cells: speedups.len(),
        wins: points.iter().filter(|p| p.wins() == Some(true)).count(),
        speedup: Summary::of(&speedups)?,
        energy_cells: energy.len(),
        energy: median(&energy),
    })
}

/// Quantiles of the share of time that permute-bmm spends on rewriting memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewriting {
    /// Element type and layout.
    pub value: String,
    /// Cells in which it was measured.
    pub cells: usize,
    /// Least, quarters, the ninth tenth, largest.
    pub quantiles: [f64; 6],
}

/// The positions of [`Rewriting::quantiles`].
pub const QUANTILES: [f64; 6] = [0.0, 0.25, 0.5, 0.75, 0.9, 1.0];

/// The share of rewriting memory: of all cells, then by element type and layout.
pub fn rewriting(points: &[Point<'_>]) -> Vec<Rewriting> {
    let of = |value: String, points: &[&Point<'_>]| {
        let mut shares: Vec<f64> = points.iter().filter_map(|p| p.rewriting).filter(|s| s.is_finite()).collect();
        shares.sort_by(f64::total_cmp);
        let quantiles = QUANTILES.map(|p| if shares.is_empty() { f64::NAN } else { quantile(&shares, p) });
        (!shares.is_empty()).then_some(Rewriting { value, cells: shares.len(), quantiles })
    };
    let mut values: Vec<String> = points.iter().map(|p| format!("{} {}", p.ours.dtype, p.ours.layout)).collect();
    values.sort();
    values.dedup();
    let all: Vec<&Point<'_>> = points.iter().collect();
    let mut found: Vec<Rewriting> = of("all".into(), &all).into_iter().collect();
    for value in values {
        let own: Vec<&Point<'_>> =
            points.iter().filter(|p| format!("{} {}", p.ours.dtype, p.ours.layout) == value).collect();
        found.extend(of(value, &own));
    }
    found
}

/// How often ours beats the dense product among patterns of like sparsity.
#[derive(Clone, Debug, PartialEq)]
pub struct AgainstDense {
    /// Range of how many times fewer weights the chain has than the dense matrix.
    pub sparsity: String,
    /// Cells in which the comparison is known.
    pub cells: usize,
    /// Cells in which ours is faster.
    pub faster: usize,
    /// Cells in which dense was not measured because it takes longer even at the machine's measured peak.
    pub unmeasured: usize,
    /// Cells that took the time of dense over from another one.
    pub taken_over: usize,
    /// Median of dense's time over ours, where it has one.
    pub median: Option<f64>,
}

/// Where multiplying by the chain is faster than multiplying by the dense matrix, by the inverse of the density (a·d for one factor).
pub fn against_dense(points: &[Point<'_>]) -> Vec<AgainstDense> {
    let edges = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, f64::INFINITY];
    let classes = edges.windows(2).map(|edge| {
        let (from, to) = (edge[0], edge[1]);
        let own = points.iter().filter(|p| {
            let sparsity = 1.0 / p.ours.chain.density();
            // The density of a chain of one dense block is 1 but for rounding.
            sparsity >= from * (1.0 - 1e-9) && sparsity < to * (1.0 - 1e-9)
        });
        let own: Vec<Dense> = own.map(|p| p.over_dense).collect();
        let times: Vec<f64> = own.iter().filter_map(|dense| dense.times()).collect();
        AgainstDense {
            sparsity: if to.is_infinite() { format!("{from} and more") } else { format!("{from} to {to}") },
            cells: own.iter().filter(|d| d.is_beaten().is_some()).count(),
            faster: own.iter().filter(|d| d.is_beaten() == Some(true)).count(),
            unmeasured: own.iter().filter(|d| matches!(d, Dense::Slower(_))).count(),
            taken_over: own.iter().filter(|d| matches!(d, Dense::TakenOver(_))).count(),
            median: median(&times),
        }
    });
    classes.filter(|class| class.cells > 0).collect()
}

/// How far repeated measurements of dense products of one shape lie apart, where times are taken over from one cell to another.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseSpread {
    /// Cells that took a time over.
    pub shared: usize,
    /// Shapes that were measured more than once, with several samples each.
    pub shapes: usize,
    /// Median and largest ratio of a shape's longest median to its shortest.
    pub median: Option<f64>,
    /// See `median`.
    pub most: Option<f64>,
}

/// [`DenseSpread`] of a record; `None` where no time was taken over.
pub fn dense_spread(record: &Record) -> Option<DenseSpread> {
    let dense = || record.rows.iter().filter(|row| row.algorithm == Algorithm::Dense);
    let shared = dense().filter(|row| gpu::is_shared(row)).count();
    let mut shapes: HashMap<String, (usize, f64, f64)> = HashMap::new();
    for row in dense().filter(|row| row.samples >= gpu::FEWEST && !gpu::is_shared(row)) {
        let Some(seconds) = row.median_s else { continue };
        let (count, least, most) = shapes.entry(gpu::shape_of(row)).or_insert((0, f64::INFINITY, 0.0));
        (*count, *least, *most) = (*count + 1, least.min(seconds), most.max(seconds));
    }
    let ratios: Vec<f64> = shapes.values().filter(|shape| shape.0 > 1).map(|(_, least, most)| most / least).collect();
    (shared > 0).then(|| DenseSpread {
        shared,
        shapes: ratios.len(),
        median: median(&ratios),
        most: ratios.iter().copied().max_by(f64::total_cmp),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use kronsparse::plan::Layout;

    use super::*;
    use crate::report::tests::{row, sample};

    /// A record of single patterns: times of fused, dense and permute-bmm in µs, energies of ours and permute-bmm in mJ, share.
    pub(in crate::study) fn made_up() -> Record {
        let mut record = sample();
        record.rows.clear();
        let all = [
            ("(1,4,4,1)", Layout::BatchFirst, [2.0, 4.0, 3.0], [1.0, 2.0], 0.1),
            ("(1,8,8,4)", Layout::BatchFirst, [1.0, 9.0, 2.0], [1.0, 4.0], 0.5),
            ("(2,8,8,16)", Layout::BatchLast, [4.0, 9.0, 2.0], [3.0, 2.0], 0.3),
            ("(1,64,64,64)", Layout::BatchLast, [5.0, 4.0, 10.0], [2.0, 2.0], 0.7),
        ];
        for (chain, layout, times, energies, share) in all {
            let algorithms = [Algorithm::Fused, Algorithm::Dense, Algorithm::PermuteBmm];
            let mut rows: Vec<Row> = algorithms
                .iter()
                .zip(times)
                .map(|(&a, t)| Row { layout, ..row(chain, 64, a, Some(t * 1e-6)) })
                .collect();
            rows[0].energy_j = Some(energies[0] * 1e-3);
            rows[0].plan = format!("a kernel for {chain}");
            rows[2].energy_j = Some(energies[1] * 1e-3);
            rows[2].permutation_share = Some(share);
            crate::case::compare(&mut rows);
            record.rows.extend(rows);
        }
        record
    }

    #[test]
    fn speedups_and_energies_are_medians_over_the_best_of_all_others() {
        let record = made_up();
        let points = points(&record);
        let speedups: Vec<f64> = points.iter().map(|p| p.speedup.unwrap()).collect();
        assert_eq!(speedups, [1.5, 2.0, 0.5, 0.8]);
        let energy: Vec<f64> = points.iter().map(|p| p.energy.unwrap()).collect();
        assert_eq!(energy, [0.5, 0.25, 1.5, 1.0]);
        let all = groups(&points);
        assert_eq!((all[0].cells, all[0].wins, all[0].energy_cells), (4, 2, 4));
        assert!((all[0].speedup.median - 1.15).abs() < 1e-12 && all[0].energy == Some(0.75));
        let of = |by: &str, value: &str| all.iter().find(|g| g.by == by && g.value == value).unwrap();
        assert_eq!((of("layout", "bsf").speedup.median, of("layout", "bsl").wins), (1.75, 0));
        assert_eq!(of("dtype and layout", "f32 bsl").energy, Some(1.25));
        let by_d: Vec<&str> = all.iter().filter(|g| g.by == "d").map(|g| g.value.as_str()).collect();
        assert_eq!(by_d, ["1", "2–4", "5–16", "17 and more"]);
        assert_eq!(of("d", "5–16").speedup.median, 0.5);
    }

    #[test]
    fn a_cell_without_our_time_is_no_point_and_one_without_others_has_no_speedup() {
        let mut record = made_up();
        record.rows[0].median_s = None;
        record.rows[4].median_s = None;
        record.rows[5].median_s = None;
        let points = points(&record);
        assert_eq!(points.len(), 3);
        assert_eq!((points[0].speedup, points[0].wins()), (None, None));
        assert_eq!(groups(&points)[0].cells, 2);
    }

    #[test]
    fn quantiles_of_the_share_of_rewriting() {
        let record = made_up();
        let found = rewriting(&points(&record));
        assert_eq!(
            found.iter().map(|r| (r.value.as_str(), r.cells)).collect::<Vec<_>>(),
            [("all", 4), ("f32 bsf", 2), ("f32 bsl", 2)]
        );
        let q = found[0].quantiles;
        assert_eq!((q[0], q[5]), (0.1, 0.7));
        assert!((q[2] - 0.4).abs() < 1e-12 && (found[2].quantiles[1] - 0.4).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn dense_is_compared_by_sparsity_and_by_its_bound_where_it_was_not_measured() {
        let mut record = made_up();
        // 2·64·(64·64)² operations at 2e11 a second are 10.7 ms, 2147 times ours.
        record.rows[10].median_s = None;
        let points = points(&record);
        assert!(matches!(points[3].over_dense, Dense::Slower(x) if (2_000.0..2_200.0).contains(&x)), "{:?}", points[3]);
        let found = against_dense(&points);
        let rows: Vec<_> =
            found.iter().map(|c| (c.sparsity.as_str(), c.cells, c.faster, c.unmeasured, c.median)).collect();
        let expected = [
            ("1 to 2", 1, 1, 0, Some(2.0)),
            ("4 to 8", 1, 1, 0, Some(9.0)),
            ("16 to 64", 1, 1, 0, Some(2.25)),
            ("64 to 256", 1, 1, 1, None),
        ];
        assert_eq!(rows, expected);
        // The time of another cell counts, and is said to be that.
        let mut record = made_up();
        record.rows[1].reason = "the dense product of this shape as measured for (1,4,4,1)".into();
        let points = super::points(&record);
        assert_eq!(points[0].over_dense, Dense::TakenOver(2.0));
        let first = &against_dense(&points)[0];
        assert_eq!((first.cells, first.faster, first.taken_over, first.median), (1, 1, 1, Some(2.0)));
        assert_eq!(found.iter().map(|c| c.taken_over).sum::<usize>(), 0);
        // A small product whose bound is below our time says nothing.
        let mut record = made_up();
        record.rows[1].median_s = None;
        assert_eq!(super::points(&record)[0].over_dense, Dense::Unknown);
    }

    #[test]
    fn the_spread_of_dense_products_is_that_of_measurements() {
        let mut record = made_up();
        assert_eq!(dense_spread(&record), None);
        // Four shapes of one measurement each; then a second one, and one that is taken over.
        let dense = |record: &Record| record.rows[1].clone();
        record.rows.iter_mut().for_each(|row| row.samples = 9);
        record.rows.push(Row { median_s: Some(5e-6), ..dense(&record) });
        record.rows.push(Row { median_s: Some(4e-5), samples: 1, ..dense(&record) });
        let reason = "the dense product of this shape as measured for (1,4,4,1)".into();
        record.rows.push(Row { median_s: Some(9e-5), reason, ..dense(&record) });
        let spread = dense_spread(&record).unwrap();
        assert_eq!((spread.shared, spread.shapes), (1, 1));
        assert!((spread.most.unwrap() - 1.25).abs() < 1e-12 && spread.median == spread.most);
    }
}
