//! `kronsparse validate` from outside, on the CPU: measured, gone on with, evaluated; and one sentence for what is refused.

mod common;

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
