//! `kronsparse bench` from outside: files, exit codes, and one sentence for every kind of bad input.

use std::path::Path;
use std::process::{Command, Output};

/// Runs the command with these arguments.
fn kronsparse(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kronsparse")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_run_leaves_figures_and_a_report_that_can_be_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/folder");
    let out = out.to_str().unwrap();
    let arguments = [
        "bench",
        "--patterns",
        "1,4,6,3; (2,3,3,2)(3,2,4,2)",
        "--batch",
        "1,9",
        "--layout",
        "bsf,bsl",
        "--dtype",
        "f32,bf16",
    ];
    let output =
        kronsparse(&[&arguments[..], &["--budget", "0.002", "--out", out, "--json", "--threads", "1"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let rows = json["rows"].as_array().unwrap();
    // 2 chains × 2 batches × 2 layouts × 2 types × 6 algorithms.
    assert_eq!(rows.len(), 96);
    let fused: Vec<_> = rows.iter().filter(|r| r["algorithm"] == "fused").collect();
    assert!(fused.len() == 16 && fused.iter().all(|r| r["status"] == "ok" && r["median_s"].as_f64().unwrap() > 0.0));
    assert!(json["settings"]["command"].as_str().unwrap().contains("'1,4,6,3; (2,3,3,2)(3,2,4,2)'"));

    let csv = std::fs::read_to_string(Path::new(out).join("samples.csv")).unwrap();
    assert_eq!(csv.lines().count(), 97);
    assert!(std::fs::read_to_string(Path::new(out).join("report.html")).unwrap().ends_with("</html>\n"));

    let again = folder.path().join("again");
    let output = kronsparse(&["bench", "--from", out, "--out", again.to_str().unwrap()]);
    assert!(output.status.success());
    let table = stdout(&output);
    assert!(table.contains("▸ fused") && table.contains("roofline of bf16") && !table.contains('\x1b'), "{table}");
    assert_eq!(std::fs::read_to_string(again.join("samples.csv")).unwrap(), csv);
}

#[test]
fn bad_input_is_one_sentence_and_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "1,2,2,1\n1,2,2\n").unwrap();
    let (file, good) = (file.to_str().unwrap(), folder.path().join("out"));
    let good = good.to_str().unwrap();
    let cases: [(&[&str], &str); 10] = [
        (&["--patterns", "1,2,3", "--out", good], "expected four numbers a,b,c,d, found 3"),
        (&["--patterns", "(1,2,2,2)(5,1,1,1)", "--out", good], "4 columns"),
        (&["--patterns", file, "--out", good], "line 2"),
        (&["--patterns", "missing.txt", "--out", good], "missing.txt: cannot read the patterns"),
        (&["--patterns", "1,2,2,1", "--batch", "0", "--out", good], "at least one vector"),
        (&["--patterns", "1,2,2,1", "--dtype", "f31", "--out", good], "expected one of f16, bf16"),
        (&["--patterns", "1,2,2,1", "--out", file], "file: cannot create the folder"),
        (&["--patterns", "1,2,2,1", "--out", good, "--device", "gpu"], "expected cpu, cuda or cuda:N"),
        (&["--patterns", "1,2,2,1", "--out", good, "--energy"], "--energy: says something about a GPU only"),
        (&["--patterns", "1,2,2,1", "--out", good, "--device", "cuda:77"], "GPU 77"),
    ];
    for (arguments, expected) in cases {
        let output = kronsparse(&[&["bench"], arguments].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty());
    }
    assert!(!Path::new(good).join("report.html").exists());
}
