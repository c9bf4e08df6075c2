"""The examples that measure time and energy, with tiny models on a CPU: what they compute and print is right."""

import csv
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from kronsparse.torch import KSLinear
from torch import nn

NAMES = ("measuring", "models", "end_to_end", "layer_times")


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    import end_to_end
    import layer_times
    import models

    yield models, end_to_end, layer_times
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sparse_models_are_the_dense_ones_of_their_matrices(examples, dtype):
    models, end_to_end, _ = examples
    for case in models.cases(tiny=True):
        model, x = case.make().to(dtype).eval(), case.data(dtype)
        layers = sum(isinstance(module, nn.Linear) for module in model.modules())
        table = models.sparsify(model)
        kept = [row.name for row in table if not row.chain]
        assert kept == (["patches", "head"] if case.model == "vit_s16" else [])
        assert sum(isinstance(module, KSLinear) for module in model.modules()) == layers - len(kept)
        twin = models.dense_twin(model)
        assert not any(isinstance(module, KSLinear) for module in twin.modules())
        with torch.no_grad():
            error = end_to_end.relative_error(model(x), twin(x))
            assert error < {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 5e-2}[dtype]
            # What the linear layers do reaches the output.
            for layer in twin.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight.mul_(1.5)
            assert end_to_end.relative_error(model(x), twin(x)) > 0.05


def test_models_have_the_sizes_of_their_names(examples):
    models, *_ = examples
    sizes = {}
    for case in models.cases():
        with torch.device("meta"):
            model = case.make()
            output = model(case.data(torch.float32))
        dense = sum(p.numel() for p in model.parameters())
        models.sparsify(model)
        sizes[case.model] = dense, sum(p.numel() for p in model.parameters())
        assert output.is_meta
    # ViT-S/16 without class token and place embeddings; GPT-2 medium; three layers of 4096 × 14336.
    assert sizes == {
        "vit_s16": (21974632, 8113768),
        "gpt2_medium": (354823168, 81144832),
        "llama_mlp": (176160768, 3538944),
    }


def test_end_to_end_prints_a_table(examples, tmp_path, capsys):
    _, end_to_end, _ = examples
    path = tmp_path / "times.csv"
    options = "--tiny --check --device cpu --dtypes f32,bf16 --modes eager,graph --repeats 3 --commit abc".split()
    end_to_end.main([*options, "--out", str(path)])
    rows = list(csv.DictReader(path.open()))
    # Four cases, two dtypes, two kinds of layers, one mode that a CPU has; gated MLPs as one module besides.
    assert len(rows) == 20 and {row["mode"] for row in rows} == {"eager"}
    gated = [row for row in rows if row["linear"] == "ks_gated"]
    assert [row["case"] for row in gated] == ["1 tokens", "5 tokens"] * 2 and {r["model"] for r in gated} == {
        "llama_mlp"
    }
    for row in rows:
        assert 0 < float(row["minimum_ms"]) <= float(row["milliseconds"]) <= float(row["maximum_ms"])
        assert row["joules"] == "" and row["commit"] == "abc" and row["device"] == "CPU"
        assert row["torch"] == torch.__version__
    said = capsys.readouterr().err
    assert "no energy: energy is counted on NVIDIA GPUs only" in said and "mode graph is left out" in said
    assert said.count("error") == 12
    with pytest.raises(SystemExit):
        end_to_end.main(["--models", "bert"])


def test_end_to_end_tunes_the_layers(examples, tmp_path, capsys, monkeypatch):
    import kronsparse

    _, end_to_end, _ = examples
    monkeypatch.setenv("KRONSPARSE_TUNING", str(tmp_path / "store.txt"))
    options = "--tiny --device cpu --dtypes f32 --modes eager --repeats 1 --models llama_mlp --linear ks_gated --tune"
    end_to_end.main([*options.split(), str(tmp_path / "store.txt")])
    found = kronsparse.read_tuning(tmp_path / "store.txt")
    assert sorted((r.batch, r.join) for r in found) == [(1, "gate"), (1, "none"), (5, "gate"), (5, "none")]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_wrong_model_is_noticed(examples, monkeypatch):
    models, end_to_end, _ = examples
    wrong = models.dense_twin

    def twin(model):
        found = wrong(model)
        found.down.weight.data.neg_()
        return found

    monkeypatch.setattr(end_to_end, "dense_twin", twin)
    with pytest.raises(SystemExit, match="differs from its dense twin"):
        end_to_end.main("--tiny --check --device cpu --models llama_mlp --modes eager --joules none".split())


def test_layer_times_prints_a_table(examples, capsys):
    *_, layer_times = examples
    layer_times.main("--tiny --device cpu --dtypes f32,f16 --vectors 3,70 --train-vectors 20 --repeats 3".split())
    said = capsys.readouterr()
    rows = list(csv.DictReader(said.out.splitlines()))
    assert [(row["linear"], row["dtype"], row["n"]) for row in rows] == [
        (linear, dtype, n)
        for dtype, many in (("f32", ("3", "70")), ("f16", ("3", "70")), ("bf16", ("20",)))
        for n in many
        for linear in ("kronsparse", "dense")
    ]
    for row in rows:
        assert float(row["forward_us"]) > 0 and row["host_us"] == ""
        assert (row["step_us"] != "") == (row["dtype"] == "bf16") and row["graph_step_us"] == ""
        assert (row["error"] != "") == (row["linear"] == "kronsparse")
    assert "no host times" in said.err
