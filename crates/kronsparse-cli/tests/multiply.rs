//! `kronsparse multiply` and `kronsparse expand` on fresh random files, against the oracle.

mod common;

use common::{Random, Sandbox, assert_close};
use half::f16;
use kronsparse::{Activation, Chain, Layout, Scalar, reference};
use num_complex::Complex32;

const CHAIN: &str = "(1,6,4,10)(2,20,9,1)";

/// Runs on the file of `chain` with `bias` and compares with the oracle.
fn check<T: Scalar>(random: &mut Random, layout: Layout, shape: &[usize], activation: Activation, transpose: bool) {
    let sandbox = Sandbox::new();
    let chain: Chain<T> = random.chain(CHAIN);
    let bias: Vec<T> = random.numbers(chain.rows());
    sandbox.write_chain("w.safetensors", &chain, Some(bias.clone()));
    let x: Vec<T> = random.numbers(shape.iter().product());
    sandbox.write_npy("x.npy", shape, &x);
    let mut args = vec!["multiply", "--weights", "w.safetensors", "--input", "x.npy", "--output", "y.npy"];
    args.extend(["--layout", layout.name(), "--activation", activation.name(), "--threads", "2"]);
    if transpose {
        args.push("--transpose");
    }
    let said = sandbox.succeed(&args);

    let used = if transpose { chain.transpose() } else { chain };
    let n = x.len() / used.cols();
    let bias = (!transpose).then_some(bias.as_slice());
    let expected = reference::multiply(&used, bias, activation, &x, n, layout);
    let y = sandbox.read("y.npy");
    let mut rows_for_cols = shape.to_vec();
    let feature = if layout == Layout::BatchFirst { shape.len() - 1 } else { 0 };
    rows_for_cols[feature] = used.rows();
    assert_eq!(y.shape, rows_for_cols);
    assert_eq!(y.dtype(), T::DTYPE);
    assert_close(&y.data.cast::<T>(), &expected, used.pattern(), &said);
    assert_eq!(said.contains("bias not added (--transpose)"), transpose, "{said}");
}

#[test]
fn products_agree_with_the_oracle() {
    let random = &mut Random::new();
    // (1,6,4,10) is 60 × 40 and (2,20,9,1) is 40 × 18.
    for shape in [vec![18], vec![7, 18], vec![2, 3, 18], vec![0, 18], vec![1, 18]] {
        check::<f32>(random, Layout::BatchFirst, &shape, Activation::None, false);
    }
    check::<f64>(random, Layout::BatchLast, &[18, 5], Activation::Gelu, false);
    check::<f32>(random, Layout::BatchLast, &[18], Activation::Relu, false);
    check::<f16>(random, Layout::BatchFirst, &[3, 18], Activation::Silu, false);
    check::<Complex32>(random, Layout::BatchFirst, &[4, 18], Activation::None, false);
    check::<f32>(random, Layout::BatchFirst, &[4, 60], Activation::None, true);
    check::<Complex32>(random, Layout::BatchLast, &[60, 3], Activation::None, true);
}

#[test]
fn every_algorithm_and_another_dtype() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    let chain: Chain<f32> = random.chain(CHAIN);
    sandbox.write_chain("w.safetensors", &chain, None);
    let x: Vec<f64> = random.numbers(3 * 18);
    sandbox.write_npy("x.npy", &[3, 18], &x);
    for algorithm in ["auto", "fused", "dense", "permute-bmm", "einsum", "csr", "bsr"] {
        let mut args = vec!["multiply", "-w", "w.safetensors", "-i", "x.npy", "-o", "y.npy"];
        args.extend(["--algorithm", algorithm, "--dtype", "f64"]);
        let said = sandbox.json(&args);
        assert_eq!(said["algorithm"], algorithm);
        assert_eq!(said["shape"], serde_json::json!([3, 60]));
        assert!(said["seconds"].as_f64().expect("seconds") > 0.0);
        let wide = chain.cast::<f64>();
        let expected = reference::multiply(&wide, None, Activation::None, &x, 3, Layout::BatchFirst);
        assert_close(&sandbox.read("y.npy").data.cast::<f64>(), &expected, wide.pattern(), algorithm);
    }
}

