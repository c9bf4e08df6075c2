//! `kronsparse convert` on fresh random models: what is converted, what is not, and that the rest stays bit for bit.

mod common;

use common::{Random, Sandbox, Tensor, pattern};
use half::{bf16, f16};
use kronsparse::{Chain, Factor, Matrix, relative_error};
use safetensors::Dtype;

/// Two layers of a transformer, small, with everything that a converter may trip over.
fn model(random: &mut Random) -> Vec<Tensor> {
    let mut f32s = |name: &str, shape: &[usize]| {
        Tensor::new(name, Dtype::F32, shape, &random.numbers::<f32>(shape.iter().product()))
    };
    let mut tensors = vec![
        f32s("embeddings.word_embeddings.weight", &[50, 24]),
        f32s("layer.0.dense.weight", &[48, 24]),
        f32s("layer.0.dense.bias", &[48]),
        f32s("layer.1.dense.weight", &[24, 48]),
        f32s("layer.1.LayerNorm.weight", &[24]),
        f32s("conv.weight", &[4, 3, 3, 3]),
        f32s("layer.1.table", &[24, 24]),
        f32s("empty.weight", &[0, 24]),
    ];
    tensors.push(Tensor::new("half.weight", Dtype::F16, &[24, 24], &random.numbers::<f16>(576)));
    tensors.push(Tensor::new("brain.weight", Dtype::BF16, &[24, 24], &random.numbers::<bf16>(576)));
    tensors.push(Tensor::new("wide.weight", Dtype::F64, &[24, 24], &random.numbers::<f64>(576)));
    let ids: Vec<i64> = (0..24).map(|_| (random.next() * 1e15) as i64).collect();
    let bytes = ids.iter().flat_map(|x| x.to_le_bytes()).collect();
    tensors.push(Tensor { name: "ids.weight".into(), dtype: Dtype::I64, shape: vec![4, 6], bytes });
    tensors.push(Tensor { name: "mask".into(), dtype: Dtype::BOOL, shape: vec![5], bytes: vec![1, 0, 0, 1, 1] });
    tensors
}

const CONVERTED: [&str; 5] =
    ["brain.weight", "half.weight", "layer.0.dense.weight", "layer.1.dense.weight", "wide.weight"];

/// Expands the factors of `stem` as they stand in the file.
fn expand<T: kronsparse::Scalar>(tensors: &[Tensor], stem: &str) -> Matrix<T> {
    let mut factors = Vec::new();
    while let Some(tensor) = tensors.iter().find(|t| t.name == format!("{stem}.factors.{}", factors.len())) {
        let [a, b, c, d] = tensor.shape[..] else { panic!("{tensor:?} is no factor") };
        let pattern = kronsparse::Pattern::new(a, b, c, d).expect("a pattern");
        factors.push(Factor::new(pattern, tensor.numbers::<T>()).expect("a factor"));
    }
    Chain::new(factors).expect("a chain").to_dense()
}

/// Every tensor but the converted ones is in the file unchanged; every converted one is there as factors only.
fn check_file(sandbox: &Sandbox, before: &[Tensor], after: &[Tensor], converted: &[&str]) {
    for tensor in before {
        let found = after.iter().find(|t| t.name == tensor.name);
        assert_eq!(found.is_none(), converted.contains(&tensor.name.as_str()), "{}", tensor.name);
        assert!(found.is_none_or(|t| t == tensor), "{} changed", tensor.name);
    }
    let metadata = sandbox.metadata("out.safetensors");
    for name in converted {
        let stem = name.strip_suffix(".weight").expect("a weight");
        let dtype = before.iter().find(|t| t.name == *name).expect("a tensor").dtype;
        let chain = pattern(&metadata[&format!("kronsparse.chain.{stem}")]);
        for (at, p) in chain.patterns().iter().enumerate() {
            let factor = after.iter().find(|t| t.name == format!("{stem}.factors.{at}")).expect("a factor");
            assert_eq!((factor.dtype, factor.shape.as_slice()), (dtype, &p.shape()[..]));
        }
    }
    let factors = after.iter().filter(|t| t.name.contains(".factors.")).count();
    assert_eq!(after.len(), before.len() - converted.len() + factors);
}

