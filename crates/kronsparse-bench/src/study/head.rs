//! `study.toml`: what the study in a folder is, so that it is gone on with and merged with its own kind only.

use std::io::ErrorKind;
use std::path::Path;

use kronsparse::plan::{Algorithm, Layout};
use serde::{Deserialize, Serialize};

use super::cells::{Cells, Grid, Request};
use crate::record::write_whole;
use crate::{Error, Kind, Machine, Result};

/// The file's name.
const NAME: &str = "study.toml";

/// What a study is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Which patterns.
    #[serde(with = "crate::text")]
    pub grid: Grid,
    /// Element types that were asked for; empty for those of the device.
    #[serde(with = "crate::text::list")]
    pub dtypes: Vec<Kind>,
    /// Layouts that were asked for; empty for both.
    #[serde(with = "crate::text::list")]
    pub layouts: Vec<Layout>,
    /// Batch sizes of the grid that were asked for; empty for that of the device.
    pub batch: Vec<usize>,
    /// Cells of the whole study.
    pub cells: usize,
    /// [`super::Cells::digest`] of the whole study, in hexadecimal digits.
    pub digest: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Algorithms of the cells that are measured thoroughly.
    #[serde(with = "crate::text::list")]
    pub algorithms: Vec<Algorithm>,
    /// Algorithms of the other cells.
    #[serde(with = "crate::text::list")]
    pub algorithms_elsewhere: Vec<Algorithm>,
    /// Sampling time of an algorithm on a cell, in seconds.
    pub budget_s: f64,
    /// Seconds over which energy is measured, where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_s: Option<f64>,
    /// Threads; 1 on a GPU.
    pub threads: usize,
    /// Which part of the cells the folder is for: `K/N`.
    pub shard: String,
    /// Cells of that part.
    pub shard_cells: usize,
    /// Where the shards of a merged study were measured; empty for a study of one piece.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<String>,
}

impl Head {
    /// The head of the study in a folder, if there is one.
    pub fn read(folder: &Path) -> Result<Option<Head>> {
        let path = folder.join(NAME);
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text)
                .map(Some)
                .map_err(|e| Error::Record { path, why: format!("is no description of a study: {}", e.message()) }),
            // Nor where a part of the path is a file: whoever makes the folder says so.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(Error::io(&path, "read")(error)),
        }
    }

    /// Writes it into the folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let body = toml::to_string(self).expect("plain numbers and texts are TOML");
        write_whole(&folder.join(NAME), &format!("# What the study in this folder measures.\n{body}"))
    }

    /// All cells of the study, as they were when it was measured. Errors: this version has others.
    pub fn whole(&self, folder: &Path) -> Result<Cells> {
        let Head { grid, dtypes, layouts, batch, .. } = self;
        let (kinds, layouts, batch) = (dtypes.clone(), layouts.clone(), batch.clone());
        let cells = Cells::new(&Request { grid: *grid, gpu: self.device == "cuda", kinds, layouts, batch })?;
        let digest = format!("{:016x}", cells.digest());
        if digest == self.digest {
            return Ok(cells);
        }
        let why =
            format!("was measured by another version, whose cells are not these: {} there, {digest} here", self.digest);
        Err(Error::Record { path: folder.to_path_buf(), why })
    }

    /// The algorithms of a cell, by whether it is measured thoroughly.
    pub fn algorithms(&self, thorough: bool) -> &[Algorithm] {
        if thorough { &self.algorithms } else { &self.algorithms_elsewhere }
    }

    /// What differs between two heads beside shard and machines, in words; `None` if they are of one study.
    pub fn difference(&self, other: &Head) -> Option<String> {
        let list = |algorithms: &[Algorithm]| algorithms.iter().map(|a| a.name()).collect::<Vec<_>>().join(", ");
        let energy = |head: &Head| head.energy_s.map_or("no energy".to_string(), |s| format!("energy over {s} s"));
        let pairs = [
            ("device", self.device.clone(), other.device.clone()),
            ("grid", self.grid.to_string(), other.grid.to_string()),
            ("number of cells", self.cells.to_string(), other.cells.to_string()),
            ("cells", self.digest.clone(), other.digest.clone()),
            ("algorithms", list(&self.algorithms), list(&other.algorithms)),
            ("algorithms elsewhere", list(&self.algorithms_elsewhere), list(&other.algorithms_elsewhere)),
            ("budget", self.budget_s.to_string(), other.budget_s.to_string()),
            ("energy", energy(self), energy(other)),
        ];
        let found = pairs.into_iter().find(|(_, a, b)| a != b);
        found.map(|(what, a, b)| format!("{what}: {a} here, {b} there"))
    }
}

/// What was measured, by name: the GPU, or the CPU with its cores.
pub(super) fn device_name(machine: &Machine) -> String {
    match &machine.gpu {
        Some(gpu) => format!("{}, driver {}", gpu.name, gpu.driver),
        None => format!("{} with {} cores", machine.cpu, machine.cores),
    }
}
