//! A record as people read it: a table for the terminal, Markdown tables for a README, one HTML page.

pub mod conversion;
pub(crate) mod html;
pub mod markdown;
mod plots;
pub(crate) mod svg;
mod terminal;

pub use html::page;
pub use terminal::table;

use std::path::Path;

use crate::Result;
use crate::record::{Record, write_whole};

/// Writes `samples.csv`, `machine.toml` and `report.html` into `folder`, each under a temporary name first.
pub fn write_all(record: &Record, folder: &Path) -> Result<()> {
    record.write(folder)?;
    write_whole(&folder.join("report.html"), &page(record))
}

#[cfg(test)]
pub(crate) mod tests {
    use kronsparse::plan::{Algorithm, Layout};
    use kronsparse::{ChainSpec, DType};

    use super::*;
    use crate::record::{Ceiling, Row, Settings, Status};
    use crate::{Cache, Machine};

    /// A row as a run would make it; the time decides the rest.
    pub(crate) fn row(chain: &str, n: usize, algorithm: Algorithm, median: Option<f64>) -> Row {
        let Ok(ChainSpec::Explicit(chain)) = chain.parse() else { panic!("{chain} is no chain") };
        let mut row = Row {
            chain,
            dtype: DType::F32.into(),
            layout: Layout::BatchFirst,
            n,
            threads: 2,
            cache: Cache::Cold,
            algorithm,
            status: if median.is_some() { Status::Ok } else { Status::Skipped },
            median_s: median,
            iqr_s: median.map(|m| 0.1 * m),
            min_s: median.map(|m| 0.9 * m),
            samples: if median.is_some() { 20 } else { 0 },
            gflops: None,
            gbs: None,
            roofline_share: median.map(|_| 0.5),
            speedup_over_best_other: None,
            rel_error: median.map(|_| 6.1e-8),
            checksum: median.map(|_| -12.5),
            seed: 99,
            tolerance: 5e-7,
            checked_vectors: 4,
            reason: if median.is_some() { String::new() } else { "over the limit <1>".into() },
            why: "a | reason, \"quoted\"".into(),
            device: String::new(),
            driver: String::new(),
            plan: String::new(),
            energy_j: None,
            idle_w: None,
            sm_mhz: None,
            memory_bytes: None,
            permutation_share: None,
        };
        row.gflops = median.map(|m| row.problem().flops() / m / 1e9);
        row.gbs = median.map(|m| row.problem().bytes() / m / 1e9);
        row
    }

    /// A small record: one win (2×), one loss (0.5×), one skipped algorithm.
    pub(crate) fn sample() -> Record {
        let (one, two) = ("(1,64,64,64)(64,64,64,1)", "(2,8,8,4)");
        let mut rows = vec![
            row(one, 256, Algorithm::Fused, Some(1e-3)),
            row(one, 256, Algorithm::Dense, Some(8e-3)),
            row(one, 256, Algorithm::PermuteBmm, Some(2e-3)),
            row(one, 256, Algorithm::Bsr, None),
            row(two, 7, Algorithm::Fused, Some(4e-6)),
            row(two, 7, Algorithm::Csr, Some(2e-6)),
        ];
        crate::case::compare(&mut rows[..4]);
        crate::case::compare(&mut rows[4..]);
        let mut machine = Machine::detect();
        machine.profile = "release".into();
        let settings = Settings {
            definition: "test".into(),
            description: "Two cases.".into(),
            command: "kronsparse bench".into(),
            date: "2026-01-02T03:04:05Z".into(),
            duration_s: 12.5,
            threads: 2,
            seed: 99,
            budget_s: 0.3,
            memory_limit: 1 << 30,
            evicted_bytes: 64 << 20,
            clock_resolution_s: 3e-8,
        };
        let ceiling = |dtype: DType, peak| Ceiling {
            dtype: dtype.into(),
            threads: 2,
            flops_per_second: peak,
            bytes_per_second: 2e10,
        };
        Record { machine, settings, ceilings: vec![ceiling(DType::F32, 2e11), ceiling(DType::F64, 1e11)], rows }
    }