#[test]
fn a_budget_converts_every_linear_weight_and_nothing_else() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    let before = model(random);
    sandbox.write_model("model.safetensors", &before, &[("format", "pt")]);
    let original = std::fs::read(sandbox.path("model.safetensors")).expect("the model");
    for budget in ["0.5", "0.25"] {
        let said = sandbox.json(&["convert", "model.safetensors", "-o", "out.safetensors", "--budget", budget]);
        let after = sandbox.read_model("out.safetensors");
        check_file(&sandbox, &before, &after, &CONVERTED);
        assert_eq!(sandbox.metadata("out.safetensors")["format"], "pt");

        let layers = said["layers"].as_array().expect("layers");
        let share: f64 = budget.parse().expect("a number");
        let names: Vec<&str> = layers.iter().map(|l| l["tensor"].as_str().expect("a name")).collect();
        assert_eq!(names, CONVERTED);
        for layer in layers {
            let number = |key: &str| layer[key].as_f64().expect("a number");
            assert!(number("parameters_after") <= share * number("parameters_before"), "{layer}");
            let name = layer["tensor"].as_str().expect("a name");
            let tensor = before.iter().find(|t| t.name == name).expect("a tensor");
            let stem = name.strip_suffix(".weight").expect("a weight");
            let error = match tensor.dtype {
                Dtype::F16 => relative_error(expand::<f16>(&after, stem).as_slice(), &tensor.numbers::<f16>()),
                Dtype::BF16 => relative_error(expand::<bf16>(&after, stem).as_slice(), &tensor.numbers::<bf16>()),
                Dtype::F64 => relative_error(expand::<f64>(&after, stem).as_slice(), &tensor.numbers::<f64>()),
                _ => relative_error(expand::<f32>(&after, stem).as_slice(), &tensor.numbers::<f32>()),
            };
            // The product is rounded here, and not where the error is printed.
            assert!((error - number("relative_error")).abs() < 2e-3, "{layer}: found {error}");
            assert!((0.1..0.99).contains(&error), "{layer}");
        }
        let skipped = said["skipped"].as_array().expect("skipped");
        assert_eq!(skipped.len(), 1);
        assert_eq!(skipped[0]["tensor"], "embeddings.word_embeddings.weight");
        assert!(skipped[0]["reason"].as_str().expect("a reason").contains("embed"));
    }
    assert_eq!(std::fs::read(sandbox.path("model.safetensors")).expect("the model"), original);
}

#[test]
fn a_model_made_of_chains_converts_without_loss_and_multiplies() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    let made: Chain<f32> = random.chain("(1,6,4,8)(4,8,9,1)");
    let dense = made.to_dense();
    let bias: Vec<f32> = random.numbers(48);
    let before = [
        Tensor::new("a.weight", Dtype::F32, &[48, 36], dense.as_slice()),
        Tensor::new("a.bias", Dtype::F32, &[48], &bias),
        Tensor::new("b.weight", Dtype::F32, &[5, 7], &random.numbers::<f32>(35)),
    ];
    sandbox.write_model("model.safetensors", &before, &[]);
    let spec = "(1,6,4,8)(4,8,9,1)";
    let args = ["convert", "model.safetensors", "-o", "out.safetensors", "--include", "^a", "--chain", spec];
    let text = sandbox.succeed(&args);
    assert!(text.contains("a.weight") && text.contains(spec) && text.contains("does not match"), "{text}");
    check_file(&sandbox, &before, &sandbox.read_model("out.safetensors"), &["a.weight"]);
    let error = sandbox.json(&args)["layers"][0]["relative_error"].as_f64().expect("a number");
    assert!(error < 1e-5, "{error}");

    let x: Vec<f32> = random.numbers(3 * 36);
    sandbox.write_npy("x.npy", &[3, 36], &x);
    sandbox.succeed(&["multiply", "-w", "out.safetensors::a", "-i", "x.npy", "-o", "y.npy"]);
    let y = sandbox.read("y.npy").data.cast::<f32>();
    let expected: Vec<f32> = (0..3 * 48)
        .map(|at| {
            let (n, row) = (at / 48, at % 48);
            dense.row(row).iter().zip(&x[n * 36..]).map(|(w, x)| w * x).sum::<f32>() + bias[row]
        })
        .collect();
    assert!(relative_error(&y, &expected) < 1e-5);
    sandbox.succeed(&["expand", "out.safetensors::a", "-o", "dense.npy"]);
    assert!(relative_error(&sandbox.read("dense.npy").data.cast::<f32>(), dense.as_slice()) < 1e-5);
}

