//! A multiplication server for `benchmarks/peers`: another process makes the inputs, asks for samples and checks outputs,
//! so that kronsparse is timed in the same run as its peers, sample by sample, without the cost of a binding.
//!
//! One request a line on standard input, one answer a line on standard output; words are separated by single spaces:
//!
//! | request | does | answer |
//! | --- | --- | --- |
//! | `prepare NAME CHAIN DTYPE LAYOUT N THREADS MODE ALGORITHM PAGES FOLDER` | reads the inputs, packs the weights | `ok ROWS COLS TOLERANCE` |
//! | `sample NAME K` | K multiplications into the same output | `seconds S` (all K together) |
//! | `verify NAME` | fills the output with NaN, multiplies, writes `FOLDER/NAME.y.bin` | `ok` |
//! | `drop NAME` | frees that problem | `ok` |
//! | `stop`, or end of input | ends | none |
//!
//! `CHAIN` is `(a,b,c,d)(a,b,c,d)…` left to right; `MODE` is `whole` (one operator for the chain) or `factors` (one
//! operator a factor, one after the other through memory); `ALGORITHM` and the rest are this library's names. `FOLDER` is
//! the rest of the line and holds `x.bin` and `w0.bin … w{L-1}.bin` in chain order: raw little-endian arrays in C order,
//! of the shapes that `Layout` and `Factor` say. `PAGES` is `huge` or `plain`: whether the arrays ask the kernel for huge
//! pages, as NumPy's do. `TOLERANCE` is `DType::tolerance` for the chain, `S` the wall-clock time of the multiplications
//! alone. A request that fails is answered with `error` and the reason, and the server goes on.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use half::{bf16, f16};
use kronsparse::cpu::{Operator, Options, Scratch};
use kronsparse::plan::Algorithm;
use kronsparse::scalar::Wide;
use kronsparse::{Chain, ChainPattern, ChainSpec, DType, Factor, Layout, Pattern, Scalar};
use memmap2::MmapMut;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut problems: HashMap<String, Box<dyn Problem>> = HashMap::new();
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let line = line?;
        if line.trim() == "stop" {
            break;
        }
        match answer(&line, &mut problems) {
            Ok(text) => writeln!(out, "{text}")?,
            Err(error) => writeln!(out, "error {}", error.to_string().replace('\n', " "))?,
        }
        out.flush()?;
    }
    Ok(())
}

