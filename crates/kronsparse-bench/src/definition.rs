//! What is measured: cases from a TOML definition, from a list of patterns, or from the built-in `quick` selection.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use kronsparse::plan::{Layout, Problem};
use kronsparse::{ChainPattern, ChainSpec, DType, Pattern};
use serde::{Deserialize, Serialize};

use crate::{Error, Kind, Result};

/// The selection of `--quick`: a tour of the kinds of patterns that finishes in about two minutes on two cores.
pub const QUICK: &str = include_str!("../../../benchmarks/quick.toml");

/// Whether a sample finds its data in the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Cache {
    /// A buffer larger than the last level cache is streamed over before every sample.
    #[default]
    Cold,
    /// An untimed call on the same data precedes every sample.
    Warm,
}

impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Cache::Cold { "cold" } else { "warm" })
    }
}

impl FromStr for Cache {
    type Err = Error;

    fn from_str(text: &str) -> Result<Cache> {
        [Cache::Cold, Cache::Warm]
            .into_iter()
            .find(|c| c.to_string() == text)
            .ok_or_else(|| Error::Definition { place: format!("cache `{text}`"), why: "expected cold or warm".into() })
    }
}

/// One multiplication that every algorithm is measured on.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Chain, element type, batch and layout.
    pub problem: Problem,
    /// The problem's element type, and how it is multiplied.
    pub kind: Kind,
    /// State of the caches.
    pub cache: Cache,
    /// Why it is worth measuring; may be empty.
    pub why: String,
}

/// What a chain is multiplied with. An empty list means "as the definition says".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sweep {
    /// Batch sizes, each at least 1.
    pub batch: Vec<usize>,
    /// Element types, or `tf32`.
    #[serde(with = "crate::text::list")]
    pub dtype: Vec<Kind>,
    /// Layouts.
    #[serde(with = "crate::text::list")]
    pub layout: Vec<Layout>,
    /// States of the caches.
    #[serde(with = "crate::text::list")]
    pub cache: Vec<Cache>,
}

impl Sweep {
    /// What is measured where nobody says anything: 256 vectors, `f32`, batch-first, cold.
    fn fallback() -> Sweep {
        Sweep {
            batch: vec![256],
            dtype: vec![DType::F32.into()],
            layout: vec![Layout::BatchFirst],
            cache: vec![Cache::Cold],
        }
    }

    /// `self` where it says something, `other` elsewhere.
    fn or(&self, other: &Sweep) -> Sweep {
        fn pick<T: Clone>(first: &[T], second: &[T]) -> Vec<T> {
            if first.is_empty() { second.to_vec() } else { first.to_vec() }
        }
        Sweep {
            batch: pick(&self.batch, &other.batch),
            dtype: pick(&self.dtype, &other.dtype),
            layout: pick(&self.layout, &other.layout),
            cache: pick(&self.cache, &other.cache),
        }
    }
}

/// The file `benchmarks/NAME.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    description: String,
    #[serde(default)]
    defaults: Sweep,
    case: Vec<FileCase>,
}

/// One `[[case]]`: a chain and what differs from the defaults.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCase {
    chain: String,
    /// Shape of the product, for chains such as `monarch:8,8` that need one.
    shape: Option<[usize; 2]>,
    why: String,
    #[serde(default)]
    sweep: Sweep,
}

/// Cases with the sentence that describes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Where they come from, in a few words: a file's name, `quick`, or the list itself.
    pub name: String,
    /// What is measured, and why.
    pub description: String,
    /// The cases, in order, without repetition.
    pub cases: Vec<Case>,
}

impl Definition {
    /// The built-in quick selection; `overrides` replaces batch sizes, types, layouts and cache states.
    pub fn quick(overrides: &Sweep) -> Result<Definition> {
        Definition::from_toml(QUICK, "quick", overrides)
    }

