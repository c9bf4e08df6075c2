"""Advice: the sentences of the command, as objects; for layers and for models."""

import os
import subprocess
import sys
import textwrap

import kronsparse as ks
import numpy as np
import pytest


def test_advice_has_figures_and_a_verdict_for_each_number_of_vectors():
    found = ks.advise(1024, 512, [1, 25088], dtype=np.float16, budget=(0.05, 0.3), max_factors=2)
    assert found.shape == (1024, 512) and found.dtype == "float16" and found.device == "H100"
    assert found.dense.family == "dense" and found.dense.parameters == 1024 * 512 and found.dense.share == 1
    assert [verdict.batch for verdict in found.verdicts] == [1, 25088] and found.overall.batch is None
    assert found.looked_at >= len(found.chains) > 0
    for chain in found.chains:
        assert (chain.patterns[0].rows, chain.patterns[-1].cols) == (1024, 512)
        assert chain.parameters == sum(p.nnz for p in chain.patterns) and 0.05 <= chain.share <= 0.3
        assert [cost.batch for cost in chain.costs] == [1, 25088] and 0 < chain.rank <= 512
        for cost in chain.costs:
            assert 0 < cost.seconds < 1 and cost.weight_bytes == 2 * chain.parameters and cost.how
            assert cost.flops == 2 * cost.batch * chain.parameters and cost.bytes > cost.weight_bytes
    large = found.verdicts[1]
    best = next(chain for chain in found.chains if chain.patterns == large.patterns)
    assert large.gain == pytest.approx(found.dense.costs[1].seconds / best.costs[1].seconds)
    assert large.stay_dense == (large.gain < 1.05) and large.sentence in str(found) and found.caveat in str(found)
    # The recommended chain is one that layers take.
    assert ks.ranks(large.patterns) and ks.Chain.random(large.patterns).shape == (1024, 512)
    assert found == ks.advise(1024, 512, (1, 25088), dtype="f16", budget=(0.05, 0.3), max_factors=2)


def test_what_is_asked_for_decides():
    one = ks.advise(1024, 1024, 4096, dtype="float32", budget=0.25, max_factors=3)
    assert len(one.verdicts) == 1 and all(0.225 <= chain.share <= 0.25 for chain in one.chains)
    assert any(chain.family == "low rank" for chain in one.chains)
    without = ks.advise(1024, 1024, 4096, dtype="float32", budget=0.25, low_rank=False, max_factors=2)
    assert without.looked_at < one.looked_at and not any(chain.family == "low rank" for chain in without.chains)
    assert all(len(chain.patterns) <= 2 for chain in without.chains)
    assert ks.advise(256, 256, 4096, dtype="tf32", max_factors=2).dtype == "tf32"
    memory = ks.advise(256, 256, 1, dtype="float16", objective="memory").verdicts[0]
    assert memory.gain > 1.5 and not memory.stay_dense


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"batch": 0}, "a batch of 0"),
        ({"batch": []}, "at least one number of vectors"),
        ({"dtype": "complex64"}, "advice for c64"),
        ({"budget": (0.5, 0.1)}, r"a budget of 0.5\.\.0.1"),
        ({"device": "gpu"}, "device: expected cpu, h100, cuda or cuda:N, found gpu"),
        ({"objective": "beauty"}, "expected time, energy or memory"),
        ({"max_factors": 9}, "9"),
        ({"rows": 13, "cols": 17, "budget": 0.01, "low_rank": False}, "13"),
    ],
)
def test_wrong_arguments_name_what_was_expected(wrong, why):
    with pytest.raises(ValueError, match=why):
        ks.advise(**{"rows": 64, "cols": 64, "batch": 8, "dtype": "float32", **wrong})


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"rows": 0}, "rows: expected a whole number from 1 on, found 0"),
        ({"cols": -4}, "cols: expected a whole number from 1 on, found -4"),
        ({"rows": 64.0}, "rows: expected a whole number, found 64.0 of type float"),
        ({"batch": "many"}, "batch: expected a whole number, found 'many'"),
        ({"batch": [8, -1]}, "batch: expected a whole number from 0 on, found -1"),
        ({"max_factors": -1}, "max_factors: expected a whole number from 0 on, found -1"),
        ({"dtype": None}, "dtype: expected a NumPy element type or its name, found None"),
        ({"dtype": "float12"}, "dtype: expected float16, .* found float12"),
        ({"budget": "half"}, "budget: expected a share of the parameters, .* found 'half'"),
        ({"budget": (0.1, 0.2, 0.3)}, r"budget: expected a share of the parameters, .* found \(0.1, 0.2, 0.3\)"),
        ({"device": 0}, "device: expected a text, found 0 of type int"),
        ({"objective": None}, "objective: expected a text, found None"),
    ],
)
def test_arguments_of_another_kind_or_size_are_named(wrong, why):
    with pytest.raises((ValueError, TypeError), match=why):
        ks.advise(**{"rows": 64, "cols": 64, "batch": 8, "dtype": "float32", **wrong})


def test_numbers_of_numpy_are_numbers():
    same = ks.advise(np.int64(64), 64, np.int32(8), budget=[0.1, 0.5], max_factors=2)
    assert same == ks.advise(64, 64, 8, budget=(0.1, 0.5), max_factors=2)


def test_a_gpu_that_is_not_there_is_a_runtime_error():
    with pytest.raises(RuntimeError):
        ks.advise(64, 64, 8, device="cuda:99")


def test_the_cpu_s_ceilings_are_measured_once(tmp_path):
    program = """
        import kronsparse as ks
        found = ks.advise(256, 256, [64], dtype="float32", device="cpu", max_factors=2)
        assert "thread" in found.device and found.dense.costs[0].joules is None
        print(found.verdicts[0].sentence)
    """
    environment = {**os.environ, "KRONSPARSE_CACHE": str(tmp_path)}
    both = [
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            env=environment,
            check=True,
            text=True,
            capture_output=True,
            timeout=120,
        ).stdout
        for _ in range(2)
    ]
    assert both[0] == both[1] and "64 vectors" in both[0]
    assert len(list(tmp_path.glob("calibration-*.json"))) == 1


def test_advice_for_a_model():
    torch = pytest.importorskip("torch")
    from kronsparse.torch import advise
    from torch import nn

    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.Linear(256, 1024).half())
    found = advise(model, 2048, budget=0.25, max_factors=2)
    assert list(found) == ["0", "2", "3"] and found["0"] is found["2"]
    assert found["3"].shape == (1024, 256) and found["3"].dtype == "float16" and found["0"].dtype == "float32"
    assert advise(model, 2048, dtype=torch.bfloat16, max_factors=2)["0"].dtype == "bfloat16"
    with pytest.raises(ValueError, match="layer 0: .*13"):
        advise(nn.Sequential(nn.Linear(13, 17)), 8, budget=0.01, low_rank=False)
    with pytest.raises(TypeError, match="model: expected an nn.Module, found list"):
        advise([model], 8)
    with pytest.raises(TypeError, match="dtype: expected one of torch.float16, .* found 'float16'"):
        advise(model, 8, dtype="float16")
    with pytest.raises(TypeError, match="layer 0: dtype: expected one of torch.float16, .* found torch.float8_e5m2"):
        advise(nn.Sequential(nn.Linear(64, 64).to(torch.float8_e5m2)), 8)
    with pytest.raises(TypeError, match="layer 0: budget: expected a share"):
        advise(model, 8, budget="half")
    with pytest.raises(ValueError, match="batch: expected at least one number of vectors, found none"):
        advise(model, [])
