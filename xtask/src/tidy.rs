//! Rules about the repository's own files, each the test of a promise that ARCHITECTURE.md or the README makes.

use std::fmt;

use crate::repository::{self, File};
use crate::rust::{self, Token};

/// Files of code may not be longer.
const LONGEST: usize = 450;
/// The only places with unsafe code: SIMD kernels, the GPU engine, its tests and the example that times it in graphs (raw device
/// addresses), memory maps, the allocator that counts a fuzz target's memory, and PyTorch's tensors by address.
const UNSAFE: [&str; 12] = [
    "crates/kronsparse/src/cpu/",
    "crates/kronsparse/src/cuda/",
    "crates/kronsparse/tests/cuda/",
    "crates/kronsparse/examples/gated_mlp.rs",
    "crates/kronsparse/tests/cuda_vendor.rs",
    "crates/kronsparse/src/io/",
    "fuzz/src/memory.rs",
    "python/src/address.rs",
    "python/src/cuda.rs",
    "python/src/gated.rs",
    "python/src/learner.rs",
    "python/src/streams.rs",
];
/// The stages that know of no engine.
const PURE: [&str; 2] = ["crates/kronsparse/src/pattern/", "crates/kronsparse/src/plan/"];

/// A broken rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Checks every file; the error lists all findings.
pub(crate) fn run() -> Result<String, String> {
    let files = repository::files()?;
    let findings: Vec<String> = files.iter().flat_map(check).map(|finding| finding.to_string()).collect();
    match findings.len() {
        0 => Ok(format!("tidy: {} files", files.len())),
        count => Err(format!("{}\ntidy: {count} findings in {} files", findings.join("\n"), files.len())),
    }
}

/// All findings in one file.
pub(crate) fn check(file: &File) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut add = |line: usize, what: String| found.push(Finding { path: file.path.clone(), line, what });
    if !says_its_purpose(file) {
        add(1, "does not open with a comment that says what it is for".into());
    }
    let lines = file.text.lines().count();
    if is_code(file) && lines > LONGEST {
        add(LONGEST + 1, format!("{lines} lines: above {LONGEST} a file has probably two topics"));
    }
    // Lock files are written by cargo and name its registry.
    if !matches!(file.path.as_str(), "Cargo.lock" | "python/Cargo.lock") {
        for (at, line) in file.text.lines().enumerate() {
            textual(line).into_iter().for_each(|what| add(at + 1, what));
        }
    }
    if file.extension() == "rs" {
        match rust::tokens(&file.text) {
            Ok(tokens) => in_code(&file.path, &tokens).into_iter().for_each(|(line, what)| add(line, what)),
            Err(why) => add(1, format!("cannot be read as Rust: {why}")),
        }
    }
    found
}

fn is_code(file: &File) -> bool {
    matches!(file.extension(), "rs" | "py" | "pyi" | "sh" | "cu" | "cuh" | "h" | "cpp") || file.is_script()
}

/// Whether the first line, or the one after `#!`, is a comment of at least three words.
fn says_its_purpose(file: &File) -> bool {
    let openings: &[&str] = match file.extension() {
        "rs" => &["//", "/*", "#![doc = include_str!("],
        "py" | "pyi" => &["#", "\"\"\"", "r\"\"\""],
        "cu" | "cuh" | "h" | "cpp" => &["//", "/*"],
        "toml" | "sh" | "yml" | "yaml" => &["#"],
        _ if file.is_script() => &["#"],
        _ => return true,
    };
    let first = file.text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!/")).unwrap_or_default();
    let Some(opening) = openings.iter().find(|opening| first.starts_with(**opening)) else { return false };
    opening.ends_with('(') || first[opening.len()..].trim_matches(['!', '/', '*', ' ']).split_whitespace().count() >= 3
}

/// Rules about any text. The words are put together here, so that this file keeps its own rules.
fn textual(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for word in [["TO", "DO"], ["FIX", "ME"]].map(|parts| parts.concat()) {
        if line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word) {
            found.push(format!("{word} left: do it, or file it"));
        }
    }
    for host in [["crates", ".io"], ["pypi", ".org"], ["pythonhosted", ".org"], ["npmjs", ".com"], ["npmjs", ".org"]] {
        if line.contains(&host.concat()) {
            found.push(format!("names the registry {}: ordinary clients know theirs", host.concat()));
        }
    }
    for option in [["index", "-url"], ["sparse+", "http"], ["replace", "-with"]] {
        if line.contains(&option.concat()) {
            found
                .push(format!("sets where packages come from ({}): that is the machine's own affair", option.concat()));
        }
    }
    for folder in [["/wo", "rk/"], ["/ho", "me/"], ["/ro", "ot/"], ["/Us", "ers/"], ["C:\\", "Users"]] {
        let folder = folder.concat();
        let absolute = |at: usize| {
            // `$HOME/…`, `a/b/home/…` and addresses are relative to something.
            line[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && !"_-.})~>$".contains(c))
        };
        if line.match_indices(&folder).any(|(at, _)| absolute(at)) {
            found.push(format!("an absolute path of one machine, {folder}…"));
        }
    }
    if line.contains(&["```", "ignore"].concat()) {
        found.push("an example that is never compiled".into());
    }
    found
}

/// Rules about Rust code, with the line of each finding.
fn in_code(path: &str, tokens: &[Token]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    if !UNSAFE.iter().any(|folder| path.starts_with(folder)) {
        let lines = rust::find(tokens, &["unsafe"]);
        found.extend(lines.into_iter().map(|line| (line, format!("unsafe outside {}", UNSAFE.join(", ")))));
    }
    for engine in ["cpu", "cuda"] {
        let named = rust::find(tokens, &[engine]);
        if PURE.iter().any(|folder| path.starts_with(folder)) {
            found.extend(
                named.into_iter().map(|line| (line, format!("names `{engine}`: this stage knows of no engine"))),
            );
        } else if path == "crates/kronsparse/src/scalar.rs" {
            let allowed = rust::find(tokens, &["crate", ":", ":", "cpu", ":", ":", "Element"]).len();
            if named.len() > if engine == "cpu" { allowed } else { 0 } {
                found.push((named[0], format!("names `{engine}` beyond the sealed bound `crate::cpu::Element`")));
            }
        }
    }
    for mark in ["todo", "unimplemented", "dbg"] {
        let lines = rust::find(tokens, &[mark, "!"]);
        found.extend(lines.into_iter().map(|line| (line, format!("{mark}! left in the code"))));
    }
    for attribute in attributes(tokens).filter(|attribute| attribute.iter().any(|token| token.text == "ignore")) {
        found.push((attribute[0].line, "a test that is ignored is no test".into()));
    }
    found
}

/// The tokens inside each `#[…]` or `#![…]`.
fn attributes(tokens: &[Token]) -> impl Iterator<Item = &[Token]> {
    (0..tokens.len()).filter(|&at| tokens[at].text == "#").filter_map(|at| {
        let rest = &tokens[at + 1..];
        let rest = if rest.first()?.text == "!" { &rest[1..] } else { rest };
        if rest.first()?.text != "[" {
            return None;
        }
        let mut depth = 0;
        let end = rest.iter().position(|token| {
            depth += i32::from(token.text == "[") - i32::from(token.text == "]");
            depth == 0
        })?;
        Some(&rest[..end])
    })
}

#[cfg(test)]
mod tests;
