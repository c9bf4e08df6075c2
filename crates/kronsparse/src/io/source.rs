//! Arrays by the names that people type: a file, and where it holds several arrays, `::` and the name of one.

use std::path::Path;

use super::{Array, Model, map, npy, npz, wrong};
use crate::Result;

/// Reads `x.npy`, `x.npz::name` or `x.safetensors::tensor`. A file with a single array needs no name.
///
/// The ending decides the format, in upper or lower case.
pub fn read_array(source: &str) -> Result<Array> {
    let (path, name) = split(source);
    match (ending(path), name) {
        (Some(Ending::Npy), None) => {
            let map = map::map(path)?;
            npy::read(&map[..], map.len() as u64, false).map_err(|why| wrong(path, why))
        }
        (Some(Ending::Npy), Some(name)) => {
            Err(wrong(path, format!("an npy file has one array without a name, expected no ::{name} after it")))
        }
        (Some(Ending::Npz), name) => npz::read(path, name),
        (Some(Ending::Safetensors), name) => {
            let model = Model::open(path)?;
            model.array(choose(path, "tensor", name, model.names())?)
        }
        (None, _) => Err(wrong(
            path,
            "expected a name that ends with .npy, .npz or .safetensors (and ::NAME for one array of several)",
        )),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Npy,
    Npz,
    Safetensors,
}

fn ending(path: &Path) -> Option<Ending> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "npy" => Some(Ending::Npy),
        "npz" => Some(Ending::Npz),
        "safetensors" => Some(Ending::Safetensors),
        _ => None,
    }
}

/// The file and the name after the first `::` that follows a known ending; names may hold `::` themselves.
fn split(source: &str) -> (&Path, Option<&str>) {
    for (at, _) in source.match_indices("::") {
        let path = Path::new(&source[..at]);
        if ending(path).is_some() {
            return (path, Some(&source[at + 2..]));
        }
    }
    (Path::new(source), None)
}

/// The array that is asked for, or the only one. `kind` is what the format calls it.
pub(super) fn choose<'a>(
    path: &Path,
    kind: &str,
    name: Option<&'a str>,
    names: impl ExactSizeIterator<Item = &'a str>,
) -> Result<&'a str> {
    let count = names.len();
    let mut names = names.peekable();
    if name.is_none() && count == 1 {
        return Ok(names.peek().copied().unwrap_or_default());
    }
    let mut some = Vec::new();
    for found in names {
        if name == Some(found) {
            return Ok(found);
        }
        if some.len() < 8 {
            some.push(format!("\"{found}\""));
        }
    }
    let more = if count > some.len() { ", …" } else { "" };
    let list = if count == 0 { "it has none".into() } else { format!("it has {count}: {}{more}", some.join(", ")) };
    Err(match name {
        Some(name) => wrong(path, format!("{kind} \"{name}\": not in the file; {list}")),
        None => wrong(path, format!("expected ::NAME after the file, as it does not have exactly one {kind}; {list}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_begins_after_the_file() {
        let split = |s| {
            let (path, name) = split(s);
            (path.to_str().unwrap(), name)
        };
        assert_eq!(split("a/x.npy"), ("a/x.npy", None));
        assert_eq!(split("a::b/x.npz::w"), ("a::b/x.npz", Some("w")));
        assert_eq!(split("x.SafeTensors::a::b.npz::c"), ("x.SafeTensors", Some("a::b.npz::c")));
        assert_eq!(split("x.txt::w"), ("x.txt::w", None));
        assert_eq!(split("x.npz::"), ("x.npz", Some("")));
    }
}
