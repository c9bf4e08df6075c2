//! `kronsparse info`, help and usage errors.

mod common;

use common::Sandbox;

#[test]
fn info_describes_this_machine() {
    let sandbox = Sandbox::new();
    let said = sandbox.json(&["info"]);
    assert_eq!(said["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(said["cpu"]["threads"], std::thread::available_parallelism().expect("a count").get());
    let has = |name: &str| said["cpu"]["simd"].as_array().expect("a list").iter().any(|s| s == name);
    #[cfg(target_arch = "x86_64")]
    assert_eq!(has("avx2"), std::arch::is_x86_feature_detected!("avx2"));
    #[cfg(target_arch = "aarch64")]
    assert!(has("neon"));
    // Either GPUs or a reason, never both and never neither.
    let gpus = said["gpus"].as_array().expect("a list");
    assert_eq!(gpus.is_empty(), said["gpu_absent_because"].is_string(), "{said}");

    let text = sandbox.succeed(&["info"]);
    for word in ["version", "CPU", "SIMD", "threads", "GPU", "cache folder"] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
}

#[test]
fn info_says_why_there_is_no_gpu() {
    let sandbox = Sandbox::new();
    let said = sandbox.json(&["info"]);
    if let Some(reason) = said["gpu_absent_because"].as_str() {
        assert!(reason.contains("NVIDIA driver"), "{reason}");
        assert!(sandbox.succeed(&["info"]).contains(&format!("none: {reason}")));
    } else {
        assert!(said["gpus"][0]["name"].as_str().is_some_and(|name| !name.is_empty()), "{said}");
    }
}

#[test]
fn every_help_has_examples() {
    let sandbox = Sandbox::new();
    for command in ["info", "multiply", "factorize", "expand", "convert", "plan"] {
        let help = sandbox.succeed(&[command, "--help"]);
        assert!(help.contains("Example") && help.contains(&format!("kronsparse {command}")), "{help}");
    }
    assert!(sandbox.succeed(&["--help"]).contains("monarch:p,q"));
    assert!(sandbox.succeed(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn usage_errors_take_one_line() {
    let sandbox = Sandbox::new();
    sandbox.refuse(&["frobnicate"], &["frobnicate"]);
    sandbox.refuse(&["info", "--jsno"], &["--jsno", "--json"]);
    sandbox.refuse(&["multiply"], &["--weights", "--input", "--output", "--help"]);
    sandbox.refuse(&["expand", "a.safetensors"], &["--output"]);
    sandbox.refuse(&["info", "--json", "--json"], &["--json"]);
}
