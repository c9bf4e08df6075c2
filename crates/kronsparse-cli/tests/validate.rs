//! `kronsparse validate` from outside, on the CPU: measured, gone on with, evaluated; and one sentence for what is refused.

mod common;

use std::io::Write;
use std::process::{Command, Stdio};

use common::Sandbox;

const SMALL: [&str; 8] = ["validate", "--problems", "3", "--largest", "256", "--seed", "5", "--out"];

fn of<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SMALL[..], more].concat()
}

#[test]
fn a_few_problems_are_measured_and_gone_on_with() {
    let sandbox = Sandbox::new();
    let run = |args: &[&str]| {
        let run = sandbox.run(args);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        run.stdout
    };
    let text = run(&of(&["out"]));
    for part in [
        "3 problems",
        "untuned within 10 % of the best",
        "of 3 ",
        "bar 90 %",
        "tuned within 3 % of the best",
        "predicted within ±25 %",
        "chain or dense right",
        "caches cold, seed 5",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    let path = sandbox.path("out/validate.csv");
    let whole = std::fs::read_to_string(&path).unwrap();
    let first = whole.lines().nth(1).unwrap();
    for (line, columns) in whole.lines().map(|line| (line, line.split(',').count())) {
        assert!(columns >= 18, "{line}");
    }
    assert!(first.starts_with("0,") && whole.contains(",fused,") && whole.contains(",dense,"), "{whole}");
    // Whether dense is faster is asked of every problem.
    assert!(
        !text.contains("no verdict")
            && text.lines().any(|line| line.starts_with("chain or dense right") && line.contains("of 3 ")),
        "{text}"
    );
    // All is there: nothing is measured again, and the same is printed.
    assert_eq!(run(&of(&["out"])), text);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    // The last problem is cut off: it is measured anew, and only that.
    let kept = whole.rfind("\n2,").unwrap();
    std::fs::write(&path, &whole[..kept + 5]).unwrap();
    run(&of(&["out"]));
    let again = std::fs::read_to_string(&path).unwrap();
    let of_last = |text: &str| text.lines().filter(|line| line.starts_with("2,")).count();
    assert!(again.starts_with(&whole[..whole.find("\n2,").unwrap()]), "{again}");
    assert!(of_last(&again) >= of_last(&whole), "{again}");
    assert!(run(&of(&["out"])).contains("3 problems"));
}

#[test]
fn warm_caches_are_not_judged_by_predictions_of_cold_ones() {
    let run =
        Sandbox::new().run(&["validate", "--problems", "1", "--largest", "64", "--cache", "warm", "--out", "out"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    for part in ["caches warm", "those of 1 problems with warm ones do not count"] {
        assert!(run.stdout.contains(part), "`{part}` is missing in:\n{}", run.stdout);
    }
    let line = |begin: &str| run.stdout.lines().find(|line| line.starts_with(begin)).unwrap().to_owned();
    assert!(line("untuned within 10 %").contains("of 1 ") && line("predicted").contains("nothing was counted"));
}

/// Runs a process that compiles for a measurement, told this on its standard input; what it answers, or its error.
fn worker(told: &str, output: Stdio) -> (Option<i32>, String, String) {
    let sandbox = Sandbox::new();
    let mut worker = Command::new(env!("CARGO_BIN_EXE_kronsparse"))
        .args(["validate", "--device", "cuda:0", "--prepare-share", "0/1"])
        .env("KRONSPARSE_CACHE", sandbox.path("cache"))
        .current_dir(sandbox.path("."))
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    worker.stdin.take().unwrap().write_all(told.as_bytes()).unwrap();
    let output = worker.wait_with_output().unwrap();
    assert!(sandbox.files().is_empty(), "a worker writes nothing but kernels");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_compiles_needs_no_gpu_and_nobody_who_listens() {
    let rates: Vec<String> =
        [3.35e12f64, 2.1, 1.3e-6, 3e13, 6e13, 6e13, 4.9e14, 9.9e14].map(|rate| rate.to_bits().to_string()).into();
    let target = format!("sm_90a 9 0 132 232448 52428800 {}\n", rates.join(" "));
    // No problem, no kernel.
    assert_eq!(worker(&target, Stdio::piped()), (Some(0), "0 0 0\n".into(), String::new()));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(worker(&target, writer.into()), (Some(0), String::new(), String::new()));
    for (told, why) in
        [("", "thirteen numbers"), ("cuda:0\n", "thirteen numbers"), (&format!("{target}x\n"), "found x")]
    {
        let (code, answer, error) = worker(told, Stdio::piped());
        assert!(code == Some(2) && answer.is_empty() && error.contains(why), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.refuse(&of(&["out", "--kernels", "3"]), &["--kernels", "GPU"]);
    sandbox.refuse(&of(&["out", "--seconds", "0"]), &["--seconds", "more than 0"]);
    sandbox.refuse(&["validate", "--problems", "0"], &["--problems", "found 0"]);
    sandbox.refuse(&["validate", "--largest", "3"], &["--largest", "64", "found 3"]);
    assert_eq!(sandbox.run(&of(&["out", "--seconds", "1e-9"])).code, 0);
    // Another seed is another run.
    let run = sandbox.run(&of(&["out"]));
    assert_eq!(run.code, 0, "{}", run.stderr);
    let refused = sandbox.run(&["validate", "--problems", "3", "--largest", "256", "--seed", "6", "--out", "out"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("another run: problem 0 is"), "{}", refused.stderr);
}
