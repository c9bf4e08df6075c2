//! `kronsparse plan` from outside: what it says of known chains, the same as JSON, and bad input. No GPU is needed.

mod common;

use common::Sandbox;
use serde_json::Value;

const MONARCH: &str = "(1,64,64,64)(64,64,64,1)";

#[test]
fn a_monarch_chain_is_explained_for_every_number_of_vectors() {
    let text = Sandbox::new().succeed(&["plan", MONARCH, "--batch", "1,25088", "--dtype", "f16"]);
    for part in [
        "4096 → 4096, 2 factors, 524,288 parameters, 3.1 % of dense",
        "f16, bsf, no bias, activation none",
        "H100, compute capability 9.0, 132 SMs, 3350 GB/s",
        "n = 1: factor by factor",
        "1.02 MiB to move and 1.05 MFLOP, 318 ns at the roofline",
        "step 2: (1,64,64,64) by narrow: ",
        "n = 25,088: both factors in one kernel",
        "step 1: (1,64,64,64) after (64,64,64,1) by pair_wgmma: ",
        "hidden vectors stay on the chip",
        "bound by memory",
        "ceilings   published for compute capability 9.0; `kronsparse calibrate` measures them; second-level cache 2.10×",
        "no estimate: power was measured of calls of 40 µs and more",
        " mJ a call",
        "of a call with cold caches, 2.00 µs of it beside the steps",
        "the kernel is for up to 64 vectors, found 25088",
        "batch-first, strided products need d = 1, and d is 64",
        "dense of the whole chain: ",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
}

#[test]
fn a_butterfly_is_combined_where_that_is_asked_for() {
    let apart = ["plan", "butterfly:2,2,2,2,2,2,2,2,2,2", "--batch", "8192", "--dtype", "f32"];
    let text = Sandbox::new().succeed(&apart);
    assert!(text.contains("factor by factor: ") && !text.contains("once small neighbours"), "{text}");
    let text = Sandbox::new().succeed(&[&apart[..], &["--combine"]].concat());
    for part in
        ["10 factors, 20,480 parameters", "(1,32,32,32)(32,32,32,1): 2 factors once small neighbours", "step 2: "]
    {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    assert!(!text.contains("step 3: "), "{text}");
}

#[test]
fn hidden_vectors_in_f32_are_planned_as_a_chain_in_f32() {
    let args = ["plan", MONARCH, "--batch", "8192", "--dtype", "f16", "--hidden", "f32"];
    let text = Sandbox::new().succeed(&args);
    for part in ["hidden     f32: what follows is the chain in f32", "f16, bsf", "with the passes over X and Y: "] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    let seconds = |value: &Value, name: &str| value["plans"][0][name].as_f64();
    let wide = Sandbox::new().json(&args);
    let full = Sandbox::new().json(&["plan", MONARCH, "--batch", "8192", "--dtype", "f32"]);
    assert_eq!(seconds(&wide, "seconds"), seconds(&full, "seconds"));
    // 8192 · (4096 · 6 + 4096 · 6) bytes at 3350 GB/s take 120 µs.
    assert!((1.2e-4..1.6e-4).contains(&seconds(&wide, "seconds_of_passes").unwrap()), "{wide}");
    assert_eq!(seconds(&full, "seconds_of_passes"), None);
    let args = ["plan", MONARCH, "--batch", "1", "--dtype", "f16", "--hidden", "f64"];
    Sandbox::new().refuse(&args, &["expected one of rounded, f32"]);
}

#[test]
fn json_has_the_steps_the_ways_and_the_reasons() {
    let sandbox = Sandbox::new();
    let args = ["plan", MONARCH, "--batch", "25088,7", "--dtype", "bf16", "--bias", "--activation", "gelu"];
    let said = sandbox.json(&args);
    assert_eq!((&said["dtype"], &said["bias"], &said["activation"]), (&"bf16".into(), &true.into(), &"gelu".into()));
    let plans = said["plans"].as_array().expect("a list");
    assert_eq!(plans.iter().map(|plan| plan["batch"].clone()).collect::<Vec<_>>(), [25088, 7].map(Value::from));
    for plan in plans {
        let number = |value: &Value| value.as_f64().expect("a number");
        let steps = plan["steps"].as_array().expect("a list");
        let sum: f64 = steps.iter().map(|step| number(&step["seconds"])).sum();
        let all = sum + number(&plan["seconds_beside_steps"]);
        assert!((all / number(&plan["seconds"]) - 1.0).abs() < 1e-9, "{plan}");
        assert!(plan["joules"].is_number() != plan["joules_absent_because"].is_string(), "{plan}");
        assert!(number(&plan["roofline_seconds"]) < sum, "{plan}");
        let ways = plan["ways"].as_array().expect("a list");
        assert_eq!(ways.iter().filter(|way| way["taken"] == true).count(), steps.len(), "{plan}");
        // An estimate or a reason, never both and never neither: 4 families and 3 algorithms twice, 3 families for
        // both factors, dense of the chain.
        assert_eq!(ways.len(), 2 * 7 + 3 + 1);
        assert!(ways.iter().all(|way| way["seconds"].is_number() != way["refused_because"].is_string()), "{plan}");
    }
    assert_eq!(plans[0]["steps"][0]["way"], "pair_wgmma");
    let flops = 2.0 * 25088.0 * 524_288.0;
    assert_eq!((plans[0]["flops"].as_f64(), plans[0]["bytes"].as_f64()), (Some(flops), Some(412_090_368.0)));
}

#[test]
fn named_chains_other_layouts_and_types() {
    let sandbox = Sandbox::new();
    let monarch = ["plan", "monarch:32,32", "--shape", "1024,4096", "-n", "4096", "--dtype", "f32", "--layout", "bsl"];
    let said = sandbox.json(&monarch);
    assert_eq!((&said["rows"], &said["cols"], &said["layout"]), (&1024.into(), &4096.into(), &"bsl".into()));
    let text = sandbox.succeed(&["plan", "butterfly:4,4,4", "--batch", "9", "--dtype", "f64"]);
    assert!(text.contains("3 factors") && text.contains("the kernel does not multiply f64"), "{text}");
    assert!(sandbox.succeed(&["plan", "(3,5,7,11)", "-n", "9", "--dtype", "tf32"]).contains("TFLOP/s in tf32"));
}

#[test]
fn bad_input_is_refused_in_one_sentence() {
    let sandbox = Sandbox::new();
    let refuse = |chain: &str, others: &[&str], words: &[&str]| {
        sandbox.refuse(&[&["plan", chain], others].concat(), words);
    };
    let good = ["--batch", "64", "--dtype", "f16"];
    refuse("(1,2,3,4)(1,1,1,1)", &good, &["12 columns"]);
    refuse("nonsense", &good, &["nonsense", "expected monarch:p,q"]);
    refuse("monarch:4,4", &good, &["monarch:4,4", "--shape"]);
    refuse("monarch:4,5", &[&good[..], &["--shape", "16,16"]].concat(), &["does not divide"]);
    refuse(MONARCH, &["--batch", "64", "--dtype", "f31"], &["f31", "expected one of f16, bf16"]);
    refuse(MONARCH, &["--batch", "64", "--dtype", "c64"], &["c64", "complex chains run on the CPU"]);
    refuse(MONARCH, &["--batch", "0", "--dtype", "f16"], &["at least one vector"]);
    refuse(MONARCH, &["--batch", "1,18446744073709551615", "--dtype", "f16"], &["do not fit in the address space"]);
    refuse(MONARCH, &["--dtype", "f16"], &["--batch"]);
    refuse(MONARCH, &["--batch", "64"], &["--dtype"]);
    refuse(MONARCH, &[&good[..], &["--device", "gpu"]].concat(), &["expected h100, cuda or cuda:N"]);
    refuse(MONARCH, &[&good[..], &["--device", "cuda:77"]].concat(), &["GPU 77"]);
}
