//! Kernels compiled before a measurement, by as many processes as there are cores: each of them is this command again, with
//! `--prepare-share`. On its standard input it is told the GPU in a line, so that it need not open it, and then what the command says; on its
//! standard output it answers with three numbers: kernels, those compiled now, those that do not compile.

use std::io::{ErrorKind, Read, Write};
use std::process::{Child, Command, Stdio};

use kronsparse_bench::gpu::prepare::{Compiled, Target};
use kronsparse_bench::{Error, Result};

/// What these processes are called in errors.
const WORKER: &str = "a process that compiles kernels";

/// A process that this one started: it does not outlive its owner, which may end in an error.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and need not be.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Started {
    fn new(mut command: Command, told: &str) -> Result<Started> {
        let fail = |action| move |source| Error::Io { path: WORKER.into(), action, source };
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(fail("start"))?;
        let mut started = Started(child);
        match started.0.stdin.take().map_or(Ok(()), |mut input| input.write_all(told.as_bytes())) {
            // One that has ended before says why itself.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(fail("write to")(error)),
            _ => Ok(started),
        }
    }

    /// Its answer, when it has ended.
    fn answer(mut self, name: &str) -> Result<Compiled> {
        let fail = |action| move |source| Error::Io { path: WORKER.into(), action, source };
        let mut text = String::new();
        if let Some(mut output) = self.0.stdout.take() {
            output.read_to_string(&mut text).map_err(fail("read from"))?;
        }
        let status = self.0.wait().map_err(fail("wait for"))?;
        match (status.success(), compiled(&text)) {
            (true, Some(compiled)) => Ok(compiled),
            _ => Err(Error::Definition { place: WORKER.into(), why: format!("{name} ended with {status}") }),
        }
    }
}

/// Runs this command again in as many processes as there are cores, each with a share of the kernels and with `told` on its standard
/// input, behind the GPU; what each of them did. Errors: one cannot be started, or fails; then none of them is left.
pub(crate) fn compile_everywhere(target: &Target, told: &str) -> Result<Vec<Compiled>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let program =
        std::env::current_exe().map_err(|source| Error::Io { path: "this program".into(), action: "find", source })?;
    let told = format!("{target}\n{told}");
    let start = |share: usize| {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1)).arg("--prepare-share").arg(format!("{share}/{cores}"));
        Started::new(command, &told)
    };
    let workers = (0..cores).map(start).collect::<Result<Vec<_>>>()?;
    workers
        .into_iter()
        .enumerate()
        .map(|(share, worker)| worker.answer(&format!("number {share} of {cores}")))
        .collect()
}

/// Says what the workers did.
pub(crate) fn report(shares: &[Compiled]) {
    // Every worker knows of all kernels.
    let all = shares.first().map_or(0, |share| share.all);
    let (fresh, failed): (usize, usize) = shares.iter().fold((0, 0), |sum, s| (sum.0 + s.fresh, sum.1 + s.failed));
    eprintln!("{all} kernels: {fresh} compiled now by {} processes, {failed} do not compile", shares.len());
}

/// The share of the kernels that a worker compiles, from `K/N`.
pub(crate) fn share(text: &str) -> Result<(usize, usize)> {
    let numbers = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    numbers.filter(|(k, n)| k < n).ok_or_else(|| Error::Definition {
        place: "--prepare-share".into(),
        why: format!("expected K/N with K < N, found {text}"),
    })
}

/// What a worker is told: the GPU, and the lines behind it.
pub(crate) fn told() -> Result<(Target, Vec<String>)> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|source| Error::Io { path: "standard input".into(), action: "read", source })?;
    let mut lines = text.lines();
    let target = lines.next().unwrap_or_default().parse()?;
    Ok((target, lines.map(String::from).collect()))
}

/// Tells the process that started this one what was compiled. Whoever does not listen any more is not told.
pub(crate) fn answer(Compiled { all, fresh, failed }: Compiled) -> Result<()> {
    crate::bench::print(&format!("{all} {fresh} {failed}"))
}

/// The answer of a worker.
pub(crate) fn compiled(line: &str) -> Option<Compiled> {
    let numbers = line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<usize>>>()?;
    match numbers[..] {
        [all, fresh, failed] => Some(Compiled { all, fresh, failed }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_three_numbers() {
        assert_eq!(compiled("4 3 1\n"), Some(Compiled { all: 4, fresh: 3, failed: 1 }));
        for wrong in ["", "\n", "4 3", "4 3 1 0", "4 3 x"] {
            assert_eq!(compiled(wrong), None, "{wrong}");
        }
        assert_eq!(share("1/3").ok(), Some((1, 3)));
        for wrong in ["", "3/3", "1", "x/3", "-1/3"] {
            assert!(share(wrong).unwrap_err().to_string().starts_with("--prepare-share: expected K/N"), "{wrong}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_worker_ends_with_its_owner_and_its_failure_is_a_sentence() {
        // It would sleep for a minute.
        let mut command = Command::new("sleep");
        command.arg("60");
        let started = Started::new(command, "").unwrap();
        let process = std::path::PathBuf::from(format!("/proc/{}", started.0.id()));
        assert!(process.exists());
        drop(started);
        assert!(!process.exists(), "it is gone, and no zombie");
        // More than a pipe holds, to one that does not read it.
        let failed = Started::new(Command::new("false"), &"x".repeat(1 << 20)).unwrap().answer("number 0 of 1");
        let why = failed.unwrap_err().to_string();
        assert!(why.contains("a process that compiles kernels: number 0 of 1 ended with exit status: 1"), "{why}");
        let echoed = Started::new(Command::new("cat"), "5 2 1").unwrap().answer("number 0 of 1").unwrap();
        assert_eq!(echoed, Compiled { all: 5, fresh: 2, failed: 1 });
        assert!(Started::new(Command::new("cat"), "5 2").unwrap().answer("this").is_err());
        let missing = Started::new(Command::new("/no/such/program"), "");
        assert!(
            missing.is_err_and(|error| error.to_string().contains("a process that compiles kernels: cannot start"))
        );
    }
}