fn answer(line: &str, problems: &mut HashMap<String, Box<dyn Problem>>) -> Result<String> {
    let (verb, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    let name = rest.split(' ').next().unwrap_or("").to_owned();
    let known = || format!("no problem `{name}` was prepared");
    match verb {
        "prepare" => {
            problems.remove(&name);
            let problem = Request::parse(rest)?.prepare()?;
            let (rows, cols) = problem.shape();
            let answer = format!("ok {rows} {cols} {:e}", problem.tolerance());
            problems.insert(name, problem);
            Ok(answer)
        }
        "sample" => {
            let times: u32 = rest.split(' ').nth(1).ok_or("sample needs NAME K")?.parse()?;
            let seconds = problems.get_mut(&name).ok_or_else(known)?.sample(times)?;
            Ok(format!("seconds {seconds:e}"))
        }
        "verify" => problems.get_mut(&name).ok_or_else(known)?.verify().map(|()| "ok".to_owned()),
        "drop" => problems.remove(&name).map(|_| "ok".to_owned()).ok_or_else(|| known().into()),
        other => Err(format!("`{other}`: expected prepare, sample, verify, drop or stop").into()),
    }
}

/// What a `prepare` line says.
struct Request {
    name: String,
    chain: ChainPattern,
    dtype: DType,
    layout: Layout,
    n: usize,
    threads: usize,
    whole: bool,
    algorithm: Algorithm,
    huge: bool,
    folder: PathBuf,
}

impl Request {
    fn parse(words: &str) -> Result<Request> {
        let found: Vec<&str> = words.splitn(10, ' ').collect();
        let [name, chain, dtype, layout, n, threads, mode, algorithm, pages, folder] = found[..] else {
            return Err(format!("prepare takes 10 words, found {}", found.len()).into());
        };
        let ChainSpec::Explicit(chain) = chain.parse()? else {
            return Err(format!("expected a chain (a,b,c,d)(a,b,c,d)…, found {chain}").into());
        };
        let one_of = |word: &str, yes: &str, no: &str| match word {
            _ if word == yes => Ok(true),
            _ if word == no => Ok(false),
            _ => Err(format!("expected {yes} or {no}, found {word}")),
        };
        Ok(Request {
            name: name.to_owned(),
            chain,
            dtype: dtype.parse()?,
            layout: layout.parse()?,
            n: n.parse()?,
            threads: threads.parse()?,
            whole: one_of(mode, "whole", "factors")?,
            algorithm: algorithm.parse()?,
            huge: one_of(pages, "huge", "plain")?,
            folder: folder.into(),
        })
    }

    fn prepare(self) -> Result<Box<dyn Problem>> {
        Ok(match self.dtype {
            DType::F16 => Box::new(Multiplication::<f16>::new(self)?),
            DType::Bf16 => Box::new(Multiplication::<bf16>::new(self)?),
            DType::F32 => Box::new(Multiplication::<f32>::new(self)?),
            DType::F64 => Box::new(Multiplication::<f64>::new(self)?),
            other => return Err(format!("expected a real dtype, found {other}").into()),
        })
    }
}

/// A prepared multiplication of any element type.
trait Problem {
    /// Rows and columns of the chain.
    fn shape(&self) -> (usize, usize);
    /// The largest relative error that [`DType::tolerance`] allows.
    fn tolerance(&self) -> f64;
    /// Seconds that `times` multiplications take together.
    fn sample(&mut self, times: u32) -> Result<f64>;
    /// Poisons the output, multiplies once and writes the output to its file.
    fn verify(&mut self) -> Result<()>;
}

/// Operators in the order of application, and the arrays between them: `arrays[0]` is `X`, the last one `Y`.
struct Multiplication<T: Scalar> {
    stages: Vec<Operator<T>>,
    arrays: Vec<Pages>,
    scratch: Scratch,
    n: usize,
    layout: Layout,
    tolerance: f64,
    output: PathBuf,
}

impl<T: Scalar> Multiplication<T> {
    fn new(request: Request) -> Result<Multiplication<T>> {
        let weights = |(at, &pattern): (usize, &Pattern)| -> Result<Factor<T>> {
            let mut weights = vec![T::ZERO; pattern.nnz()];
            read(&request.folder.join(format!("w{at}.bin")), bytemuck::cast_slice_mut(&mut weights))?;
            Ok(Factor::new(pattern, weights)?)
        };
        let factors = request.chain.patterns().iter().enumerate().map(weights).collect::<Result<Vec<_>>>()?;
        let chains: Vec<Chain<T>> = if request.whole {
            vec![Chain::new(factors)?]
        } else {
            factors.into_iter().rev().map(Chain::from).collect()
        };
        let options = Options { algorithm: request.algorithm, threads: request.threads, ..Options::default() };
        let stages =
            chains.iter().map(|chain| Operator::new(chain, options.clone())).collect::<kronsparse::Result<Vec<_>>>()?;
        let bytes = |features: usize| request.n * features * size_of::<T>();
        let mut input = Pages::new(bytes(stages[0].cols()), request.huge)?;
        read(&request.folder.join("x.bin"), input.bytes_mut())?;
        let mut arrays = vec![input];
        for stage in &stages {
            arrays.push(Pages::new(bytes(stage.rows()), request.huge)?);
        }
        let scratch = stages.iter().map(|stage| stage.apply_scratch(request.n, request.layout)).max().unwrap_or(0);
        Ok(Multiplication {
            stages,
            arrays,
            scratch: Scratch::new(scratch),
            n: request.n,
            layout: request.layout,
            tolerance: T::DTYPE.tolerance(request.chain.longest_sum(), request.chain.patterns().len()),
            output: request.folder.join(format!("{}.y.bin", request.name)),
        })
    }

    fn run(&mut self) -> Result<()> {
        for (at, stage) in self.stages.iter().enumerate() {
            let (before, after) = self.arrays.split_at_mut(at + 1);
            let x = bytemuck::cast_slice(before[at].bytes());
            let y = bytemuck::cast_slice_mut(after[0].bytes_mut());
            stage.apply_with(x, y, self.n, self.layout, &mut self.scratch)?;
        }
        Ok(())
    }
}

impl<T: Scalar> Problem for Multiplication<T> {
    fn shape(&self) -> (usize, usize) {
        (self.stages[self.stages.len() - 1].rows(), self.stages[0].cols())
    }

    fn tolerance(&self) -> f64 {
        self.tolerance
    }

    fn sample(&mut self, times: u32) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..times {
            self.run()?;
        }
        Ok(start.elapsed().as_secs_f64())
    }

    fn verify(&mut self) -> Result<()> {
        let poison = T::narrow(T::Wide::from_parts(f64::NAN, 0.0));
        for array in &mut self.arrays[1..] {
            bytemuck::cast_slice_mut::<u8, T>(array.bytes_mut()).fill(poison);
        }
        self.run()?;
        let y = self.arrays[self.arrays.len() - 1].bytes();
        std::fs::write(&self.output, y).map_err(|e| format!("cannot write {}: {e}", self.output.display()))?;
        Ok(())
    }
}

/// A zeroed array of whole pages; an empty one has no pages.
struct Pages(Option<MmapMut>);

impl Pages {
    fn new(bytes: usize, huge: bool) -> Result<Pages> {
        if bytes == 0 {
            return Ok(Pages(None));
        }
        let mut map = MmapMut::map_anon(bytes)?;
        #[cfg(target_os = "linux")]
        if huge {
            // A kernel without huge pages refuses the advice; plain pages work as well.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = huge;
        map.fill(0);
        Ok(Pages(Some(map)))
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or(&mut [])
    }
}

/// Fills `bytes` from a file that must have exactly that length.
fn read(path: &Path, bytes: &mut [u8]) -> Result<()> {
    let fail = |e: io::Error| format!("cannot read {}: {e}", path.display());
    let mut file = File::open(path).map_err(fail)?;
    let found = file.metadata().map_err(fail)?.len();
    if found != bytes.len() as u64 {
        return Err(format!("{}: expected {} bytes, found {found}", path.display(), bytes.len()).into());
    }
    file.read_exact(bytes).map_err(fail)?;
    Ok(())
}