#[test]
fn names_are_chosen_by_the_flags() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    sandbox.write_model("model.safetensors", &model(random), &[]);
    let converted = |flags: &[&str]| -> Vec<String> {
        let mut args = vec!["convert", "model.safetensors", "-o", "out.safetensors", "--budget", "0.5"];
        args.extend(flags);
        let said = sandbox.json(&args);
        let layers = said["layers"].as_array().expect("layers").clone();
        layers.iter().map(|l| l["tensor"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(converted(&["--include", "layer\\.\\d"]), ["layer.0.dense.weight", "layer.1.dense.weight"]);
    assert_eq!(converted(&["--exclude", "layer|half|wide"]), ["brain.weight"]);
    assert_eq!(converted(&["--include", "word", "--embeddings"]), ["embeddings.word_embeddings.weight"]);
    // Low rank is what --no-low-rank leaves out: some factor has a·d > 1.
    let args = ["convert", "model.safetensors", "-o", "out.safetensors", "--budget", "0.5", "--no-low-rank"];
    for layer in sandbox.json(&args)["layers"].as_array().expect("layers") {
        let chain = pattern(layer["chain"].as_str().expect("a chain"));
        assert!(chain.patterns().iter().any(|p| p.a() * p.d() > 1), "{chain}");
    }
}

#[test]
fn a_weight_that_no_chain_suits_is_listed_and_copied() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    let before = [
        Tensor::new("large.weight", Dtype::F32, &[40, 40], &random.numbers::<f32>(1600)),
        Tensor::new("small.weight", Dtype::F32, &[3, 3], &random.numbers::<f32>(9)),
    ];
    sandbox.write_model("model.safetensors", &before, &[]);
    let said = sandbox.json(&["convert", "model.safetensors", "-o", "out.safetensors", "--budget", "0.2"]);
    check_file(&sandbox, &before, &sandbox.read_model("out.safetensors"), &["large.weight"]);
    assert_eq!(said["skipped"][0]["tensor"], "small.weight");
    assert!(said["skipped"][0]["reason"].as_str().expect("a reason").contains("budget"), "{said}");
    std::fs::remove_file(sandbox.path("out.safetensors")).expect("removed");
    sandbox.refuse(
        &["convert", "model.safetensors", "-o", "out.safetensors", "--budget", "0.001"],
        &["large.weight", "budget", "80"],
    );
}

#[test]
fn wrong_input_is_refused_in_one_sentence() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    let tensors = model(random);
    sandbox.write_model("model.safetensors", &tensors, &[]);
    sandbox.write_model("bare.safetensors", &tensors[2..3], &[]);
    let refuse = |flags: &[&str], words: &[&str]| {
        let mut args = vec!["convert", "model.safetensors", "-o", "out.safetensors"];
        args.extend(flags);
        sandbox.refuse(&args, words)
    };
    refuse(&[], &["--chain", "--budget"]);
    refuse(&["--budget", "0.5", "--chain", "monarch:2,2"], &["--budget", "--chain"]);
    refuse(&["--budget", "1.5"], &["1.5", "at most 1"]);
    refuse(&["--budget", "-0.5"], &["-0.5", "above 0"]);
    refuse(&["--budget", "nan"], &["0.25"]);
    refuse(&["--budget", "half"], &["half"]);
    refuse(&["--budget", "0.5", "--include", "("], &["--include"]);
    refuse(&["--budget", "0.5", "--include", "decoder"], &["no weight", "layer.0.dense.weight"]);
    refuse(&["--chain", "monarch:5,2"], &["brain.weight", "p = 5"]);
    refuse(&["--chain", "(1,4,4,6)(4,6,6,1)"], &["layer.0.dense.weight", "[24, 24]", "[48, 24]"]);
    refuse(&["--chain", "(1,2,2,12)(3,4,8,2)", "--include", "half"], &["half"]);
    refuse(&["--budget", "0.5", "--order", "sideways"], &["sideways"]);
    sandbox.refuse(&["convert", "bare.safetensors", "-o", "o.safetensors", "--budget", "0.5"], &["layer.0.dense.bias"]);
    sandbox.refuse(&["convert", "no.safetensors", "-o", "o.safetensors", "--budget", "0.5"], &["no.safetensors"]);
    sandbox.refuse(&["convert", "model.safetensors", "-o", "o.bin", "--budget", "0.5"], &["o.bin"]);
    sandbox.refuse(&["convert", "model.safetensors", "-o", "no/o.safetensors", "--budget", "0.5"], &["no"]);
    sandbox.refuse(&["convert", "model.safetensors", "-o", "model.safetensors", "--budget", "0.5"], &["input file"]);
    sandbox.refuse(&["convert", "model.safetensors", "-o", "./model.safetensors", "--budget", "0.5"], &["input file"]);

    // An output that cannot be renamed over: a folder of that name.
    std::fs::create_dir(sandbox.path("out.safetensors")).expect("a folder");
    refuse(&["--budget", "0.5"], &["out.safetensors", "folder"]);
    std::fs::remove_dir(sandbox.path("out.safetensors")).expect("removed");

    let mut spoilt = tensors.clone();
    spoilt[1].bytes[4 * 100..4 * 101].copy_from_slice(&f32::NAN.to_le_bytes());
    sandbox.write_model("model.safetensors", &spoilt, &[]);
    refuse(&["--budget", "0.5"], &["layer.0.dense.weight", "NaN"]);

    let mut twice = tensors.clone();
    twice.push(Tensor::new("half.factors.0", Dtype::F32, &[1], &[0f32]));
    sandbox.write_model("model.safetensors", &twice, &[]);
    refuse(&["--budget", "0.5"], &["half.factors.0"]);

    for part in [0.0, 0.01, 0.5, 0.999] {
        sandbox.write_model("model.safetensors", &tensors, &[]);
        sandbox.truncate("model.safetensors", |len| (len as f64 * part) as usize);
        refuse(&["--budget", "0.5"], &["model.safetensors"]);
    }
}

#[test]
fn a_bit_flipped_converted_model_is_noticed() {
    let random = &mut Random::new();
    let sandbox = Sandbox::new();
    sandbox.write_model("model.safetensors", &model(random), &[]);
    let args = ["convert", "model.safetensors", "-o", "small.safetensors", "--budget", "0.5", "--include", "layer"];
    sandbox.succeed(&args);
    // In the last weights: only the checksum can tell.
    sandbox.flip("small.safetensors", |len| len - 2);
    sandbox.refuse(
        &["convert", "small.safetensors", "-o", "out.safetensors", "--budget", "0.5"],
        &["small.safetensors", "checksum"],
    );
    sandbox.refuse(&["expand", "small.safetensors::layer.0.dense", "-o", "w.npy"], &["small.safetensors", "checksum"]);
}
