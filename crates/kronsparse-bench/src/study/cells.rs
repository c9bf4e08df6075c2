//! What a study measures and in which order: the grid, the layers, a few patterns over many batch sizes; and its shards.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use kronsparse::DType;
use kronsparse::plan::Layout;

use crate::definition::{Case, Definition, Sweep};
use crate::record::Row;
use crate::{Cache, Kind, Result};

/// The patterns of the article: `benchmarks/paper_grid.txt`, which says where they are from.
const PAPER: &str = include_str!("../../../../benchmarks/paper_grid.txt");
/// A few of them.
const QUICK: &str = include_str!("../../../../benchmarks/study_quick.txt");
/// The layers of well-known transformers.
const LAYERS: &str = include_str!("../../../../benchmarks/layers.toml");

/// Batch of the article: 128 images of 196 tokens.
pub const PAPER_BATCH: usize = 25_088;
/// Batch of the grid on a CPU.
const CPU_BATCH: usize = 1_024;

/// Patterns, batch sizes of the sweep on a GPU and on a CPU.
const SWEEP_GPU: (&str, &[usize]) = (
    "1,64,64,64; 1,768,192,2; 1,128,128,16; 4,256,256,4",
    &[1, 16, 128, 1_024, 8_192, PAPER_BATCH, 50_176, 100_352, 200_704],
);
const SWEEP_CPU: (&str, &[usize]) = ("1,64,64,4; 1,48,48,16", &[1, 16, 128, CPU_BATCH, 2_048]);

/// One pattern in so many of the paper's grid is measured with every algorithm, and with energy where that is asked for;
/// the others with those algorithms that can win.
const THOROUGH_EVERY: usize = 48;
/// And one layer in so many.
const THOROUGH_LAYERS: usize = 4;

/// Which patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// All of the article's.
    Paper,
    /// Twelve small ones of them and four layers.
    Quick,
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Grid::Paper { "paper" } else { "quick" })
    }
}

impl FromStr for Grid {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Grid, String> {
        [Grid::Paper, Grid::Quick].into_iter().find(|g| g.to_string() == text).ok_or("expected paper or quick".into())
    }
}

/// What part of the study a case belongs to, as the column `why` of its rows says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// A pattern of the grid at the batch size of the grid.
    Grid,
    /// A layer: a chain of two factors.
    Layers,
    /// A pattern of the grid at another batch size.
    Batches,
}

impl Part {
    /// All parts.
    pub const ALL: [Part; 3] = [Part::Grid, Part::Layers, Part::Batches];
    const GRID: &str = "the grid of the article";
    const BATCHES: &str = "a pattern of the grid at another batch size";

    /// The part that a row belongs to.
    pub fn of(row: &Row) -> Part {
        match row.why.as_str() {
            _ if row.chain.patterns().len() > 1 => Part::Layers,
            Part::BATCHES => Part::Batches,
            _ => Part::Grid,
        }
    }
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Grid => "grid",
            Part::Layers => "layers",
            Part::Batches => "batches",
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Which patterns.
    pub grid: Grid,
    /// Whether a GPU is measured: batch sizes and element types are others then.
    pub gpu: bool,
    /// Element types; those of the device if empty.
    pub kinds: Vec<Kind>,
    /// Layouts; both if empty.
    pub layouts: Vec<Layout>,
    /// Batch sizes of the grid; [`PAPER_BATCH`] on a GPU and 1024 on a CPU if empty.
    pub batch: Vec<usize>,
}

/// One case of a study.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// What is multiplied.
    pub case: Case,
    /// Whether every algorithm is measured, and energy if it is asked for.
    pub thorough: bool,
}

impl Cell {
    /// The case in a line: what two shards must not share.
    pub fn key(&self) -> String {
        let Case { problem, kind, cache, .. } = &self.case;
        key(&problem.chain.to_string(), *kind, problem.layout, problem.batch, *cache)
    }
}

fn key(chain: &str, kind: Kind, layout: Layout, batch: usize, cache: Cache) -> String {
    format!("{chain} {kind} {layout} n = {batch} {cache}")
}

/// [`Cell::key`] of the case that a row belongs to.
pub fn key_of(row: &Row) -> String {
    key(&row.chain.to_string(), row.dtype, row.layout, row.n, row.cache)
}

/// The cells of a study in the order in which they are measured: wherever it is cut off, what is there is spread over patterns,
/// element types, layouts and parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Cells(pub Vec<Cell>);

