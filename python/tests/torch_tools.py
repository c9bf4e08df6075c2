"""What the PyTorch tests share: a reference by PyTorch's own operations, tolerances, and the count of packings."""

from __future__ import annotations

import kronsparse as ks
import pytest
import torch
from chains import CHAINS
from kronsparse.torch import KSLinear, _packing
from torch import Tensor

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def dense(weights: list[Tensor]) -> Tensor:
    """The product in float64, from the definition: every factor as a dense matrix, differentiable."""
    wide = torch.complex128 if weights[0].is_complex() else torch.float64
    product = None
    for w in weights:
        a, b, c, d = w.shape
        blocks = torch.diag_embed(w.to(wide)).permute(0, 1, 3, 2, 4).reshape(a, b * d, c * d)
        factor = torch.block_diag(*blocks)
        product = factor if product is None else product @ factor
    return product


def close(found: Tensor, expected: Tensor, layer: KSLinear) -> None:
    """The project's error measure and tolerance. The bias is one more term: where it takes away what the product
    gives, the error of the product stays, so that it is compared with the size of both."""
    name = str(found.dtype).removeprefix("torch.")
    assert found.shape == expected.shape
    tolerance = 2 * ks.tolerance(name, layer.patterns)
    wide = expected.dtype
    error = torch.linalg.vector_norm(found.detach().to("cpu", wide) - expected.detach().cpu())
    size = torch.linalg.vector_norm(expected.detach().cpu())
    if layer.bias is not None:
        size = size + torch.linalg.vector_norm(layer.bias.detach().to("cpu", wide).expand_as(expected))
    assert error <= tolerance * size, f"{error} in {found.dtype}"


def layer_of(name: str = "monarch", **options) -> KSLinear:
    """A fresh layer with one of the tests' chains."""
    patterns = ks.check_chain(CHAINS[name])
    return KSLinear(patterns[-1].cols, patterns[0].rows, patterns, **options)


@pytest.fixture
def packings(monkeypatch):
    """A list that grows by one with each packing for the CPU."""
    count = []
    real = _packing.pack_at

    def counting(*arguments):
        count.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(_packing, "pack_at", counting)
    return count