    /// From the argument of `--patterns`: a `.toml` definition, a text file with one pattern or chain a line, or the list
    /// itself, its items separated by `;`.
    pub fn from_argument(argument: &str, overrides: &Sweep) -> Result<Definition> {
        let path = Path::new(argument);
        let looks_like_a_list = argument.trim_start().starts_with(|c: char| c == '(' || c.is_ascii_digit());
        if looks_like_a_list && !path.exists() {
            return Definition::from_lines(argument, "--patterns", overrides);
        }
        let text = std::fs::read_to_string(path).map_err(Error::io(path, "read the patterns"))?;
        if path.extension().is_some_and(|e| e == "toml") {
            Definition::from_toml(&text, argument, overrides)
        } else {
            Definition::from_lines(&text, argument, overrides)
        }
    }

    /// One pattern `a,b,c,d` or chain `(a,b,c,d)(a,b,c,d)` a line or between `;`; `#` starts a comment.
    pub fn from_lines(text: &str, place: &str, overrides: &Sweep) -> Result<Definition> {
        let sweep = overrides.or(&Sweep::fallback());
        let mut cases = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("");
            for item in line.split(';').map(str::trim).filter(|item| !item.is_empty()) {
                let at = || format!("{place}, line {}", number + 1);
                let chain = parse_chain(item).map_err(|e| Error::Definition { place: at(), why: e.to_string() })?;
                expand(&mut cases, &chain, &sweep, "", &at())?;
            }
        }
        let name = Path::new(place).file_name().map_or(place.into(), |n| n.to_string_lossy().into_owned());
        finish(name, String::new(), cases, place)
    }

    /// From the text of a `.toml` definition.
    pub fn from_toml(text: &str, place: &str, overrides: &Sweep) -> Result<Definition> {
        let fail = |why: String| Error::Definition { place: place.into(), why };
        let file: File = toml::from_str(text).map_err(|e| fail(e.to_string().trim_end().replace('\n', "\n  ")))?;
        let mut cases = Vec::new();
        for (index, case) in file.case.iter().enumerate() {
            let at = format!("{place}, case {} ({})", index + 1, case.chain);
            let fail = |e: kronsparse::Error| Error::Definition { place: at.clone(), why: e.to_string() };
            let chain = match case.shape {
                Some([rows, cols]) => {
                    case.chain.parse::<ChainSpec>().and_then(|spec| spec.resolve(rows, cols)).map_err(fail)?
                }
                None => parse_chain(&case.chain).map_err(fail)?,
            };
            let sweep = overrides.or(&case.sweep.or(&file.defaults.or(&Sweep::fallback())));
            expand(&mut cases, &chain, &sweep, &case.why, &at)?;
        }
        let name = Path::new(place).file_stem().map_or(place.into(), |n| n.to_string_lossy().into_owned());
        finish(name, file.description, cases, place)
    }
}

/// A pattern `a,b,c,d`, with or without parentheses, or an explicit chain of them.
fn parse_chain(text: &str) -> kronsparse::Result<ChainPattern> {
    if text.starts_with('(') {
        return match text.parse::<ChainSpec>()? {
            ChainSpec::Explicit(chain) => Ok(chain),
            // A text that starts with a parenthesis is never one of the named forms.
            _ => unreachable!("`{text}` was read as a named chain"),
        };
    }
    if text.starts_with(|c: char| c.is_alphabetic()) {
        return Err(kronsparse::Error::Parse {
            what: "a chain",
            text: text.into(),
            why: "a named chain needs `shape = [rows, columns]`, which only a .toml definition can give".into(),
        });
    }
    ChainPattern::new(vec![text.parse::<Pattern>()?])
}

/// Adds the cases of one chain that are not there yet.
fn expand(cases: &mut Vec<Case>, chain: &ChainPattern, sweep: &Sweep, why: &str, at: &str) -> Result<()> {
    for &kind in &sweep.dtype {
        for &layout in &sweep.layout {
            for &batch in &sweep.batch {
                let fits = batch.checked_mul(chain.rows().max(chain.cols())).and_then(|e| e.checked_mul(16));
                if batch == 0 || fits.is_none_or(|bytes| bytes > isize::MAX as usize) {
                    return Err(Error::Definition {
                        place: at.into(),
                        why: format!(
                            "batch {batch}: a measured batch needs at least one vector and must fit in memory"
                        ),
                    });
                }
                for &cache in &sweep.cache {
                    let problem = Problem { chain: chain.clone(), dtype: kind.dtype, batch, layout };
                    if !cases.iter().any(|c| c.problem == problem && c.kind == kind && c.cache == cache) {
                        cases.push(Case { problem, kind, cache, why: why.into() });
                    }
                }
            }
        }
    }
    Ok(())
}

