//! The tables of README come from the committed record: this test rebuilds them and compares. With
//! `KRONSPARSE_SPLICE=1` in the environment it writes them instead.

use std::fs;
use std::path::{Path, PathBuf};

use kronsparse_bench::Record;
use kronsparse_bench::report::conversion::{Conversion, conversions};
use kronsparse_bench::report::markdown::{splice, table};

const RECORD: &str = "record/2026-11-22-epyc-zen4";
const GPU_RECORD: &str = "record/2026-11-22-h100/chains";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("two levels above the crate").into()
}

#[test]
fn the_tables_of_readme_are_those_of_the_record() {
    let folder = root().join(RECORD);
    let record = Record::read(&folder.join("quick")).expect("the committed record is readable");
    let models: Vec<Conversion> = ["0.5", "0.25", "0.1"]
        .iter()
        .map(|budget| fs::read(folder.join(format!("minilm/budget-{budget}.json"))).expect("a committed conversion"))
        .map(|json| serde_json::from_slice(&json).expect("the JSON of `kronsparse convert`"))
        .collect();
    let readme = root().join("README.md");
    let published = fs::read_to_string(&readme).expect("README.md is readable");
    let mut rebuilt = splice(&published, "minilm", &conversions(&models)).expect("README has a place for `minilm`");
    for name in ["machine", "headline", "cases"] {
        let table = table(&record, name).expect("a known table");
        rebuilt = splice(&rebuilt, name, &table).unwrap_or_else(|| panic!("README has no place for `{name}`"));
    }
    let gpu = Record::read(&root().join(GPU_RECORD)).expect("the committed record of a GPU is readable");
    for (place, name) in [("h100-machine", "machine"), ("h100-chains", "cases")] {
        let table = table(&gpu, name).expect("a known table");
        rebuilt = splice(&rebuilt, place, &table).unwrap_or_else(|| panic!("README has no place for `{place}`"));
    }
    if std::env::var_os("KRONSPARSE_SPLICE").is_some() {
        fs::write(&readme, &rebuilt).expect("README.md is writable");
    } else {
        assert!(
            rebuilt == published,
            "README differs from {RECORD} or {GPU_RECORD}: run this test with KRONSPARSE_SPLICE=1"
        );
    }
}
