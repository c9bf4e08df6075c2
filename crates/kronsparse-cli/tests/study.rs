//! `kronsparse study` from outside: interrupted and resumed, in shards and merged, and one sentence for what is refused.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::Random;
use kronsparse::cuda::libraries::{self, Library};

/// A study that takes a few seconds, most of which are the ceilings of this machine: 26 cells, two algorithms.
const TINY: [&str; 13] = [
    "study",
    "--grid",
    "quick",
    "--dtype",
    "f32",
    "--layout",
    "bsf",
    "--batch",
    "16",
    "--algorithms",
    "fused,permute-bmm",
    "--budget",
    "0",
];
const CELLS: usize = 26;

/// Whether NVRTC is there. Where it is not, one line past the test's captured output says that nothing was compiled; with
/// `KRONSPARSE_REQUIRE_NVRTC` set, as CI does, that is a failure.
fn nvrtc(test: &str) -> bool {
    let Err(why) = libraries::find(Library::Nvrtc) else { return true };
    assert!(std::env::var_os("KRONSPARSE_REQUIRE_NVRTC").is_none(), "KRONSPARSE_REQUIRE_NVRTC is set, but {why}");
    // Not `eprintln!`, which a passing test keeps to itself.
    let _ = writeln!(std::io::stderr(), "NOT RUN: the compilation in {test}: {why}");
    false
}

fn command(more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kronsparse"));
    command.args(TINY).args(["--threads", "1"]).args(more);
    command
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the command starts")
}

fn succeed(command: &mut Command) -> String {
    let output = run(command);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {error}");
    error
}

