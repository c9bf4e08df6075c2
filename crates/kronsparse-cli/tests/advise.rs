//! `kronsparse advise` from outside: shapes and models, text and JSON, measuring on the CPU, calibration files, bad input.

mod common;

use std::process::Command;

use common::{Random, Sandbox, Tensor};
use safetensors::Dtype;
use serde_json::Value;

const SHAPE: [&str; 7] = ["advise", "--in", "1024", "--out", "4096", "--dtype", "f16"];

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

#[test]
fn a_layer_is_advised_on_for_every_number_of_vectors() {
    let text = Sandbox::new().succeed(&[&SHAPE[..], &["--batch", "1,2048"]].concat());
    for part in [
        "1024 → 4096, 4,194,304 parameters, f16, bsf",
        "H100; the planner's estimates, with cuBLAS",
        "chains with 10 % to 50 % of the parameters",
        "largest rank in blocks",
        "low rank",
        "n = 1\n",
        "n = 2,048\n",
        "dense (cuBLAS)",
        "verdict\nFor 1 vector ",
        "\nFor 2048 vectors ",
        "\nFor all numbers of vectors together ",
        "predicted ",
        "A chain is another matrix than the dense one",
        "`kronsparse factorize`",
        "healing",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
    assert!(!text.contains("(measured"), "{text}");
}

#[test]
fn json_is_consistent() {
    let flags = ["--batch", "1,25088", "--budget", "0.05..0.3", "--objective", "time"];
    let said = Sandbox::new().json(&[&SHAPE[..], &flags].concat());
    assert_eq!((&said["rows"], &said["cols"], &said["dtype"]), (&4096.into(), &1024.into(), &"f16".into()));
    assert_eq!(said["budget"], serde_json::json!([0.05, 0.3]));
    let (dense, chains) = (&said["dense"], list(&said["chains"]));
    assert!(chains.len() > 3 && number(&said["chains_looked_at"]) > chains.len() as f64);
    for chain in chains {
        let (parameters, share) = (number(&chain["parameters"]), number(&chain["share"]));
        assert!((parameters / 4_194_304.0 - share).abs() < 1e-9 && (0.05..=0.3).contains(&share), "{chain}");
        for (cost, batch) in list(&chain["costs"]).iter().zip([1.0, 25088.0]) {
            assert_eq!(number(&cost["batch"]), batch);
            assert_eq!(number(&cost["flops"]), 2.0 * batch * parameters);
            assert_eq!(number(&cost["weight_bytes"]), 2.0 * parameters);
            assert!(cost["measured_seconds"].is_null());
            assert!(cost["predicted_joules"].is_number() != cost["joules_missing_because"].is_string(), "{cost}");
        }
        let factors = chain["chain"].as_str().unwrap().matches('(').count();
        assert_eq!(list(&chain["splits"]).len() + 1, factors, "{chain}");
    }
    for (at, verdict) in list(&said["verdicts"]).iter().enumerate() {
        let seconds = |way: &Value| number(&list(&way["costs"])[at]["predicted_seconds"]);
        let best = chains.iter().find(|chain| chain["chain"] == verdict["chain"]).expect("the best is listed");
        let gain = seconds(dense) / seconds(best);
        assert!((number(&verdict["gain"]) / gain - 1.0).abs() < 1e-9, "{verdict}");
        assert!(chains.iter().all(|chain| seconds(chain) >= seconds(best)));
        assert_eq!(verdict["stay_dense"], Value::Bool(gain < 1.05));
        assert_eq!(verdict["decided_by"], "estimate");
    }
    assert!(said["overall"]["batch"].is_null() && said["overall"]["sentence"].is_string());
}

#[test]
fn objectives_and_limits_are_obeyed() {
    let sandbox = Sandbox::new();
    let memory = sandbox.json(&[&SHAPE[..], &["-n", "1", "--objective", "memory", "--no-low-rank"]].concat());
    let held = |way: &Value| {
        let cost = &list(&way["costs"])[0];
        number(&cost["weight_bytes"]) + number(&cost["activation_bytes"])
    };
    let chains = list(&memory["chains"]);
    assert!(chains.iter().all(|chain| chain["family"] != "low rank"));
    let least = chains.iter().map(held).fold(f64::INFINITY, f64::min);
    let best = chains.iter().find(|chain| chain["chain"] == memory["overall"]["chain"]).unwrap();
    assert_eq!(held(best), least);
    let energy = sandbox.succeed(&[&SHAPE[..], &["-n", "25088", "--objective", "energy"]].concat());
    assert!(energy.contains("times the energy") && energy.contains(" mJ"), "{energy}");
    // Chains of less than 40 µs have no figure: neither verdict nor silence.
    let flags = ["--in", "4096", "--out", "4096", "--dtype", "f16", "-n", "2048,25088", "--objective", "energy"];
    let short = sandbox.json(&[&["advise", "--factors", "2"], &flags[..]].concat());
    let [unknown, known] = &list(&short["verdicts"])[..] else { panic!("{}", short["verdicts"]) };
    assert!(unknown["chain"].is_null() && unknown["gain"].is_null() && known["gain"].is_number());
    assert!(unknown["no_verdict_because"].as_str().unwrap().contains("40 µs and more"), "{unknown}");
    let two = sandbox.json(&[&SHAPE[..], &["--factors", "2", "--partial", "--budget", "0.25", "-n", "7"]].concat());
    let (mut single, mut double) = (0, 0);
    for chain in list(&two["chains"]) {
        match chain["chain"].as_str().unwrap().matches('(').count() {
            1 => single += 1,
            2 => double += 1,
            _ => panic!("{chain}"),
        }
    }
    assert!(single > 0 && double > 0);
}

#[test]
fn a_model_is_advised_on_layer_by_layer_and_summed_up() {
    let (sandbox, mut random) = (Sandbox::new(), Random::new());
    let mut weight = |name: &str, rows: usize, cols: usize| {
        Tensor::new(name, Dtype::F32, &[rows, cols], &random.numbers::<f32>(rows * cols))
    };
    let tensors = [
        weight("a.weight", 768, 512),
        weight("b.weight", 768, 512),
        weight("c.weight", 3, 2),
        weight("word_embeddings.weight", 64, 64),
        weight("lm_head.weight", 64, 64),
    ];
    sandbox.write_model("model.safetensors", &tensors, &[]);
    let args = ["advise", "model.safetensors", "--batch", "1,4096", "--exclude", "lm_head"];
    let said = sandbox.json(&args);
    let layers = list(&said["layers"]);
    let names: Vec<&str> = layers.iter().map(|layer| layer["tensor"].as_str().unwrap()).collect();
    assert_eq!(names, ["a.weight", "b.weight", "c.weight"]);
    assert_eq!(layers[0]["dtype"], "f32");
    assert_eq!(layers[0]["overall"], layers[1]["overall"]);
    assert!(layers[2]["no_chain_because"].as_str().unwrap().contains("stay dense or raise the budget"));
    assert_eq!(list(&said["skipped"]).len(), 2);
    assert_eq!(number(&said["parameters"]), 2.0 * 768.0 * 512.0 + 6.0);
    let chain = layers[0]["parameters"].as_f64().unwrap_or(768.0 * 512.0);
    assert_eq!(number(&said["parameters_advised"]), 2.0 * chain + 6.0);
    // The sum is that of the same layer asked for by itself, twice, and of the small one.
    let shape = ["advise", "--in", "512", "--out", "768", "--dtype", "f32", "--batch", "1,4096"];
    let alone = sandbox.json(&shape);
    for (at, total) in list(&said["totals"]).iter().enumerate() {
        let dense = number(&list(&alone["dense"]["costs"])[at]["predicted_seconds"]);
        let sum = number(&total["dense"]);
        assert!(sum > 2.0 * dense && sum < 2.0 * dense + 20e-6, "{sum} s, twice {dense} s and a small one");
        // A chain that gains on the whole may lose with one number of vectors: the sum says so.
        let chain = match &layers[0]["predicted"]["chain_seconds"] {
            Value::Null => dense,
            seconds => number(&list(seconds)[at]),
        };
        let expected = sum - 2.0 * dense + 2.0 * chain;
        assert!((number(&total["advised"]) / expected - 1.0).abs() < 1e-9, "{total}, expected {expected} s");
    }
    let text = sandbox.succeed(&args);
    for part in ["a.weight", "768 × 512", "stay dense: no chain fits", "all 3 layers", "n = 4,096: predicted "] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    assert_eq!(sandbox.json(&[&args[..], &["--dtype", "bf16"]].concat())["layers"][0]["dtype"], "bf16");
    sandbox.refuse(&["advise", "model.safetensors", "--measure"], &["cannot be used with"]);
    // What is wrong for any shape is no model whose layers stay dense.
    for (flags, words) in [
        (["--factors", "9"], "1 to 4 factors at most, found 9"),
        (["--factors", "0"], "found 0"),
        (["--factors", "1"], "dense matrix itself"),
        (["-n", "0"], "at least one vector"),
        (["-n", "18446744073709551615"], "address space"),
        (["-n", "1,4611686018427387904"], "address space"),
    ] {
        sandbox.refuse(&[&["advise", "model.safetensors"], &flags[..]].concat(), &[words]);
    }
    // Too many vectors for one layer only: it is named.
    sandbox.refuse(&["advise", "model.safetensors", "-n", "1000000000000000"], &["a.weight", "address space"]);
    sandbox.refuse(&["advise", "model.safetensors", "--include", "nothing"], &["no weight is selected"]);
    sandbox.refuse(&["advise", "missing.safetensors"], &["missing.safetensors"]);
    sandbox.refuse(&["advise", "model.safetensors", "--objective", "energy"], &["a.weight", "40 µs and more"]);
}

#[test]
fn the_cpu_is_calibrated_once_and_measured() {
    let sandbox = Sandbox::new();
    let shape = ["advise", "--in", "64", "--out", "96", "--dtype", "f32", "--batch", "1,40", "--device", "cpu"];
    let args = [&shape[..], &["--calibration", "ceilings.json"]].concat();
    let first = sandbox.json(&args);
    assert!(first["device"]["calibration"].as_str().unwrap().starts_with("measured now, kept in ceilings.json"));
    let again = sandbox.json(&args);
    assert_eq!(again["device"]["calibration"], "read from ceilings.json");
    assert_eq!(again["chains"], first["chains"], "the same ceilings give the same estimates");
    assert_eq!(again["device"]["flops_per_second_f32"], first["device"]["flops_per_second_f32"]);

    let measure = ["--measure", "--top", "1", "--seconds", "0.01"];
    let said = sandbox.json(&[&args[..], &measure].concat());
    assert_eq!(list(&said["notes"]).len(), 0, "{}", said["notes"]);
    for (at, verdict) in list(&said["verdicts"]).iter().enumerate() {
        assert_eq!(verdict["decided_by"], "measurement");
        let measured = |way: &Value| list(&way["costs"])[at]["measured_seconds"].as_f64();
        let timed: Vec<f64> = list(&said["chains"]).iter().filter_map(measured).collect();
        assert!((1..=2).contains(&timed.len()), "one chain for each of two numbers of vectors: {timed:?}");
        let best = timed.into_iter().fold(f64::INFINITY, f64::min);
        let gain = measured(&said["dense"]).unwrap() / best;
        assert!((number(&verdict["gain"]) / gain - 1.0).abs() < 1e-9, "{verdict}");
    }
    let text = sandbox.succeed(&[&args[..], &measure].concat());
    assert!(text.contains("predicted") && text.contains("measured  ") && text.contains("(measured "), "{text}");

    // Cut, changed and foreign files are refused, and left as they are.
    let good = std::fs::read(sandbox.path("ceilings.json")).unwrap();
    sandbox.truncate("ceilings.json", |length| length / 2);
    sandbox.refuse(&args, &["ceilings.json", "no calibration, or a damaged one"]);
    std::fs::write(sandbox.path("ceilings.json"), String::from_utf8(good).unwrap().replace("cpu\": \"", "cpu\": \"x"))
        .unwrap();
    sandbox.refuse(&args, &["ceilings.json", "checksum"]);
    std::fs::write(sandbox.path("ceilings.json"), [0xff; 70_000]).unwrap();
    sandbox.refuse(&args, &["at most 65536 bytes"]);
    sandbox.refuse(&[&shape[..], &["--calibration", "."]].concat(), &["expected a regular file"]);
    sandbox.refuse(&[&shape[..], &["--calibration", ".", "--recalibrate"]].concat(), &["cannot write"]);
    sandbox
        .refuse(&[&shape[..], &["--calibration", "ceilings.json/x.json", "--recalibrate"]].concat(), &["cannot write"]);
    sandbox.refuse(&[&args[..], &["--objective", "energy", "--recalibrate"]].concat(), &["no power of a CPU"]);
}

#[test]
fn a_damaged_calibration_in_the_cache_is_measured_again() {
    let sandbox = Sandbox::new();
    let run = || {
        let shape = ["advise", "--in", "64", "--out", "64", "--dtype", "f32", "-n", "9", "--device", "cpu", "--json"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_kronsparse"));
        let output = command.args(shape).env("KRONSPARSE_CACHE", sandbox.path("cache")).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["device"].clone()
    };
    assert!(run()["calibration"].as_str().unwrap().starts_with("measured now, kept in "));
    let device = run();
    assert!(
        device["calibration"].as_str().unwrap().starts_with("read from ") && device["calibration_remark"].is_null()
    );
    let files: Vec<_> = std::fs::read_dir(sandbox.path("cache")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    std::fs::write(&files[0], b"\x00garbage").unwrap();
    let device = run();
    assert!(device["calibration_remark"].as_str().unwrap().contains("it was measured again"), "{device}");
    assert!(run()["calibration"].as_str().unwrap().starts_with("read from "));
}

#[test]
fn bad_input_is_refused_in_one_sentence() {
    let sandbox = Sandbox::new();
    let refuse = |flags: &[&str], words: &[&str]| {
        sandbox.refuse(&[&["advise"], flags].concat(), words);
    };
    let shape = ["--in", "64", "--out", "64", "--dtype", "f16"];
    let with = |flags: &[&'static str]| [&shape[..], flags].concat();
    refuse(&[], &["required"]);
    refuse(&["--in", "64"], &["--out"]);
    refuse(&["--in", "64", "--out", "64"], &["--dtype"]);
    refuse(&["--out", "64"], &["--in"]);
    refuse(&["--in", "0", "--out", "64", "--dtype", "f16"], &["at least 1"]);
    refuse(&["--in", "18446744073709551615", "--out", "64", "--dtype", "f16"], &["address space"]);
    refuse(&["--in", "50261", "--out", "101", "--dtype", "f16", "--no-low-rank"], &["50261 has no divisors", "widen"]);
    refuse(&with(&["--batch", "0"]), &["at least one vector"]);
    refuse(&with(&["--batch", "1,18446744073709551615"]), &["address space"]);
    refuse(&with(&["--budget", "0.01"]), &["two factors", "rows + cols = 128"]);
    refuse(&with(&["--budget", "2"]), &["between 0 and 1"]);
    refuse(&with(&["--budget", "-0.5"]), &["between 0 and 1"]);
    refuse(&with(&["--budget", "much"]), &["expected a share"]);
    refuse(&with(&["--objective", "speed"]), &["expected time, energy or memory"]);
    refuse(&with(&["--objective", "energy", "-n", "1"]), &["40 µs and more"]);
    refuse(&with(&["--device", "gpu"]), &["expected h100, cuda, cuda:N or cpu"]);
    refuse(&with(&["--device", "cuda:77"]), &["GPU 77"]);
    refuse(&with(&["--measure"]), &["needs the device at hand"]);
    refuse(&with(&["--top", "2"]), &["--measure"]);
    refuse(&with(&["--measure", "--device", "cpu", "--top", "0"]), &["at least one chain"]);
    refuse(&with(&["--factors", "9"]), &["1 to 4 factors"]);
    refuse(&with(&["--calibration", "x.json"]), &["add --device cpu"]);
    refuse(&["--in", "64", "--out", "64", "--dtype", "c64"], &["advice for c64"]);
    refuse(&["--in", "64", "--out", "64", "--dtype", "f31"], &["expected one of f16"]);
    refuse(&[&["model.safetensors"], &shape[..]].concat(), &["cannot be used with"]);
}
