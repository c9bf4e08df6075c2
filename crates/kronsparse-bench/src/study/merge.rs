//! Shards of one study, measured on one machine or on several, put together.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::cells::{Shard, key_of};
use super::head::{Head, device_name};
use super::measure::{LOCK, order, read, write_page};
use super::plan::lacking;
use crate::journal::lock;
use crate::record::{Record, prepare_folder};
use crate::run::raise;
use crate::{Error, Result};

/// Merges the shards in `folders` into the folder `out`; machines and threads may differ only if `mixed`.
///
/// Errors: a folder that holds no study, another study than the first, another machine's, a cell that another shard has too, or cells that
/// are missing; each says which and what would be right. Nothing is written then.
pub fn merge(out: &Path, folders: &[PathBuf], mixed: bool) -> Result<(Record, Head)> {
    match Head::read(out)? {
        Some(head) if head.merged.is_empty() => {
            return Err(fail(out, "holds a shard, and the merged study needs a folder of its own".into()));
        }
        None if out.join("samples.csv").exists() => {
            return Err(fail(out, "holds measurements that are no study's: give another folder".into()));
        }
        _ => {}
    }
    let mut shards = Vec::new();
    for folder in folders {
        let head =
            Head::read(folder)?.ok_or_else(|| fail(folder, "holds no study: there is no study.toml in it".into()))?;
        if !folder.join("machine.toml").exists() {
            return Err(fail(folder, "nothing is measured yet in this shard: run it first".into()));
        }
        shards.push((folder, head, read(folder)?));
    }
    let Some((first, head, _)) = shards.first() else {
        return Err(Error::Definition {
            place: "study merge".into(),
            why: "expected at least one shard, found none".into(),
        });
    };
    let (first, mut head) = (first.to_path_buf(), head.clone());
    let cells = head.whole(&first)?;
    let mut machines: Vec<String> = Vec::new();
    for (folder, other, record) in &shards {
        if let Some(difference) = head.difference(other) {
            return Err(fail(folder, format!("is a shard of another study than {} ({difference})", first.display())));
        }
        let machine = device_name(&record.machine);
        if let (Some(known), false) = (machines.first().filter(|known| **known != machine), mixed) {
            let why = format!(
                "was measured on {machine}, {} on {known}: compare machines with care, and merge them with --mixed",
                first.display()
            );
            return Err(fail(folder, why));
        }
        if other.threads != head.threads && !mixed {
            let why = format!(
                "was measured with {} threads, {} with {}: compare them with care, and merge them with --mixed",
                other.threads,
                first.display(),
                head.threads
            );
            return Err(fail(folder, why));
        }
        if !machines.contains(&machine) {
            machines.push(machine);
        }
    }
    let mut owners: HashMap<String, usize> = HashMap::new();
    for (at, (folder, _, record)) in shards.iter().enumerate() {
        for row in &record.rows {
            let owner = *owners.entry(key_of(row)).or_insert(at);
            if owner != at {
                let why = format!(
                    "{} was measured in {} already: shards must not overlap",
                    key_of(row),
                    shards[owner].0.display()
                );
                return Err(fail(folder, why));
            }
        }
    }
    for (folder, shard, record) in &shards {
        let count = record.rows.chunk_by(|a, b| a.same_case(b)).count();
        if count < shard.shard_cells {
            let why = format!(
                "has {count} of the {} cells of its shard {}: run it again with the same flags and it goes on",
                shard.shard_cells, shard.shard
            );
            return Err(fail(folder, why));
        }
    }
    let mut shards = shards.into_iter();
    let (_, own, mut record) = shards.next().expect("there is a first shard");
    let mut numbers = vec![own.shard];
    for (_, own, other) in shards {
        numbers.push(own.shard);
        record.settings.duration_s += other.settings.duration_s;
        record.settings.date = record.settings.date.min(other.settings.date);
        raise(&mut record.ceilings, &other.ceilings);
        record.rows.extend(other.rows);
    }
    let open: Vec<String> = lacking(&cells, &head, &record.rows).map(|cell| cell.key()).collect();
    if let Some(example) = open.first() {
        let why = format!(
            "{} of {} cells are in none of the shards {}, such as {example}",
            open.len(),
            cells.0.len(),
            numbers.join(", ")
        );
        return Err(Error::Definition { place: "study merge".into(), why });
    }
    order(&mut record.rows, &cells);
    head.shard = Shard::default().to_string();
    head.shard_cells = cells.0.len();
    head.merged = machines;
    record.settings.definition = format!("study, {} grid", head.grid);
    prepare_folder(out)?;
    let _lock = lock(out, LOCK)?;
    head.write(out)?;
    record.write(out)?;
    write_page(&record, &head, out)?;
    Ok((record, head))
}

fn fail(folder: &Path, why: String) -> Error {
    Error::Record { path: folder.to_path_buf(), why }
}