/// Runs and asserts a refusal in one line that holds the words.
fn refuse(command: &mut Command, words: &[&str]) {
    let output = run(command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{command:?}: {error}");
    let line = error.lines().last().unwrap_or_default();
    assert!(line.starts_with("error: ") && !error.contains("bug"), "{error}");
    for word in words {
        assert!(line.contains(word), "`{word}` is missing in: {line}");
    }
}

/// Case and algorithm of every whole line of `samples.csv`, with the time that was measured.
fn rows(folder: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(folder.join("samples.csv")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let mut found = BTreeMap::new();
    for line in whole.lines().skip(1) {
        // A chain is quoted for its commas; what follows has none up to the times.
        let (chain, rest) = line.strip_prefix('"').and_then(|l| l.split_once("\",")).expect("a quoted chain");
        let fields: Vec<&str> = rest.split(',').collect();
        let key = format!("{chain} {} {} {}: {}", fields[0], fields[1], fields[2], fields[5]);
        assert_eq!(found.insert(key.clone(), fields[7].to_string()), None, "{key} is there twice");
    }
    found
}

/// The first line of a file that begins so.
fn line_of(folder: &Path, file: &str, begin: &str) -> String {
    let text = std::fs::read_to_string(folder.join(file)).unwrap();
    text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("no {begin} in {text}")).to_string()
}

fn keys(folder: &Path) -> Vec<String> {
    rows(folder).into_keys().collect()
}

/// Copies the files of a study.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn killed_at_random_points_it_goes_on_and_shards_make_the_whole() {
    let mut random = Random::new();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let name = |path: &Path| path.to_str().unwrap().to_string();

    // Killed again and again, each time after a few more rows: the first run, and later ones that went on with what they found.
    let whole = at("whole");
    let (mut before, mut kills, mut dates) = (BTreeMap::new(), 0, BTreeSet::new());
    loop {
        let mut child = command(&["--out", &name(&whole)]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let wanted = before.len() + 1 + (random.next().abs() * 16.0) as usize;
        let begin = Instant::now();
        let done = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if rows(&whole).len() >= wanted {
                std::thread::sleep(Duration::from_secs_f64(random.next().abs() * 0.05));
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            assert!(begin.elapsed() < Duration::from_secs(120), "no progress: {} rows", rows(&whole).len());
            std::thread::sleep(Duration::from_millis(3));
        };
        let now = rows(&whole);
        for (key, time) in &before {
            assert_eq!(now.get(key), Some(time), "{key} was lost, or measured again");
        }
        before = now;
        match done {
            Some(status) => {
                assert!(status.success(), "{status}");
                break;
            }
            None => kills += 1,
        }
        dates.insert(line_of(&whole, "machine.toml", "date = "));
    }
    assert!(kills >= 2, "killed {kills} times only");
    // They are one record: begun once, with one seed.
    dates.insert(line_of(&whole, "machine.toml", "date = "));
    assert_eq!(dates.len(), 1, "{dates:?}");
    let seed = line_of(&whole, "machine.toml", "seed = ").replace("seed = ", ",");
    let text = std::fs::read_to_string(whole.join("samples.csv")).unwrap();
    assert!(text.lines().skip(1).all(|line| line.contains(&format!("{seed},"))), "a row of another seed than {seed}");
    assert_eq!(before.len(), 2 * CELLS);
    let page = std::fs::read_to_string(whole.join("study.html")).unwrap();
    assert_eq!(page.matches("<tr data-i=").count(), CELLS);

    // Nothing is left to do, and nothing is measured.
    let said = succeed(&mut command(&["--out", &name(&whole)]));
    assert!(said.contains("26 of 26 cells are there; 0 cells"), "{said}");
    assert_eq!(rows(&whole), before);

    // Looking changes nothing but the page, not even a line that another process is in the middle of.
    let running = at("running");
    copy(&whole, &running);
    let text = std::fs::read(running.join("samples.csv")).unwrap();
    let half = &text[..text.len() - 9];
    std::fs::write(running.join("samples.csv"), half).unwrap();
    let machine = std::fs::read(running.join("machine.toml")).unwrap();
    succeed(Command::new(env!("CARGO_BIN_EXE_kronsparse")).args(["study", "page"]).arg(&running));
    succeed(&mut command(&["--estimate", "--out", &name(&running)]));
    assert_eq!(std::fs::read(running.join("samples.csv")).unwrap(), half);
    assert_eq!(std::fs::read(running.join("machine.toml")).unwrap(), machine);
    let held = std::fs::File::create(running.join("study.lock")).unwrap();
    held.try_lock().unwrap();
    refuse(&mut command(&["--out", &name(&running)]), &["running: is being measured into by another process"]);
    drop(held);

    // Two shards, merged.
    let (one, two, merged) = (at("one"), at("two"), at("merged"));
    succeed(&mut command(&["--shard", "1/2", "--out", &name(&one)]));
    succeed(&mut command(&["--shard", "2/2", "--out", &name(&two)]));
    let merge = |out: &Path, shards: &[&Path]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kronsparse"));
        command.args(["study", "merge"]).arg(out).args(shards);
        command
    };
    succeed(&mut merge(&merged, &[&two, &one]));
    assert_eq!(keys(&merged), keys(&whole));
    let all: BTreeMap<String, String> = rows(&one).into_iter().chain(rows(&two)).collect();
    assert_eq!(rows(&merged), all);
    let page = std::fs::read_to_string(merged.join("study.html")).unwrap();
    assert_eq!(page.matches("<tr data-i=").count(), CELLS);
    // The same order as in one piece.
    let order = |folder: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(folder.join("samples.csv")).unwrap();
        text.lines().map(|line| line.split("\",").next().unwrap_or_default().to_string()).collect()
    };
    assert_eq!(order(&merged), order(&whole));

    // What must not be merged.
    let refused = at("refused");
    refuse(&mut merge(&refused, &[&one]), &["of 26 cells are in none of the shards 1/2"]);
    refuse(&mut merge(&refused, &[&one, &one]), &["was measured in", "already: shards must not overlap"]);
    refuse(&mut merge(&one, &[&one, &two]), &["one: holds a shard"]);
    let bench = at("bench");
    std::fs::create_dir(&bench).unwrap();
    std::fs::write(bench.join("samples.csv"), "other measurements\n").unwrap();
    refuse(&mut merge(&bench, &[&one, &two]), &["bench: holds measurements that are no study's"]);
    assert_eq!(std::fs::read_to_string(bench.join("samples.csv")).unwrap(), "other measurements\n");
    refuse(&mut merge(&refused, &[&one, &at("nothing")]), &["nothing: holds no study"]);
    assert!(!refused.exists(), "a refusal leaves nothing behind");
    let short = at("short");
    copy(&two, &short);
    let text = std::fs::read_to_string(short.join("samples.csv")).unwrap();
    std::fs::write(short.join("samples.csv"), &text[..text.len() * 2 / 3]).unwrap();
    refuse(&mut merge(&refused, &[&one, &short]), &["short: has", "cells of its shard 2/2: run it again"]);
    let foreign = at("foreign");
    copy(&two, &foreign);
    let text = std::fs::read_to_string(foreign.join("machine.toml")).unwrap();
    std::fs::write(foreign.join("machine.toml"), text.replacen("cpu = \"", "cpu = \"Another ", 1)).unwrap();
    refuse(&mut merge(&refused, &[&one, &foreign]), &["foreign: was measured on Another ", "--mixed"]);
    succeed(merge(&refused, &[&one, &foreign]).arg("--mixed"));
    refuse(
        &mut command(&["--shard", "2/2", "--out", &name(&foreign)]),
        &["was begun on Another ", "folder of its own"],
    );
    // A machine that was used differently is asked about too, and said on the page.
    let threads = at("threads");
    copy(&two, &threads);
    let text = std::fs::read_to_string(threads.join("study.toml")).unwrap();
    std::fs::write(threads.join("study.toml"), text.replacen("\nthreads = 1\n", "\nthreads = 2\n", 1)).unwrap();
    refuse(
        &mut merge(&at("new"), &[&one, &threads]),
        &["threads: was measured with 2 threads, ", "one with 1: ", "--mixed"],
    );
    assert!(!at("new").exists(), "a refusal leaves nothing behind");
    succeed(merge(&at("two threads"), &[&one, &threads]).arg("--mixed"));
    assert_eq!(rows(&at("two threads")), all);

    let other = at("other");
    copy(&two, &other);
    let text = std::fs::read_to_string(other.join("study.toml")).unwrap();
    std::fs::write(other.join("study.toml"), text.replacen("budget_s = 0.0", "budget_s = 0.5", 1)).unwrap();
    refuse(
        &mut merge(&at("new"), &[&one, &other]),
        &["other: is a shard of another study", "budget: 0 here, 0.5 there"],
    );

    // What must not be gone on with.
    refuse(&mut command(&["--shard", "1/3", "--out", &name(&one)]), &["holds another study", "1/3", "1/2"]);
    refuse(&mut command(&["--energy", "--out", &name(&at("new"))]), &["--energy: says something about a GPU only"]);
}