impl Cells {
    /// The cells that are asked for, in order. Errors: a batch size of 0 or one that fits in no memory.
    pub fn new(request: &Request) -> Result<Cells> {
        let Request { grid, gpu, .. } = *request;
        let kinds = match (&request.kinds[..], gpu) {
            ([], true) => vec![DType::F32.into(), Kind::TF32, DType::F16.into(), DType::Bf16.into()],
            ([], false) => vec![DType::F32.into(), DType::Bf16.into()],
            (given, _) => given.to_vec(),
        };
        let layouts = if request.layouts.is_empty() { Layout::ALL.to_vec() } else { request.layouts.clone() };
        let batch = match (&request.batch[..], gpu) {
            ([], true) => vec![PAPER_BATCH],
            ([], false) => vec![CPU_BATCH],
            (given, _) => given.to_vec(),
        };
        let sweep = |batch: &[usize]| Sweep {
            batch: batch.to_vec(),
            dtype: kinds.clone(),
            layout: layouts.clone(),
            cache: vec![Cache::Cold],
        };
        let patterns = if grid == Grid::Paper { PAPER } else { QUICK };
        let of_grid = Definition::from_lines(patterns, &format!("--grid {grid}"), &sweep(&batch))?;
        let of_grid = spread(named(of_grid.cases, Part::GRID));
        let mut layers = Definition::from_toml(LAYERS, "benchmarks/layers.toml", &sweep(&[]))?.cases;
        if grid == Grid::Quick {
            layers.retain(|c| c.problem.chain.rows().max(c.problem.chain.cols()) <= 1_536 && c.problem.batch < 256);
        }
        let (list, sizes) = if gpu { SWEEP_GPU } else { SWEEP_CPU };
        let batches = Definition::from_lines(list, "the sweep of batch sizes", &sweep(sizes))?;
        let in_grid = |case: &Case| of_grid.iter().any(|c| c.problem == case.problem && c.kind == case.kind);
        let batches = named(batches.cases.into_iter().filter(|case| !in_grid(case)).collect(), Part::BATCHES);

        let layers = spread(layers);
        let mut thorough = one_in(&of_grid, THOROUGH_EVERY);
        thorough.extend(one_in(&layers, THOROUGH_LAYERS));
        let quick = grid == Grid::Quick;
        let cell = |case: Case| Cell { thorough: quick || thorough.contains(&case.problem.chain.to_string()), case };
        let parts = [of_grid, layers, spread(batches)].map(|part| part.into_iter().map(cell).collect());
        Ok(Cells(weave(parts)))
    }

    /// The part of the cells that shard `shard` measures, in the same order: each goes to the shard with the least cost so far. The same
    /// cells and costs give the same shards everywhere.
    pub fn shard(&self, shard: Shard, cost: impl Fn(&Cell) -> f64) -> Cells {
        let mut load = vec![0.0; shard.of];
        let mut own = Vec::new();
        for cell in &self.0 {
            let least = (0..shard.of).min_by(|&a, &b| f64::total_cmp(&load[a], &load[b])).unwrap_or(0);
            load[least] += cost(cell);
            if least + 1 == shard.number {
                own.push(cell.clone());
            }
        }
        Cells(own)
    }

