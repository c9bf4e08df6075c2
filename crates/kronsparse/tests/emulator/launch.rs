//! Launches, the file that tells the program of them, and what came out. The reader is kernels/emulator/program.cpp.

use std::fs;
use std::process::Command;

use super::compile::{self, Files, Program};

/// An array in emulated device memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffer {
    /// Its bytes; for `y` what it holds before the launch.
    pub(crate) bytes: Vec<u8>,
    /// Distance of its first byte from a multiple of 256.
    pub(crate) offset: u64,
}

impl Buffer {
    pub(crate) fn new(bytes: impl Into<Vec<u8>>) -> Option<Buffer> {
        Some(Buffer { bytes: bytes.into(), offset: 0 })
    }
    /// `len` bytes that are NaN in every type.
    pub(crate) fn poisoned(len: usize) -> Option<Buffer> {
        Buffer::new(vec![0xFF; len])
    }
}

/// A tensor map: which of the buffers it is of (0 for `x`, 3 for `y`), and the numbers of a `CUtensorMap`.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    pub(crate) buffer: u64,
    pub(crate) element: u64,
    pub(crate) swizzle: u64,
    pub(crate) dims: [u64; 4],
    pub(crate) strides: [u64; 3],
    pub(crate) boxed: [u64; 4],
}

/// One launch of a kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    pub(crate) kernel: String,
    pub(crate) grid: u64,
    pub(crate) threads: u64,
    pub(crate) cluster: u64,
    pub(crate) shared_bytes: u64,
    pub(crate) n: u64,
    /// Whether kernels before it may not have ended when it begins.
    pub(crate) overlaps: bool,
    /// How long it may take.
    pub(crate) seconds: u64,
    pub(crate) x: Option<Buffer>,
    pub(crate) w: Option<Buffer>,
    pub(crate) bias: Option<Buffer>,
    pub(crate) y: Option<Buffer>,
    pub(crate) residual: Option<Buffer>,
    pub(crate) maps: Vec<Map>,
}

/// The bytes of `y` after the launch, or what went wrong.
pub(crate) type Outcome = Result<Vec<u8>, String>;

/// Runs all launches, each with asynchronous work as early and as late as possible: `[early, late]`.
pub(crate) fn run(program: &Program, launches: &[Launch]) -> Vec<[Outcome; 2]> {
    let all: Vec<(&Launch, bool)> = launches.iter().flat_map(|launch| [(launch, false), (launch, true)]).collect();
    let mut outcomes = Vec::new();
    // A launch that ends the program is followed by a new program for the rest.
    while outcomes.len() < all.len() {
        batch(program, &all[outcomes.len()..], &mut outcomes);
    }
    let mut pairs = outcomes.into_iter();
    launches.iter().map(|_| [pairs.next().expect("early"), pairs.next().expect("late")]).collect()
}

fn batch(program: &Program, launches: &[(&Launch, bool)], outcomes: &mut Vec<Outcome>) {
    let folder = compile::scratch(&Files::new());
    let (input, output) = (folder.join("launches"), folder.join("results"));
    let mut bytes = (launches.len() as u64).to_le_bytes().to_vec();
    launches.iter().for_each(|(launch, late)| encode(launch, *late, &mut bytes));
    fs::write(&input, bytes).unwrap_or_else(|e| panic!("{}: {e}", input.display()));
    let ran = Command::new(&program.path).arg(&input).arg(&output).output();
    let ran = ran.unwrap_or_else(|e| panic!("{}: {e}", program.path.display()));
    let results = fs::read(&output).unwrap_or_default();
    let _ = fs::remove_dir_all(&folder);
    let before = outcomes.len();
    let mut rest = results.as_slice();
    while let (Some(why), Some(y)) = (field(&mut rest), field(&mut rest)) {
        outcomes.push(if why.is_empty() { Ok(y.to_vec()) } else { Err(String::from_utf8_lossy(why).into_owned()) });
    }
    if outcomes.len() < before + launches.len() {
        outcomes.push(Err(format!(
            "the program ended with {}: {}",
            ran.status,
            String::from_utf8_lossy(&ran.stderr).trim()
        )));
    }
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (found, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(found)
}

fn encode(launch: &Launch, late: bool, out: &mut Vec<u8>) {
    let Launch { kernel, grid, threads, cluster, shared_bytes, n, overlaps, seconds, x, w, bias, y, residual, maps } =
        launch;
    let number = |out: &mut Vec<u8>, value: u64| out.extend(value.to_le_bytes());
    let text = |out: &mut Vec<u8>, bytes: &[u8]| {
        number(out, bytes.len() as u64);
        out.extend(bytes);
    };
    text(out, kernel.as_bytes());
    for value in [u64::from(late), *grid, *threads, *cluster, *shared_bytes, *n, u64::from(*overlaps), *seconds] {
        number(out, value);
    }
    for buffer in [x, w, bias, y, residual] {
        number(out, u64::from(buffer.is_some()));
        let none = Buffer::default();
        let Buffer { bytes, offset } = buffer.as_ref().unwrap_or(&none);
        number(out, *offset);
        text(out, bytes);
    }
    number(out, maps.len() as u64);
    for Map { buffer, element, swizzle, dims, strides, boxed } in maps {
        let all = [&[*buffer, *element, *swizzle], dims.as_slice(), strides, boxed].concat();
        all.into_iter().for_each(|value| number(out, value));
    }
}
