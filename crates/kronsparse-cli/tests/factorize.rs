//! `kronsparse factorize` on fresh random files: exact where the structure is there, honest where it is not.

mod common;

use common::{Random, Sandbox, Tensor, pattern};
use kronsparse::{Chain, Matrix, relative_error};
use num_complex::Complex64;
use safetensors::Dtype;

#[test]
fn a_product_of_random_factors_is_recovered() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    let spec = "(1,4,4,12)(2,24,6,1)";
    let made: Chain<f64> = random.chain(spec);
    let dense = made.to_dense();
    sandbox.write_npy("w.npy", &[dense.rows(), dense.cols()], dense.as_slice());
    for order in ["l2r", "r2l", "balanced"] {
        let said = sandbox.json(&["factorize", "w.npy", "--chain", spec, "-o", "w.safetensors", "--order", order]);
        assert!(said["relative_error"].as_f64().expect("a number") < 1e-12, "{said}");
        assert!(said["bound"].as_f64().expect("a number") >= 1.0, "{said}");
        assert_eq!(said["parameters"], pattern(spec).parameters());
        assert_eq!(said["steps"].as_array().expect("steps").len(), 1);
        sandbox.succeed(&["expand", "w.safetensors", "-o", "back.npy"]);
        let back = sandbox.read("back.npy").data.cast::<f64>();
        assert!(relative_error(&back, dense.as_slice()) < 1e-12, "{order}");
    }
}

#[test]
fn the_printed_error_is_the_error_of_the_file() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    let dense: Matrix<f32> = random.matrix(24, 36);
    let tensor = Tensor::new("net.weight", Dtype::F32, &[24, 36], dense.as_slice());
    sandbox.write_model("model.safetensors", &[tensor], &[]);
    let args = ["factorize", "model.safetensors::net.weight", "--chain", "monarch:6,6", "-o", "c.safetensors"];
    let said = sandbox.json(&args);
    sandbox.succeed(&["expand", "c.safetensors", "-o", "back.npy"]);
    let back = sandbox.read("back.npy").data.cast::<f32>();
    let (error, printed) =
        (relative_error(&back, dense.as_slice()), said["relative_error"].as_f64().expect("a number"));
    assert!(error > 0.3 && (error - printed).abs() < 1e-5, "printed {printed}, found {error}");
    // The same for a reader of text.
    let text = sandbox.succeed(&args);
    assert!(text.contains(&format!("relative error {printed:.6e} ")) && text.contains("× the best error"), "{text}");
}

#[test]
fn complex_numbers_and_another_dtype() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    let dense = random.chain::<Complex64>("(1,2,2,4)(2,2,2,2)(4,2,2,1)").to_dense();
    sandbox.write_npy("w.npy", &[8, 8], dense.as_slice());
    let said =
        sandbox.json(&["factorize", "w.npy", "--chain", "square-dyadic", "-o", "c.safetensors", "--dtype", "c64"]);
    assert!(said["relative_error"].as_f64().expect("a number") < 1e-5, "{said}");
    assert_eq!(said["dtype"], "c64");
    let refused = ["factorize", "w.npy", "--chain", "square-dyadic", "-o", "d.safetensors", "--dtype", "f32"];
    sandbox.refuse(&refused, &["w.npy", "c128", "imaginary"]);
}

#[test]
fn wrong_input_is_refused_in_one_sentence() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    sandbox.write_npy("w.npy", &[12, 8], &random.numbers::<f32>(96));
    sandbox.write_npy("cube.npy", &[2, 6, 8], &random.numbers::<f32>(96));
    let mut with_nan = random.numbers::<f32>(96);
    with_nan[41] = f32::NAN;
    sandbox.write_npy("nan.npy", &[12, 8], &with_nan);
    let tensor = Tensor::new("a.weight", Dtype::F32, &[12, 8], &random.numbers::<f32>(96));
    sandbox.write_model("model.safetensors", &[tensor], &[]);
    let refuse = |input: &str, chain: &str, words: &[&str]| {
        sandbox.refuse(&["factorize", input, "--chain", chain, "-o", "out.safetensors"], words);
    };
    refuse("w.npy", "monarch:5,2", &["p = 5", "12"]);
    refuse("w.npy", "square-dyadic", &["12", "power of two"]);
    refuse("w.npy", "(1,2,2,8)(2,8,8,1)", &["16", "12"]);
    refuse("w.npy", "(1,2,3,4)(5,2,2,1)", &["factors 0 and 1", "12 columns", "10 rows"]);
    refuse("w.npy", "(2,3,2,2)(1,8,8,1)", &["not chainable", "does not divide"]);
    refuse("w.npy", "(1,2,3,4", &["parenthesis"]);
    refuse("w.npy", "butterflies", &["monarch:p,q"]);
    refuse("cube.npy", "monarch:2,2", &["cube.npy", "[2, 6, 8]"]);
    refuse("nan.npy", "monarch:2,2", &["NaN"]);
    refuse("absent.npy", "monarch:2,2", &["absent.npy"]);
    refuse("model.safetensors::b.weight", "monarch:2,2", &["model.safetensors", "b.weight", "a.weight"]);
    sandbox.refuse(&["factorize", "w.npy", "--chain", "monarch:2,2"], &["--output", "--help"]);
    sandbox.refuse(&["factorize", "w.npy", "--chain", "monarch:2,2", "-o", "x.npy"], &[".safetensors"]);
    sandbox.refuse(
        &["factorize", "model.safetensors::a.weight", "--chain", "monarch:2,2", "-o", "model.safetensors"],
        &["is the input file"],
    );
    sandbox.truncate("w.npy", |len| len - 5);
    refuse("w.npy", "monarch:2,2", &["w.npy"]);
    sandbox.truncate("model.safetensors", |len| len - 5);
    refuse("model.safetensors::a.weight", "monarch:2,2", &["model.safetensors"]);
}
