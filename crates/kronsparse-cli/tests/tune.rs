//! `kronsparse tune` from outside: results that are kept, found, used, and never lost or measured twice.

mod common;

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Random, Run, Sandbox, Tensor, pattern};
use kronsparse::cpu::Isa;
use kronsparse::plan::Algorithm;
use kronsparse::plan::gpu::{ChainProblem, Cut};
use kronsparse::tune::{Machine, Measured, Record, Step, Store};
use kronsparse::{Activation, DType, Layout};
use safetensors::Dtype;

/// Little sampling, and no sweeps over the caches.
const QUICK: [&str; 4] = ["--seconds", "0", "--cache", "warm"];

fn command(sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kronsparse"));
    command.args(args).current_dir(sandbox.path("")).env("KRONSPARSE_CACHE", sandbox.path("cache"));
    command.env_remove("KRONSPARSE_TUNING").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(mut command: Command) -> Run {
    Run::new(command.output().expect("the command starts"))
}

fn records(path: &Path) -> Vec<Record> {
    Store::read(path).unwrap_or_else(|error| panic!("{error}")).records().to_vec()
}

#[test]
fn what_was_measured_is_shown_and_not_measured_again() {
    let sandbox = Sandbox::new();
    let chain = ["tune", "(1,8,8,8)(8,8,8,1)", "--batch", "1,16", "--dtype", "f32,bf16", "--store", "new/t.txt"];
    let with = |flags: &[&'static str]| [&chain[..], &QUICK, flags].concat();
    let args = with(&["--threads", "2"]);
    let text = sandbox.succeed(&args);
    assert!(text.lines().next().unwrap().starts_with("problem "), "{text}");
    for part in [
        "(1,8,8,8)(8,8,8,1) f32 bsf n = 1 ",
        " bf16 bsf n = 16 ",
        " fused ",
        "×",
        "4 measured now, 0 known before",
        "2 threads",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    let before = std::fs::read(sandbox.path("new/t.txt")).unwrap();
    assert_eq!(records(&sandbox.path("new/t.txt")).len(), 4);
    let text = sandbox.succeed(&args);
    assert!(text.contains("0 measured now, 4 known before"), "{text}");
    assert_eq!(std::fs::read(sandbox.path("new/t.txt")).unwrap(), before);
    // Another number of threads is another machine.
    assert!(sandbox.succeed(&with(&["--threads", "1"])).contains("4 measured now"));
    let again = sandbox.json(&[&args[..], &["--again"]].concat());
    let results = again["results"].as_array().unwrap();
    assert!(results.len() == 4 && results.iter().all(|result| result["measured_now"] == true), "{again}");
    for result in results {
        let seconds = |way: &str| result["record"][way]["seconds"].as_f64().unwrap();
        assert!(seconds("best") <= seconds("untuned") && seconds("best") > 0.0, "{result}");
        let measured = result["record"]["measured"].as_array().unwrap();
        assert!(measured.len() == 7 && measured.iter().all(|way| way["samples"].as_u64().unwrap() > 0), "{result}");
    }
    assert_eq!(records(&sandbox.path("new/t.txt")).len(), 12);
}

#[test]
fn lists_and_models_are_tuned_layer_by_layer() {
    let sandbox = Sandbox::new();
    let mut random = Random::new();
    let list =
        ["tune", "--patterns", "2,4,4,2; (1,4,4,4)(4,4,4,1)", "-n", "3", "--dtype", "f64,c64", "--layout", "bsf,bsl"];
    let flags = ["--bias", "--store", "t.txt"];
    assert!(sandbox.succeed(&[&list[..], &QUICK, &flags].concat()).contains("8 measured now"));
    assert!(records(&sandbox.path("t.txt")).iter().all(|record| record.problem.bias));

    sandbox.write_chain("one.safetensors", &random.chain::<f32>("(1,4,4,4)(4,4,4,1)"), None);
    let chain = random.chain::<f32>("(1,6,4,2)(2,4,3,1)");
    let mut tensors = Vec::new();
    for (name, with_bias) in [("a", false), ("b", true), ("c", false)] {
        for (at, factor) in chain.factors().iter().enumerate() {
            let name = format!("layers.{name}.factors.{at}");
            tensors.push(Tensor::new(&name, Dtype::F32, &factor.pattern().shape(), factor.weights()));
        }
        if with_bias {
            tensors.push(Tensor::new(&format!("layers.{name}.bias"), Dtype::F32, &[12], &random.numbers::<f32>(12)));
        }
    }
    tensors.push(Tensor::new("other", Dtype::F32, &[3, 5], &random.numbers::<f32>(15)));
    sandbox.write_model("model.safetensors", &tensors, &[]);
    let of = |file: &str| sandbox.succeed(&[&["tune", file, "-n", "2", "--store", "m.txt"], &QUICK[..]].concat());
    // Two of the three layers are the same problem.
    assert!(of("model.safetensors").contains("2 measured now, 0 known"));
    assert!(of("model.safetensors::layers.c").contains("0 measured now, 1 known"));
    assert!(of("one.safetensors").contains("1 measured now"));
    let found = records(&sandbox.path("m.txt"));
    assert!(found.iter().all(|record| record.problem.dtype == DType::F32));
    assert_eq!(found.iter().filter(|record| record.problem.bias).count(), 1);
}

#[test]
fn mistakes_are_one_sentence_and_leave_nothing_behind() {
    let sandbox = Sandbox::new();
    let chain = "(1,2,2,1)";
    for (args, words) in [
        (&[chain][..], &["--dtype"][..]),
        (&["monarch:2,2", "--dtype", "f32"], &["--shape ROWS,COLS"]),
        (&[chain, "--dtype", "tf32"], &["tf32", "only GPUs"]),
        (&[chain, "--dtype", "f32", "-n", "0"], &["0"]),
        (&["(1,3,3,1)", "--dtype", "f32", "--join", "gate"], &["3"]),
        (&[chain, "--dtype", "c64", "--device", "cuda:0"], &["complex chains run on the CPU"]),
        (&[chain, "--dtype", "f32", "--seconds=-1"], &["seconds"]),
        (&[chain, "--dtype", "f32", "--device", "cuda:0", "--threads", "2"], &["--threads 2", "CPU only"]),
        (&[chain, "--dtype", "f32", "--patterns", "1,2,2,1"], &["cannot be used with"]),
        (&["none.safetensors"], &["none.safetensors"]),
    ] {
        sandbox.refuse(&[&["tune", "--store", "t.txt"], args].concat(), words);
    }
    let mut random = Random::new();
    let dense = [Tensor::new("w", Dtype::F32, &[2, 2], &random.numbers::<f32>(4))];
    sandbox.write_model("dense.safetensors", &dense, &[]);
    sandbox.refuse(&["tune", "dense.safetensors"], &["no layer with factors", "kronsparse convert"]);
    // What does not work on one problem does not keep others from being tuned.
    let args =
        ["tune", "--patterns", "1,2,2,1", "--dtype", "f32,c64", "--activation", "relu", "-n", "2", "--store", "t.txt"];
    let run = sandbox.run(&[&args[..], &QUICK].concat());
    assert_eq!(run.code, 2);
    assert!(
        run.stderr.contains("1 of 2 problems could not be measured") && run.stderr.contains("c64"),
        "{}",
        run.stderr
    );
    assert!(run.stdout.contains("1 measured now"), "{}", run.stdout);
    assert_eq!(records(&sandbox.path("t.txt")).len(), 1);
}

#[test]
fn a_place_that_cannot_be_written_to_is_one_sentence() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("file"), b"not a store\n").unwrap();
    let tune = |store: &'static str, words: &[&str]| {
        let args = ["tune", "(1,2,2,1)", "--dtype", "f32", "--store", store];
        sandbox.refuse(&[&args[..], &QUICK].concat(), words);
    };
    tune("file/t.txt", &["file: cannot make the folder: "]);
    tune("file", &["no tuning store", "found `not a store`", "name another file"]);
    tune(".", &["no tuning store", "expected a regular file"]);
    if cfg!(target_os = "linux") {
        // A file system that takes no files, whoever asks.
        tune("/proc/t.txt", &["/proc/t.txt", "cannot"]);
    }
    let mut off = command(&sandbox, &["tune", "(1,2,2,1)", "--dtype", "f32"]);
    off.env("KRONSPARSE_TUNING", "off");
    let run = run(off);
    assert!(run.code == 2 && run.stderr.contains("name a file with --store"), "{}", run.stderr);
}