#[test]
fn a_full_disk_and_a_folder_that_cannot_be_made_are_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    refuse(&mut command(&["--out", file.join("below").to_str().unwrap()]), &["below: cannot create the folder"]);
    if cfg!(target_os = "linux") {
        // A file system that takes no folders, whoever asks.
        refuse(&mut command(&["--out", "/proc/study"]), &["/proc/study: cannot create the folder"]);
    }

    // A limit on the size of files, as a disk that is full: 8 KiB where a unit is 512 bytes, 16 where it is 1024.
    let out = folder.path().join("out");
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_kronsparse")]);
    limited.args(TINY).args(["--threads", "1", "--out"]).arg(&out);
    refuse(&mut limited, &["samples.csv: cannot append to"]);
    let there = rows(&out);
    assert!(!there.is_empty() && there.len() < 2 * CELLS, "{} rows", there.len());

    // With room again it goes on.
    succeed(&mut command(&["--out", out.to_str().unwrap()]));
    let now = rows(&out);
    assert_eq!(now.len(), 2 * CELLS);
    assert!(there.iter().all(|(key, time)| now.get(key) == Some(time)), "a row was measured again");
}

#[test]
fn the_time_is_announced_and_a_limit_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let said = succeed(&mut command(&["--estimate", "--out", out]));
    assert!(said.contains("26 cells, 52 measurements, about "), "{said}");
    assert!(!Path::new(out).exists(), "an estimate leaves nothing behind");
    // No cell is begun once the time is over, which it is before the ceilings are measured.
    let said = succeed(&mut command(&["--minutes", "0.001", "--out", out]));
    assert!(said.contains("at most 0 s") && said.contains("study.html"), "{said}");
    let page = std::fs::read_to_string(Path::new(out).join("study.html")).unwrap();
    assert!(page.contains("0 of 26 cells are measured"));
    refuse(&mut command(&["--minutes", "0", "--out", out]), &["--minutes: expected more than 0"]);
    refuse(&mut command(&["--shard", "3/2", "--out", out]), &["1 ≤ K ≤ N"]);
}

