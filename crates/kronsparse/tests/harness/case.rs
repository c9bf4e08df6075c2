//! Reads `testdata/*.toml`, and refuses a case that says something else than it seems to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use kronsparse::{Activation, ChainPattern, DType, Join, Layout, Pattern};
use serde::Deserialize;

/// One line of the test plan; `testdata/README.md` describes the keys.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) chain: ChainPattern,
    pub(crate) batch: Vec<usize>,
    pub(crate) layouts: Vec<Layout>,
    pub(crate) dtypes: Vec<DType>,
    pub(crate) bias: bool,
    pub(crate) activation: Activation,
    pub(crate) join: Join,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    case: Vec<Raw>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    why: String,
    factors: Vec<[usize; 4]>,
    batch: Batch,
    layouts: Option<Vec<String>>,
    dtypes: Option<Vec<String>>,
    #[serde(default)]
    bias: bool,
    activation: Option<String>,
    join: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Batch {
    One(usize),
    Many(Vec<usize>),
}

/// The folder `testdata` at the root of the repository, or `KRONSPARSE_TESTDATA` where the tests run without it.
pub(crate) fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("KRONSPARSE_TESTDATA") {
        return folder.into();
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

/// Every case of every file. With `KRONSPARSE_CASES=text` set, only those whose name contains the text.
///
/// # Panics
/// When a file cannot be read, a case is malformed, two cases share a name, or no case is left.
pub(crate) fn all() -> Vec<Case> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder()).expect("testdata exists").map(|entry| entry.expect("readable folder").path()).collect();
    files.retain(|path| path.extension().is_some_and(|ext| ext == "toml"));
    files.sort();
    let mut cases = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        cases.extend(parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    }
    let mut names = BTreeSet::new();
    cases.iter().for_each(|case| assert!(names.insert(&case.name), "two cases are called {}", case.name));
    if let Ok(wanted) = std::env::var("KRONSPARSE_CASES") {
        cases.retain(|case| case.name.contains(&wanted));
    }
    assert!(!cases.is_empty(), "no case is left to run");
    cases
}

/// The cases of one file's text, or what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Vec<Case>, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    file.case
        .into_iter()
        .map(|raw| {
            let name = raw.name.clone();
            check(raw).map_err(|why| format!("case {name}: {why}"))
        })
        .collect()
}

fn check(raw: Raw) -> Result<Case, String> {
    if raw.why.split_whitespace().count() < 3 {
        return Err(format!("`why` must be a sentence, found `{}`", raw.why));
    }
    let patterns = raw.factors.iter().map(|&[a, b, c, d]| Pattern::new(a, b, c, d));
    let patterns = patterns.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    let batch = match raw.batch {
        Batch::One(n) => vec![n],
        Batch::Many(list) => list,
    };
    let layouts = list(raw.layouts, &Layout::ALL)?;
    let dtypes = list(raw.dtypes, &DType::ALL)?;
    if batch.is_empty() {
        return Err("`batch` is empty, so it would never run".into());
    }
    let activation = raw.activation.as_deref().unwrap_or("none").parse().map_err(|e| format!("{e}"))?;
    let join: Join = raw.join.as_deref().unwrap_or("none").parse().map_err(|e| format!("{e}"))?;
    let chain = ChainPattern::new(patterns).map_err(|e| e.to_string())?;
    join.outputs(chain.rows()).map_err(|e| e.to_string())?;
    Ok(Case { name: raw.name, chain, batch, layouts, dtypes, bias: raw.bias, activation, join })
}

/// The named items, or all of them when the key is absent.
fn list<T: Copy + std::str::FromStr<Err = kronsparse::Error>>(
    names: Option<Vec<String>>,
    all: &[T],
) -> Result<Vec<T>, String> {
    match names {
        None => Ok(all.to_vec()),
        Some(names) if names.is_empty() => Err("an empty list would never run".into()),
        Some(names) => names.iter().map(|name| name.parse().map_err(|e| format!("{e}"))).collect(),
    }
}