fn finish(name: String, description: String, cases: Vec<Case>, place: &str) -> Result<Definition> {
    if cases.is_empty() {
        return Err(Error::Definition {
            place: place.into(),
            why: "there is no pattern in it; expected a,b,c,d or (a,b,c,d)(a,b,c,d)… on a line".into(),
        });
    }
    Ok(Definition { name, description, cases })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chains(definition: &Definition) -> Vec<String> {
        definition.cases.iter().map(|c| c.problem.chain.to_string()).collect()
    }

    #[test]
    fn lists_of_patterns_and_chains() {
        let none = Sweep::default();
        let list = Definition::from_argument("1,64,64,64; (6,64,64,1)", &none).unwrap();
        assert_eq!(chains(&list), ["(1,64,64,64)", "(6,64,64,1)"]);
        let list = Definition::from_argument("(1,64,64,64)(64,64,64,1)", &none).unwrap();
        assert_eq!(chains(&list), ["(1,64,64,64)(64,64,64,1)"]);
        assert_eq!(list.cases[0].problem.batch, 256);
        let file = "# patterns\n1,2,3,4 # one\n\n(2,2,2,1)\n1,2,3,4\n";
        assert_eq!(chains(&Definition::from_lines(file, "p.txt", &none).unwrap()), ["(1,2,3,4)", "(2,2,2,1)"]);
    }

    #[test]
    fn overrides_multiply_out() {
        let sweep = Sweep {
            batch: vec![1, 8],
            dtype: vec![DType::F32.into(), DType::Bf16.into()],
            layout: Layout::ALL.to_vec(),
            cache: vec![Cache::Cold, Cache::Warm],
        };
        let list = Definition::from_argument("1,2,3,4", &sweep).unwrap();
        assert_eq!(list.cases.len(), 16);
        assert_eq!(Definition::quick(&sweep).unwrap().cases.len() % 16, 0);
    }

    #[test]
    fn mistakes_name_their_place_and_what_was_expected() {
        let none = Sweep::default();
        let message = |text: &str| Definition::from_argument(text, &none).unwrap_err().to_string();
        assert!(message("1,2,3").contains("four numbers a,b,c,d, found 3"));
        assert!(message("/no/such/file.txt").contains("cannot read the patterns"));
        let lines = Definition::from_lines("1,2,2,1\nmonarch:2,2\n", "list.txt", &none).unwrap_err().to_string();
        assert!(lines.contains("list.txt, line 2") && lines.contains("shape"), "{lines}");
        assert!(
            Definition::from_lines("# nothing\n", "list.txt", &none).unwrap_err().to_string().contains("no pattern")
        );
        let zero = Sweep { batch: vec![0], ..Sweep::default() };
        assert!(Definition::from_argument("1,2,3,4", &zero).unwrap_err().to_string().contains("batch 0"));
        let toml = "description = \"d\"\n[[case]]\nchain = \"monarch:5,2\"\nshape = [12, 12]\nwhy = \"w\"\n";
        let error = Definition::from_toml(toml, "x.toml", &none).unwrap_err().to_string();
        assert!(error.contains("case 1 (monarch:5,2)"), "{error}");
        let error = Definition::from_toml("description = \"d\"\ncases = []\n", "x.toml", &none).unwrap_err();
        assert!(error.to_string().contains("cases"), "{error}");
    }

    #[test]
    fn every_definition_in_the_repository_is_valid_and_says_why() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benchmarks");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "toml") {
                let definition = Definition::from_argument(path.to_str().unwrap(), &Sweep::default()).unwrap();
                assert!(!definition.description.is_empty());
                assert!(definition.cases.iter().all(|c| !c.why.is_empty()), "{}", path.display());
                seen += 1;
            }
        }
        assert!(seen >= 2, "found {seen} definitions");
    }
}