/// Many small problems, so that there is much to interrupt.
fn many(store: &str) -> Vec<&str> {
    let list = "2,4,4,2;4,4,4,1;1,4,4,4;(1,4,4,4)(4,4,4,1);(1,8,8,8)(8,8,8,1)";
    let args =
        ["tune", "--patterns", list, "-n", "1,2,3,5,8,13", "--dtype", "f32", "--layout", "bsf,bsl", "--store", store];
    [&args[..], &QUICK].concat()
}

const MANY: usize = 5 * 6 * 2;

/// Every problem is there, and none twice.
fn assert_complete(path: &Path) {
    let found = records(path);
    let problems: HashSet<ChainProblem> = found.iter().map(|record| record.problem.clone()).collect();
    assert_eq!((found.len(), problems.len()), (MANY, MANY));
}

/// Waits until the file holds so many lines, or the command has ended.
fn wait_for_lines(path: &Path, lines: usize, child: &mut Child) {
    let start = Instant::now();
    loop {
        let found = std::fs::read(path).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count();
        if found >= lines || child.try_wait().expect("a child").is_some() {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{found} of {lines} lines after a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn killed_at_random_points_it_goes_on_with_nothing_lost_and_nothing_measured_twice() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("t.txt");
    let mut random = Random::new();
    let (mut kept, mut killed) = (0, 0);
    for _ in 0..6 {
        let mut child = command(&sandbox, &many("t.txt")).spawn().expect("the command starts");
        let more = 1 + ((random.next() + 1.0) * 5.0) as usize;
        wait_for_lines(&path, 1 + kept + more, &mut child);
        std::thread::sleep(Duration::from_micros(((random.next() + 1.0) * 3000.0) as u64));
        // SIGKILL on Unix.
        child.kill().expect("it can be killed");
        killed += usize::from(!child.wait().expect("it ends").success());
        let found = records(&path).len();
        assert!(found >= kept, "{kept} results became {found}");
        kept = found;
    }
    assert!(killed > 1, "nothing was interrupted");
    // As if it had been killed in the middle of a line, which a test cannot time.
    let whole = std::fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
    std::fs::write(&path, &whole[..last + (whole.len() - last) / 2]).unwrap();
    let run = run(command(&sandbox, &many("t.txt")));
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("note: ") && run.stderr.contains("the last line is left out"), "{}", run.stderr);
    assert!(run.stdout.contains(&format!("{} known before", kept - 1)), "{}", run.stdout);
    assert_complete(&path);
}

#[test]
fn two_at_once_keep_the_results_of_both() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("t.txt");
    let other: Vec<&str> = many("t.txt").into_iter().map(|arg| if arg == "f32" { "f64" } else { arg }).collect();
    let children = [many("t.txt"), other].map(|args| command(&sandbox, &args).spawn().expect("the command starts"));
    for child in children {
        let run = Run::new(child.wait_with_output().expect("it ends"));
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    }
    let problems: HashSet<ChainProblem> = records(&path).into_iter().map(|record| record.problem).collect();
    assert_eq!((records(&path).len(), problems.len()), (2 * MANY, 2 * MANY));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_one_sentence_and_loses_nothing() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("t.txt");
    // The system writes a part of a record, and refuses the rest: no file may have more than 16 blocks of 512 bytes.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_kronsparse")]);
    limited.args(many("t.txt")).current_dir(sandbox.path("")).env("KRONSPARSE_TUNING", "off");
    let full = run(limited);
    assert_eq!((full.code, full.stdout.as_str()), (2, ""), "{}", full.stderr);
    assert!(
        full.stderr.starts_with("error: t.txt: cannot write: ") && full.stderr.lines().count() == 1,
        "{}",
        full.stderr
    );
    let store = Store::read(&path).unwrap();
    let kept = store.records().len();
    assert!(store.note().is_none() && kept > 0 && kept < MANY, "{kept} {:?}", store.note());
    let rest = run(command(&sandbox, &many("t.txt")));
    assert!(rest.stdout.contains(&format!("{kept} known before")), "{}{}", rest.stdout, rest.stderr);
    assert_complete(&path);
}

