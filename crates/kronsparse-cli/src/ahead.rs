//! Kernels of a study compiled ahead of the measurement, by processes that open no GPU: the compiler works on one kernel at a time in
//! each process, and the GPU must not wait for it.
//!
//! A worker is this command with `--prepare-worker`. On its standard input it is told the GPU in a line, and then a cell in each; on its
//! standard output it answers each with three numbers: kernels, those compiled now, those that do not compile.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use kronsparse_bench::gpu::prepare::{Compiled, Target};
use kronsparse_bench::study::{Ahead, Cell, Plan};
use kronsparse_bench::{Error, Result};

use crate::shares;

/// Cores that are left to the measurement, and the most workers: a few are faster than a GPU measures.
const LEFT: usize = 2;
const MOST: usize = 8;

/// How many workers this machine gets.
pub(crate) fn processes() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores.saturating_sub(LEFT).clamp(1, MOST)
}

/// The workers of a measurement; they end when it is dropped, be it by an error.
#[derive(Default)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
    processes: Vec<Arc<Process>>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Cells by name, in the order of the measurement.
    keys: Vec<String>,
    /// The first that nobody has begun with.
    next: usize,
    done: Vec<bool>,
    /// Workers that still work.
    alive: usize,
    compiled: Compiled,
    /// Why a worker ended early.
    lost: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Ahead for Workers {
    fn begin(&mut self, cells: &[Cell], target: &Target) -> Result<()> {
        let keys: Vec<String> = cells.iter().map(Cell::key).collect();
        let count = processes().min(keys.len());
        let workers = (0..count).map(|_| Worker::start(target)).collect::<Result<Vec<_>>>()?;
        *self.shared.state() = State { done: vec![false; keys.len()], keys, alive: count, ..State::default() };
        workers.into_iter().try_for_each(|worker| self.employ(worker))
    }

    fn wait(&mut self, at: usize) {
        let mut state = self.shared.state();
        while state.alive > 0 && !state.done[at] {
            state = self.shared.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }
}

impl Workers {
    /// Gives a worker its work, in a thread that waits for its answers.
    fn employ(&mut self, worker: Worker) -> Result<()> {
        let (shared, process) = (self.shared.clone(), worker.process.clone());
        let name = format!("compiling {}", self.threads.len());
        let thread = std::thread::Builder::new().name(name).spawn(move || serve(worker, &shared));
        self.processes.push(process);
        self.threads.push(thread.map_err(|source| Error::Io { path: WORKER.into(), action: "start", source })?);
        Ok(())
    }

    /// What was compiled so far, in a sentence; and what went wrong.
    pub(crate) fn report(&self) -> Option<String> {
        let state = self.shared.state();
        let Compiled { all, fresh, failed } = state.compiled;
        let lost = state.lost.as_ref().map_or(String::new(), |why| format!("; a worker was lost: {why}"));
        (!state.keys.is_empty()).then(|| {
            format!(
                "{all} kernels: {fresh} compiled now by {} processes, {failed} do not compile{lost}",
                self.threads.len()
            )
        })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Nobody needs what is being compiled any more; a cache never has half of a kernel.
        {
            let mut state = self.shared.state();
            state.next = state.keys.len();
        }
        self.processes.iter().for_each(|process| process.kill());
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing to tell.
            let _ = thread.join();
        }
    }
}

/// Gives one worker cell after cell.
fn serve(mut worker: Worker, shared: &Shared) {
    loop {
        let (at, key) = {
            let mut state = shared.state();
            let at = state.next;
            let Some(key) = state.keys.get(at).cloned() else { break };
            state.next += 1;
            (at, key)
        };
        let answer = worker.ask(&key);
        let mut state = shared.state();
        // Also where the worker was lost: nobody else compiles for this cell, and the measurement need not wait.
        state.done[at] = true;
        match answer {
            Ok(Compiled { all, fresh, failed }) => {
                state.compiled.all += all;
                state.compiled.fresh += fresh;
                state.compiled.failed += failed;
            }
            Err(why) => {
                state.lost = Some(why);
                break;
            }
        }
        drop(state);
        shared.changed.notify_all();
    }
    shared.state().alive -= 1;
    shared.changed.notify_all();
}