/// A table of whole models as `python/examples/end_to_end.py` writes it.
const MODELS: &str = "model,case,dtype,linear,mode,milliseconds,parameters,minimum_ms,maximum_ms,joules,device,driver,torch\n\
                      vit_s16,batch 128,f32,dense,eager,40.0,22,39,41,,A GPU,1,2.11\n\
                      vit_s16,batch 128,f32,kronsparse,eager,10.0,8,9,11,,A GPU,1,2.11\n";

#[test]
fn whole_models_are_shown_and_damaged_ones_refused_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let (out, models) = (folder.path().join("out"), folder.path().join("models.csv"));
    let run_with = |file: &Path| {
        command(&["--minutes", "0.001", "--models", file.to_str().unwrap(), "--out", out.to_str().unwrap()])
    };
    refuse(&mut run_with(&models), &["models.csv: cannot read"]);
    std::fs::write(&models, &MODELS[..MODELS.len() - 30]).unwrap();
    refuse(&mut run_with(&models), &["models.csv: is no table of python/examples/end_to_end.py: ", "line: 3"]);
    assert!(!out.exists(), "a refusal leaves nothing behind");
    std::fs::write(&models, MODELS).unwrap();
    succeed(&mut run_with(&models));
    let page = || std::fs::read_to_string(out.join("study.html")).unwrap();
    assert!(page().contains("75 % less") && page().contains("up to 22 % less"), "the models are not on the page");
    // They stay in the folder, and others take their place.
    let again = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kronsparse"));
        command.args(["study", "page"]).arg(&out).args(more);
        command
    };
    succeed(&mut again(&[]));
    assert!(page().contains("75 % less"));
    std::fs::write(&models, MODELS.replace("10.0", "50.0")).unwrap();
    succeed(&mut again(&["--models", models.to_str().unwrap()]));
    assert!(page().contains("25 % more") && !page().contains("75 % less"));
    std::fs::write(out.join("end_to_end.csv"), "no table\n").unwrap();
    refuse(&mut again(&[]), &["end_to_end.csv: is no table of python/examples/end_to_end.py"]);
}

#[test]
fn a_worker_compiles_cells_without_a_gpu() {
    // Without a compiler the rest is tested all the same.
    let compiles = nvrtc("a_worker_compiles_cells_without_a_gpu");
    let folder = tempfile::tempdir().unwrap();
    let mut worker = Command::new(env!("CARGO_BIN_EXE_kronsparse"))
        .args(["study", "--device", "cuda:0", "--grid", "quick", "--prepare-worker"])
        .env("KRONSPARSE_CACHE", folder.path().join("cache"))
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (worker.stdin.take().unwrap(), BufReader::new(worker.stdout.take().unwrap()));
    // Bytes per second, how much faster the cache is, seconds of a kernel; f64, products in it, f32, TF32, 16-bit types.
    let rates =
        [3.35e12f64, 2.1, 1.3e-6, 3e13, 6e13, 6e13, 4.9e14, 9.9e14].map(|rate| rate.to_bits().to_string()).join(" ");
    writeln!(input, "sm_90a 9 0 132 232448 52428800 {rates}").unwrap();
    let mut ask = |key: &str| {
        writeln!(input, "{key}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line.split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<usize>>()
    };
    // Our kernel, and permutations before and after in two orders, which may be alike where b is c.
    let first = ask("(1,64,64,64) f16 bsf n = 25088 cold");
    let all = first[0];
    assert!(first.len() == 3 && (2..=5).contains(&all), "{first:?}");
    let second = ask("(1,64,64,64) f16 bsf n = 25088 cold");
    // All are compiled, and known the second time.
    let expected = if compiles { [[all, all, 0], [all, 0, 0]] } else { [[all, 0, all]; 2] };
    assert_eq!([first, second], expected);
    drop(input);
    assert!(worker.wait().unwrap().success());
    assert!(!folder.path().join("study-out").exists(), "a worker writes no study");
}
