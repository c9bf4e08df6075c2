//! `kronsparse calibrate` from outside, on the CPU: measured, kept, shown, used; a damaged file is refused in a sentence.

mod common;

use std::process::Command;

use common::Sandbox;

/// Runs the command with a cache folder of its own: exit code, stdout and stderr.
fn run(sandbox: &Sandbox, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kronsparse"));
    let output =
        command.args(args).env("KRONSPARSE_CACHE", sandbox.path("cache")).output().expect("the command starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_cpu_is_measured_once_and_shown_again() {
    let sandbox = Sandbox::new();
    let (code, _, error) = run(&sandbox, &["calibrate", "--show"]);
    assert!(code == Some(2) && error.contains("there is no calibration of this machine"), "{error}");
    let (code, measured, error) = run(&sandbox, &["calibrate", "--json"]);
    assert_eq!((code, error.as_str()), (Some(0), ""), "{measured}");
    let measured: serde_json::Value = serde_json::from_str(&measured).unwrap();
    assert!(measured["figures"]["memory_bytes_per_second"].as_u64().unwrap() > 100_000_000, "{measured}");
    assert!(measured["origin"].as_str().unwrap().starts_with("measured now, kept in "), "{measured}");
    let (_, shown, _) = run(&sandbox, &["calibrate", "--show", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["figures"], measured["figures"]);
    for key in measured["figures"].as_object().unwrap().keys() {
        assert!(key.ends_with("_bytes_per_second") || key.ends_with("_flops_per_second"), "{key} has no unit");
    }
    let (_, text, _) = run(&sandbox, &["calibrate", "--show"]);
    for part in ["machine ", "products in f64 ", "read from ", "GB/s"] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    // What was kept is what `advise` takes.
    let advice = ["advise", "--in", "64", "--out", "64", "--batch", "8", "--dtype", "f32", "--device", "cpu"];
    let (code, advised, error) = run(&sandbox, &advice);
    assert!(code == Some(0) && advised.contains("read from "), "{advised}{error}");

    let files: Vec<_> = std::fs::read_dir(sandbox.path("cache")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    let figure = shown["figures"]["products_in_f32_flops_per_second"].to_string();
    let damaged = std::fs::read_to_string(file).unwrap().replace(&figure, "123456789123");
    std::fs::write(file, damaged).unwrap();
    let (code, _, error) = run(&sandbox, &["calibrate", "--show"]);
    assert!(code == Some(2) && error.contains("a damaged calibration: the checksum does not fit"), "{error}");
}

#[test]
fn what_cannot_be_kept_is_shown_and_is_an_error() {
    let sandbox = Sandbox::new();
    // A file where the folder should be.
    std::fs::write(sandbox.path("cache"), "x").unwrap();
    let (code, text, error) = run(&sandbox, &["calibrate"]);
    assert!(text.contains("memory by one thread") && text.contains("measured now, not kept: "), "{text}");
    assert!(code == Some(2) && error.starts_with("error: what was measured is not kept"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_gpu_that_is_not_there_is_said_to_be_missing() {
    if kronsparse::cuda::find().is_ok() {
        eprintln!("not run: this machine has a GPU");
        return;
    }
    Sandbox::new().refuse(&["calibrate", "--device", "cuda:0"], &["GPU 0"]);
}