#[test]
fn other_commands_take_what_was_stored() {
    let sandbox = Sandbox::new();
    let mut random = Random::new();
    let chain = random.chain::<f32>("(1,4,4,4)(4,4,4,1)");
    sandbox.write_chain("w.safetensors", &chain, None);
    sandbox.write_npy("x.npy", &[6, 16], &random.numbers::<f32>(6 * 16));
    // A store that says `dense`, which nobody would pick here.
    let problem = ChainProblem::new(pattern("(1,4,4,4)(4,4,4,1)"), DType::F32, Layout::BatchFirst, 6);
    assert_eq!(problem.activation, Activation::None);
    let way = |algorithm, seconds| {
        let steps = vec![Step::algorithm(Cut { at: 0, count: 2 }, algorithm)];
        Measured { steps, seconds, samples: 5 }
    };
    let (usual, best) = (way(Algorithm::Fused, 2e-6), way(Algorithm::Dense, 1e-6));
    let machine = Machine::cpu(Isa::detect(), 2);
    let record = Record::new(machine, problem, "warm", usual.clone(), best.clone(), vec![usual, best]);
    for place in ["named.txt", "cache/tuning.txt"] {
        Store::open(&sandbox.path(place)).unwrap().append(record.clone()).unwrap();
    }
    let multiply = |tuning: Option<&str>, cache: &str| {
        let args = [
            "multiply",
            "--weights",
            "w.safetensors",
            "--input",
            "x.npy",
            "--output",
            "y.npy",
            "--threads",
            "2",
            "--json",
        ];
        let mut command = command(&sandbox, &args);
        command.env("KRONSPARSE_CACHE", sandbox.path(cache));
        if let Some(tuning) = tuning {
            command.env("KRONSPARSE_TUNING", tuning);
        }
        run(command)
    };
    let used = |run: Run| -> String {
        assert_eq!(run.code, 0, "{}", run.stderr);
        let said: serde_json::Value = serde_json::from_str(&run.stdout).expect("one JSON document");
        said["algorithm_used"].as_str().expect("a name").to_owned()
    };
    assert_eq!(used(multiply(Some("named.txt"), "elsewhere")), "dense");
    assert_eq!(used(multiply(None, "cache")), "dense");
    assert_eq!(used(multiply(Some("off"), "cache")), "fused");
    assert_eq!(used(multiply(None, "elsewhere")), "fused");
    // A damaged file at the usual place costs nothing; one that the user names is an error.
    for place in ["named.txt", "cache/tuning.txt"] {
        sandbox.flip(place, |length| length / 2);
    }
    assert_eq!(used(multiply(None, "cache")), "fused");
    for (name, word) in [("named.txt", "line 2 of the tuning store is damaged"), ("none.txt", "cannot open")] {
        let run = multiply(Some(name), "elsewhere");
        assert!(
            run.code == 2 && run.stderr.contains(word) && run.stderr.contains("KRONSPARSE_TUNING"),
            "{}",
            run.stderr
        );
    }
}
