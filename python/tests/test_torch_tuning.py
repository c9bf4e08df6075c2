"""``kronsparse.torch.tune``: what a model multiplies by, measured once, and taken by its layers from then on."""

import os
import subprocess
import sys
import textwrap

import pytest

torch = pytest.importorskip("torch")

import kronsparse as ks
from kronsparse.torch import KSGatedMLP, KSLinear, _packing, explain, tune
from stores import prefer
from torch import nn
from torch_tools import packings  # noqa: F401

QUICK = {"seconds": 0.001, "caches": "warm"}


@pytest.fixture(autouse=True)
def back(tmp_path, monkeypatch):
    """As in the tests of ``kronsparse.tune``."""
    monkeypatch.setenv("KRONSPARSE_TUNING", str(tmp_path / "user.txt"))
    ks.tune([(1, 1, 1, 1)], 3, dtype="float64", **QUICK)
    yield
    ks.tune([(1, 1, 1, 1)], 3, dtype="float64", store=tmp_path / "neutral.txt", **QUICK)


class Model(nn.Module):
    """Two layers that are alike, another one, and a gated part."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        options = {"dtype": dtype}
        self.first, self.second = (KSLinear(32, 32, "monarch:4,8", **options) for _ in range(2))
        self.wide = KSLinear(32, 64, "monarch:8,4", bias=False, **options)
        self.mlp = KSGatedMLP(
            *(KSLinear(64, 48, "monarch:4,8", bias=False, **options) for _ in range(2)),
            KSLinear(48, 64, "monarch:8,8", bias=False, **options),
        )

    def forward(self, x, scale=1.0):
        return self.mlp(self.wide(self.second(self.first(x))).sum(0) * scale)


def asked(found):
    """What was measured, in a form to compare."""
    return {(str(r.patterns[-1]), r.patterns[-1].cols, r.dtype, r.batch, r.bias, r.join) for r in found}


@pytest.mark.parametrize("form", ["tensor", "tuple", "dictionary"])
def test_layers_are_tuned_for_what_an_example_brings_them_and_alike_ones_once(form, tmp_path):
    model, x = Model(), torch.randn(2, 3, 32, dtype=torch.float64)
    seen = []
    example = {"tensor": x, "tuple": (x, 2.0), "dictionary": {"x": x}}[form]
    found = tune(model, example, store=tmp_path / "s.txt", progress=lambda *at: seen.append(at), **QUICK)
    assert len(found) == found.new == 4 and [at[:2] for at in seen] == [(k, 4) for k in range(4)]
    assert {(batch, join) for *_, batch, _, join in asked(found)} == {(6, "none"), (3, "none"), (3, "gate")}
    gate = next(record for record in found if record.join == "gate")
    assert gate.activation == "silu" and gate.patterns[0].rows == 96
    assert sum(record.bias for record in found) == 1 and all(
        f"{torch.get_num_threads()} thread" in r.machine for r in found
    )
    assert tune(model, example, store=tmp_path / "s.txt", **QUICK).new == 0
    assert not any(module._forward_hooks for module in model.modules())


def test_an_example_changes_nothing_in_the_model(tmp_path):
    model = nn.Sequential(KSLinear(32, 64, "monarch:8,4"), nn.BatchNorm1d(64), nn.Dropout().eval())
    model[0].register_forward_hook(lambda layer, *_: seen.append(layer.training))
    seen, before = [], {name: value.clone() for name, value in model.state_dict().items()}
    tune(model, torch.randn(5, 32), store=tmp_path / "s.txt", **QUICK)
    assert seen == [False] and [module.training for module in model.modules()] == [True, True, True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_numbers_of_vectors_and_autocast(tmp_path):
    model = Model(torch.float32)
    found = tune(model, [1, 8], store=tmp_path / "s.txt", **QUICK)
    assert len(found) == 8 and {record.batch for record in found} == {1, 8} and {r.dtype for r in found} == {"float32"}
    assert len(tune(model, 1, store=tmp_path / "s.txt", **QUICK)) == 4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = tune(model, torch.randn(2, 3, 32), store=tmp_path / "s.txt", **QUICK)
    assert {record.dtype for record in half} == {"bfloat16"} and half.new == 4


def test_layers_that_somebody_sees_are_tuned_one_by_one(tmp_path):
    model = Model(torch.float32)
    model.mlp.gate.register_forward_hook(lambda *_: None)
    found = tune(model, [4], store=tmp_path / "s.txt", **QUICK)
    assert {record.join for record in found} == {"none"} and len(found) == 4
    layer = KSLinear(32, 64, "monarch:8,4")
    assert [r.batch for r in tune(layer, (3, 5), store=tmp_path / "s.txt", **QUICK)] == [3, 5]


def test_layers_take_what_was_found(tmp_path, packings):  # noqa: F811
    layer = KSLinear(32, 64, "monarch:8,4", dtype=torch.float64).requires_grad_(False)
    x, store = torch.randn(40, 32, dtype=torch.float64), tmp_path / "s.txt"
    before = layer(x)
    tune(layer, x, store=store, **QUICK)
    prefer(store, "csr")
    ks.use_tuning(store)
    assert explain(layer, 40).startswith("csr on up to") and "measured 1000.00 µs" in explain(layer, 40)
    assert explain(layer, 400).startswith("fused")
    count = len(packings)
    assert torch.allclose(layer(x), before) and len(packings) == count + 1
    assert torch.allclose(layer(x), before) and len(packings) == count + 1


def test_a_gated_part_takes_what_was_found(tmp_path, monkeypatch):
    gate, up = (KSLinear(64, 48, "monarch:4,8", bias=bias) for bias in (False, True))
    mlp = KSGatedMLP(gate, up, KSLinear(48, 64, "monarch:8,8"), "gelu").requires_grad_(False)
    x, store, packed, real = torch.randn(40, 64), tmp_path / "s.txt", [], _packing.pack_gated_at
    monkeypatch.setattr(_packing, "pack_gated_at", lambda *what: (packed.append(real(*what)), packed[-1])[1])
    before = mlp(x)
    tune(mlp, x, store=store, **QUICK)
    prefer(store, "csr")
    ks.use_tuning(store)
    assert torch.allclose(mlp(x), before, atol=1e-5) and len(packed) == 2
    assert packed[1].explain(40).startswith("csr on up to") and packed[1].explain(400).startswith("fused")


def test_the_file_that_the_environment_names_need_not_be_there_yet(tmp_path):
    program = """
        import sys, torch
        from kronsparse.torch import KSLinear, tune
        found = tune(KSLinear(32, 64, "monarch:8,4"), torch.randn(5, 32), seconds=0.001, caches="warm")
        assert len(found) == found.new == 1 and str(found.store) == sys.argv[1]
    """
    store = str(tmp_path / "new.txt")
    command = [sys.executable, "-c", textwrap.dedent(program), store]
    subprocess.run(command, check=True, timeout=120, env={**os.environ, "KRONSPARSE_TUNING": store})


def test_models_that_cannot_be_tuned(tmp_path):
    store = {"store": tmp_path / "s.txt"}
    with pytest.raises(ValueError, match="expected KSLinear layers on one device, found no KSLinear"):
        tune(nn.Linear(2, 2), 1, **store)
    with pytest.raises(TypeError, match="model: expected an nn.Module, found list"):
        tune([nn.Linear(2, 2)], 1, **store)
    small = KSLinear(4, 4, "monarch:2,2")
    for example, why in [
        (True, "example: expected an input of the model or numbers of vectors, found True"),
        (None, "example: expected an input of the model or numbers of vectors, found None"),
        ("many", "example: expected an input of the model or numbers of vectors, found 'many'"),
        ([], "example: expected at least one number of vectors, found none"),
        ([4, -1], "example: expected a whole number from 0 on, found -1"),
        (0, "a batch of 0"),
    ]:
        with pytest.raises((ValueError, TypeError), match=why):
            tune(small, example, **store)
    with pytest.raises(TypeError, match="dtype: expected one of torch.float16, .* found torch.float8_e5m2"):
        tune(small.to(torch.float8_e5m2), 1, **store)
    with pytest.raises(TypeError, match="layer: expected a KSLinear, found Linear"):
        explain(nn.Linear(2, 2), 1)
    with pytest.raises(ValueError, match="n: expected a whole number from 0 on, found -1"):
        explain(KSLinear(4, 4, "monarch:2,2"), -1)
    mixed = nn.Sequential(KSLinear(4, 4, "monarch:2,2"), KSLinear(4, 4, "monarch:2,2", device="meta"))
    with pytest.raises(ValueError, match="on one device, found cpu, meta"):
        tune(mixed, 1, **store)
    with pytest.raises(ValueError, match="on a CPU or a GPU, found some on meta"):
        tune(mixed[1], 1, **store)
    with pytest.raises(ValueError, match="example: expected an input that reaches a KSLinear with at least one vector"):
        tune(mixed[0], torch.randn(0, 4), **store)