    /// A number that two studies share only if they have the same cells in the same order.
    pub fn digest(&self) -> u64 {
        // FNV-1a (Fowler, Noll, Vo).
        let text = self.0.iter().map(|cell| format!("{} {}\n", cell.key(), cell.thorough));
        text.flat_map(String::into_bytes)
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

/// Cases in an order in which every beginning is spread over patterns, batch sizes and conditions, which are element type and layout: first
/// each pattern and batch size under one condition, then each under the next.
fn spread(cases: Vec<Case>) -> Vec<Case> {
    let mut places = HashMap::<(String, usize), usize>::new();
    let mut groups: Vec<Vec<Case>> = Vec::new();
    for case in cases {
        let key = (case.problem.chain.to_string(), case.problem.batch);
        let at = *places.entry(key).or_insert(groups.len());
        if at == groups.len() {
            groups.push(Vec::new());
        }
        groups[at].push(case);
    }
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by(|&a, &b| f64::total_cmp(&(a as f64 * golden).fract(), &(b as f64 * golden).fract()));
    let conditions = groups.iter().map(Vec::len).max().unwrap_or(0);
    let pass = |pass: usize| {
        let (groups, order) = (&groups, &order);
        order.iter().enumerate().filter_map(move |(at, &group)| {
            let cases = &groups[group];
            (pass < cases.len()).then(|| cases[(at + pass) % cases.len()].clone())
        })
    };
    (0..conditions).flat_map(pass).collect()
}

/// One chain in so many, in the order in which they are first seen.
fn one_in(cases: &[Case], every: usize) -> HashSet<String> {
    let mut seen: Vec<String> = Vec::new();
    let mut known = HashSet::new();
    for chain in cases.iter().map(|case| case.problem.chain.to_string()) {
        if known.insert(chain.clone()) {
            seen.push(chain);
        }
    }
    seen.into_iter().step_by(every).collect()
}

/// Cases that say which part they are.
fn named(cases: Vec<Case>, why: &str) -> Vec<Case> {
    cases.into_iter().map(|case| Case { why: why.into(), ..case }).collect()
}

/// Parts put into one order, each spread evenly over it.
fn weave(parts: [Vec<Cell>; 3]) -> Vec<Cell> {
    let place = |part: Vec<Cell>| {
        let count = part.len() as f64;
        part.into_iter().enumerate().map(move |(at, cell)| ((at as f64 + 0.5) / count, cell))
    };
    let mut all: Vec<(f64, Cell)> = parts.into_iter().flat_map(place).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.into_iter().map(|(_, cell)| cell).collect()
}

/// Shard `number` of `of`, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which one; at least 1 and at most `of`.
    pub number: usize,
    /// How many there are.
    pub of: usize,
}

impl Default for Shard {
    fn default() -> Shard {
        Shard { number: 1, of: 1 }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Shard, String> {
        let numbers = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((number, of)) if 1 <= number && number <= of && of <= 10_000 => Ok(Shard { number, of }),
            _ => Err(format!("expected K/N with 1 ≤ K ≤ N ≤ 10000, found {text}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn request(grid: Grid, gpu: bool) -> Request {
        Request { grid, gpu, kinds: Vec::new(), layouts: Vec::new(), batch: Vec::new() }
    }

    #[test]
    fn the_whole_grid_is_there_once() {
        let cells = Cells::new(&request(Grid::Paper, true)).unwrap();
        let keys: BTreeSet<String> = cells.0.iter().map(Cell::key).collect();
        assert_eq!(keys.len(), cells.0.len());
        // Ten of the 738 lines repeat an earlier one.
        let grid: Vec<&Cell> = cells.0.iter().filter(|c| c.case.why == Part::GRID).collect();
        assert_eq!(grid.len(), 728 * 4 * 2);
        let thorough = grid.iter().filter(|c| c.thorough).count();
        assert_eq!(thorough, 728_usize.div_ceil(THOROUGH_EVERY) * 8);
        // Four patterns, eight more batch sizes, four types, two layouts.
        assert_eq!(cells.0.iter().filter(|c| c.case.why == Part::BATCHES).count(), 4 * 8 * 8);
    }

    #[test]
    fn every_beginning_is_spread_over_everything() {
        let cells = Cells::new(&request(Grid::Paper, true)).unwrap();
        for length in [100, 400, 1_600] {
            let begin = &cells.0[..length];
            let distinct: BTreeSet<String> = begin.iter().map(|c| c.case.problem.chain.to_string()).collect();
            assert!(distinct.len() > length.min(728) / 2, "{length}: {} patterns", distinct.len());
            for kind in ["f32", "tf32", "f16", "bf16"] {
                for layout in Layout::ALL {
                    let has = |c: &&Cell| c.case.kind.to_string() == kind && c.case.problem.layout == layout;
                    let count = begin.iter().filter(has).count();
                    assert!((length / 12..length / 6).contains(&count), "{length}: {count} of {kind} {layout}");
                }
            }
            let wide = begin.iter().filter(|c| c.case.problem.chain.patterns()[0].d() >= 8).count();
            assert!((length / 5..length * 4 / 5).contains(&wide), "{length}: {wide} with d of 8 or more");
        }
    }

    #[test]
    fn the_quick_grid_is_a_part_of_the_papers() {
        let none = Sweep::default();
        let chains = |text: &str| -> BTreeSet<String> {
            let definition = Definition::from_lines(text, "a grid", &none).unwrap();
            definition.cases.iter().map(|c| c.problem.chain.to_string()).collect()
        };
        let (quick, paper) = (chains(QUICK), chains(PAPER));
        assert!(quick.len() == 12 && quick.is_subset(&paper), "{:?}", quick.difference(&paper));
        for (list, _) in [SWEEP_GPU, SWEEP_CPU] {
            assert!(chains(list).is_subset(&paper), "{list}");
        }
        assert!(Cells::new(&request(Grid::Quick, false)).unwrap().0.iter().all(|c| c.thorough));
    }

    #[test]
    fn shards_are_a_balanced_partition() {
        let cells = Cells::new(&request(Grid::Paper, true)).unwrap();
        let cost = |cell: &Cell| 1.0 + cell.case.problem.chain.parameters() as f64 * 1e-6;
        for of in [1, 2, 3, 7] {
            let shards: Vec<Cells> = (1..=of).map(|number| cells.shard(Shard { number, of }, cost)).collect();
            let keys: BTreeSet<String> = shards.iter().flat_map(|s| s.0.iter().map(Cell::key)).collect();
            assert_eq!((keys.len(), shards.iter().map(|s| s.0.len()).sum()), (cells.0.len(), cells.0.len()));
            let loads: Vec<f64> = shards.iter().map(|s| s.0.iter().map(cost).sum()).collect();
            let (least, most) = loads.iter().fold((f64::MAX, 0f64), |(a, b), &x| (a.min(x), b.max(x)));
            assert!(most / least < 1.05, "{loads:?}");
            assert_eq!(shards[0], cells.shard(Shard { number: 1, of }, cost));
        }
        assert_ne!(cells.digest(), cells.shard(Shard { number: 1, of: 2 }, cost).digest());
        assert_eq!(cells.digest(), Cells::new(&request(Grid::Paper, true)).unwrap().digest());
    }

    #[test]
    fn shards_by_name() {
        assert_eq!("2/3".parse(), Ok(Shard { number: 2, of: 3 }));
        for wrong in ["0/3", "4/3", "1", "1/", "a/b", "1/0"] {
            assert!(wrong.parse::<Shard>().unwrap_err().contains("1 ≤ K ≤ N"), "{wrong}");
        }
        assert!("big".parse::<Grid>().is_err() && "paper".parse() == Ok(Grid::Paper));
    }
}