/// What these processes are called in errors.
const WORKER: &str = "a process that compiles kernels";

/// The process of a worker, which may be ended from elsewhere.
struct Process(Mutex<Child>);

impl Process {
    fn child(&self) -> MutexGuard<'_, Child> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
    /// One that has ended cannot be killed, and need not be.
    fn kill(&self) {
        let _ = self.child().kill();
    }
}

/// A process that compiles.
struct Worker {
    process: Arc<Process>,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(target: &Target) -> Result<Worker> {
        let fail = |source| Error::Io { path: WORKER.into(), action: "start", source };
        let program = std::env::current_exe().map_err(fail)?;
        let spawn = |mut command: Command| {
            command.args(std::env::args_os().skip(1)).arg("--prepare-worker");
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
        };
        // Behind whatever is measured, where there is a command for that.
        let mut nice = Command::new("nice");
        nice.args(["-n", "10"]).arg(&program);
        let child = match spawn(nice) {
            Err(error) if error.kind() == ErrorKind::NotFound => spawn(Command::new(&program)),
            other => other,
        };
        let mut child = child.map_err(fail)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let process = Arc::new(Process(Mutex::new(child)));
        let mut worker = Worker { process, input, output: BufReader::new(output.expect("its output is a pipe")) };
        worker.tell(&target.to_string()).map_err(fail)?;
        Ok(worker)
    }

    fn tell(&mut self, line: &str) -> std::io::Result<()> {
        let input = self.input.as_mut().expect("its input is a pipe until the end");
        input.write_all(format!("{line}\n").as_bytes())?;
        input.flush()
    }

    fn ask(&mut self, key: &str) -> std::result::Result<Compiled, String> {
        let mut line = String::new();
        let read = self.tell(key).and_then(|()| self.output.read_line(&mut line));
        read.map_err(|error| error.to_string())?;
        shares::compiled(&line).ok_or_else(|| format!("expected three numbers for {key}, found `{}`", line.trim_end()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of its input is its end, and so is that of its owner.
        drop(self.input.take());
        self.process.kill();
        let _ = self.process.child().wait();
    }
}

/// The work of a worker, until its input ends.
pub(crate) fn work(plan: &Plan) -> Result<()> {
    let fail = |source| Error::Io { path: "standard input".into(), action: "read", source };
    let mut lines = std::io::stdin().lock().lines();
    let target: Target = lines.next().transpose().map_err(fail)?.unwrap_or_default().parse()?;
    let cells: HashMap<String, &Cell> = plan.cells.0.iter().map(|cell| (cell.key(), cell)).collect();
    for line in lines {
        let key = line.map_err(fail)?;
        let cell = cells.get(&key).ok_or_else(|| Error::Definition {
            place: WORKER.into(),
            why: format!("`{key}` is no cell of this study"),
        })?;
        shares::answer(plan.compile(cell, &target))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that runs something else.
    fn made_up(command: &str, argument: &[&str]) -> Worker {
        let mut child =
            Command::new(command).args(argument).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Worker { process: Arc::new(Process(Mutex::new(child))), input, output }
    }

    #[test]
    fn workers_end_with_the_measurement_whatever_they_do() {
        let mut workers = Workers::default();
        *workers.shared.state() = State { done: vec![false], keys: vec!["cell".into()], alive: 1, ..State::default() };
        // It reads nothing, answers nothing, and would do so for a minute.
        workers.employ(made_up("sleep", &["60"])).unwrap();
        let begin = std::time::Instant::now();
        drop(workers);
        assert!(begin.elapsed().as_secs() < 30, "{:?}", begin.elapsed());
    }

    #[test]
    fn nobody_waits_for_a_worker_that_is_lost() {
        let mut workers = Workers::default();
        let keys: Vec<String> = (0..3).map(|at| format!("cell {at}")).collect();
        *workers.shared.state() = State { done: vec![false; 3], keys, alive: 1, ..State::default() };
        // It answers with something else, and ends.
        workers.employ(made_up("cat", &[])).unwrap();
        (0..3).for_each(|at| workers.wait(at));
        let report = workers.report().unwrap();
        assert!(report.contains("a worker was lost: expected three numbers for cell 0, found `cell 0`"), "{report}");
        assert!(Workers::default().report().is_none());
    }
}