    #[test]
    fn a_record_survives_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let record = sample();
        let place = folder.path().join("a/b");
        write_all(&record, &place).unwrap();
        assert_eq!(Record::read(&place).unwrap(), record);
        let mut files: Vec<_> = std::fs::read_dir(&place).unwrap().map(|e| e.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["machine.toml", "report.html", "samples.csv"]);
        assert_eq!(serde_json::from_str::<Record>(&record.to_json()).unwrap(), record);
        let header = record.to_csv().lines().next().unwrap().to_string();
        assert!(
            header.starts_with("chain,dtype,layout,n,threads,cache,algorithm,status,median_s,iqr_s,min_s"),
            "{header}"
        );
    }

    #[test]
    fn a_damaged_record_or_a_folder_that_is_none_is_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        write_all(&sample(), folder.path()).unwrap();
        let csv = folder.path().join("samples.csv");
        let text = std::fs::read_to_string(&csv).unwrap().replace("fused", "fussed");
        std::fs::write(&csv, text).unwrap();
        let error = Record::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("samples.csv") && error.contains("fussed"), "{error}");
        let error = write_all(&sample(), &csv).unwrap_err().to_string();
        assert!(error.contains("samples.csv: cannot create the folder"), "{error}");
    }

    #[test]
    fn the_terminal_shows_losses_and_reasons() {
        let text = table(&sample(), false);
        assert!(!text.contains('\x1b'));
        assert!(text.contains("▸ fused") && text.contains("2.00×") && text.contains("0.500×"), "{text}");
        assert!(text.contains("bsr") && text.contains("skipped: over the limit <1>"), "{text}");
        assert!(text.contains("slower than another algorithm in 1 of 2 cases: (2,8,8,4)"), "{text}");
        let mut wrong = sample();
        wrong.rows[1].status = Status::Wrong;
        wrong.rows[1].reason = "relative error 0.3".into();
        assert!(!wrong.is_right() && sample().is_right());
        let text = table(&wrong, true);
        assert!(text.contains("dense") && text.contains("WRONG: relative error 0.3") && text.contains("\x1b[1;31m"));
    }

    #[test]
    fn markdown_tables_are_spliced_between_their_markers() {
        let record = sample();
        let cases = markdown::table(&record, "cases").unwrap();
        assert_eq!(cases.lines().count(), 4, "{cases}");
        assert!(
            cases.contains(
                "| `(1,64,64,64)(64,64,64,1)` | f32 · bsf · n = 256 · cold | 1.00 ms | 2.00 ms (permute-bmm) | 2.00× |"
            ),
            "{cases}"
        );
        assert!(cases.contains("| *0.500×* |"), "{cases}");
        let algorithms = markdown::table(&record, "algorithms").unwrap();
        assert!(algorithms.contains("| bsr | 0 | 1 | 0 | – | – | – |"), "{algorithms}");
        assert!(algorithms.contains("| dense | 1 | 0 | 0 | 8.00× | 8.00× | 8.00× |"), "{algorithms}");
        for name in markdown::TABLES {
            assert!(markdown::table(&record, name).unwrap().ends_with('\n'));
        }
        assert_eq!(markdown::table(&record, "nothing"), None);

        let readme = "before\n<!-- report:cases -->\nstale\n<!-- /report:cases -->\nafter\n";
        let spliced = markdown::splice(readme, "cases", &cases).unwrap();
        assert!(spliced.starts_with("before\n<!-- report:cases -->\n| chain |"), "{spliced}");
        assert!(spliced.ends_with("|\n<!-- /report:cases -->\nafter\n") && !spliced.contains("stale"), "{spliced}");
        assert_eq!(markdown::splice(&spliced, "cases", &cases).unwrap(), spliced);
        assert_eq!(markdown::splice(readme, "machine", "x"), None);
        assert_eq!(markdown::splice("<!-- /report:a --><!-- report:a -->", "a", "x"), None);
    }
}