#[test]
fn expand_writes_the_dense_product() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    let chain: Chain<Complex32> = random.chain(CHAIN);
    sandbox.write_chain("w.safetensors", &chain, None);
    sandbox.succeed(&["expand", "w.safetensors", "-o", "dense.npy"]);
    let dense = sandbox.read("dense.npy");
    assert_eq!(dense.shape, [60, 18]);
    let dense = dense.into_matrix::<Complex32>("dense").expect("a matrix");
    for col in 0..18 {
        let mut unit = vec![Complex32::ZERO; 18];
        unit[col] = Complex32::new(1.0, 0.0);
        let found: Vec<Complex32> = (0..60).map(|row| dense.get(row, col)).collect();
        assert_close(&found, &reference::vector(&chain, &unit), chain.pattern(), "expand");
    }
}

#[test]
fn wrong_input_is_refused_in_one_sentence() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    sandbox.write_chain("w.safetensors", &random.chain::<f32>(CHAIN), None);
    sandbox.write_npy("x.npy", &[4, 18], &random.numbers::<f32>(72));
    sandbox.write_npy("narrow.npy", &[4, 17], &random.numbers::<f32>(68));
    sandbox.write_npy("complex.npy", &[18], &random.numbers::<Complex32>(18));
    let refuse = |changes: &[&str], words: &[&str]| {
        let mut args = vec!["multiply", "--weights", "w.safetensors", "--input", "x.npy", "--output", "y.npy"];
        for change in changes.chunks(2) {
            match args.iter().position(|a| *a == change[0]) {
                Some(at) => args[at + 1] = change[1],
                None => args.extend(change),
            }
        }
        sandbox.refuse(&args, words)
    };
    refuse(&["--input", "narrow.npy"], &["narrow.npy", "(4, 17)", "60 × 18"]);
    refuse(&["--layout", "bsl"], &["(4, 18)", "60 × 18", "bsl"]);
    refuse(&["--layout", "columns"], &["columns", "bsf"]);
    refuse(&["--algorithm", "magic"], &["magic", "permute-bmm"]);
    refuse(&["--dtype", "i8"], &["i8", "bf16"]);
    refuse(&["--input", "complex.npy"], &["complex.npy", "c64", "f32", "--dtype"]);
    refuse(&["--input", "complex.npy", "--dtype", "c64", "--activation", "relu"], &["relu", "c64"]);
    refuse(&["--input", "absent.npy"], &["absent.npy"]);
    refuse(&["--weights", "absent.safetensors"], &["absent.safetensors"]);
    refuse(&["--weights", "x.npy"], &["x.npy"]);
    refuse(&["--weights", "w.safetensors::layer"], &["w.safetensors", "layer.factors.0"]);
    refuse(&["--input", "w.safetensors::factors.7"], &["w.safetensors", "factors.7"]);
    refuse(&["--output", "x.npy"], &["x.npy", "is the input"]);
    refuse(&["--output", "absent/y.npy"], &["absent", "not an existing folder"]);
    refuse(&["--output", "y.txt"], &["y.txt", ".npy"]);
    refuse(&["--threads", "-1"], &["--threads"]);
}

#[test]
fn damaged_files_are_refused_wherever_the_damage_is() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    let chain = random.chain::<f32>(CHAIN);
    let x = random.numbers::<f32>(18);
    let args = ["multiply", "-w", "w.safetensors", "-i", "x.npy", "-o", "y.npy"];
    sandbox.write_npy("x.npy", &[18], &x);
    for part in [0.0, 0.001, 0.1, 0.5, 0.999] {
        sandbox.write_chain("w.safetensors", &chain, None);
        sandbox.truncate("w.safetensors", |len| (len as f64 * part) as usize);
        sandbox.refuse(&args, &["w.safetensors"]);
        sandbox.refuse(&["expand", "w.safetensors", "-o", "dense.npy"], &["w.safetensors"]);
        // Bits in the length, in the header and in the weights.
        sandbox.write_chain("w.safetensors", &chain, None);
        sandbox.flip("w.safetensors", |len| (len as f64 * part) as usize);
        sandbox.refuse(&args, &["w.safetensors"]);
        sandbox.write_chain("w.safetensors", &chain, None);
        sandbox.write_npy("x.npy", &[18], &x);
        sandbox.truncate("x.npy", |len| (len as f64 * part) as usize);
        sandbox.refuse(&args, &["x.npy"]);
        sandbox.write_npy("x.npy", &[18], &x);
    }
    sandbox.succeed(&args);
}
