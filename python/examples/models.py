"""Three models in plain PyTorch, with random weights, and the chains that take the place of their linear layers.

``RECIPES`` gives a chain for each size of layer: (in_features, out_features) to factors, left to right. The models know
nothing of it: ``sparsify`` replaces the layers that it names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from kronsparse.torch import KSLinear, Table, convert
from torch import Tensor, nn
from torch.nn import functional as F

RECIPES = {
    (384, 384): "(1,192,48,2)(2,48,192,1)",
    (384, 1536): "(1,768,192,2)(6,64,64,1)",
    (1536, 384): "(1,128,128,3)(6,64,256,1)",
    (1024, 1024): "(1,256,64,4)(4,64,256,1)",
    (1024, 4096): "(1,1024,64,4)(4,64,256,1)",
    (4096, 1024): "(1,256,64,4)(4,64,1024,1)",
    (4096, 14336): "(1,224,64,64)(64,64,64,1)",
    (14336, 4096): "(1,64,64,64)(64,64,224,1)",
    # Of the tiny models.
    (48, 48): "(1,24,12,2)(2,12,24,1)",
    (48, 192): "(1,96,24,2)(6,8,8,1)",
    (192, 48): "(1,16,16,3)(6,8,32,1)",
    (64, 224): "(1,28,8,8)(8,8,8,1)",
    (224, 64): "(1,8,8,8)(8,8,28,1)",
}


class Attention(nn.Module):
    """Heads with a layer each for queries, keys, values and the output."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        split = [
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        ]
        y = F.scaled_dot_product_attention(*split, is_causal=self.causal)
        return self.output(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A transformer's block, normalised before each part."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.before_attention, self.attention = nn.LayerNorm(width), Attention(width, heads, causal)
        self.before_mlp = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before_attention(x))
        return x + self.down(F.gelu(self.up(self.before_mlp(x))))


class VisionTransformer(nn.Module):
    """Images (batch, 3, size, size) to a thousand classes; patches of 16 × 16, averaged at the end."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patches = nn.Linear(3 * 16 * 16, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, images: Tensor) -> Tensor:
        # (batch, 3, rows, 16, columns, 16) to (batch, rows · columns, 3 · 16 · 16).
        parts = images.unflatten(2, (-1, 16)).unflatten(4, (-1, 16))
        patches = parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return self.head(self.norm(self.blocks(self.patches(patches))).mean(1))


class LanguageModel(nn.Module):
    """Token numbers (batch, length) to the logits of the next token; input and output share the embedding."""

    def __init__(self, width: int, depth: int, heads: int, tokens: int, length: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.tokens(numbers) + self.places.weight[: numbers.shape[1]]
        return F.linear(self.norm(self.blocks(x))[:, -1], self.tokens.weight)


class GatedMLP(nn.Module):
    """The part of a Llama block that has most of its parameters."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


@dataclass(frozen=True)
class Case:
    """A model and an input to time it with."""

    model: str
    name: str
    make: Callable[[], nn.Module]
    #: The input for a dtype, on the default device.
    data: Callable[[torch.dtype], Tensor]


def cases(tiny: bool = False) -> list[Case]:
    """All cases; ``tiny`` ones take milliseconds on a CPU."""
    width, depth, heads, batch, size = (48, 2, 3, 2, 64) if tiny else (384, 12, 6, 128, 224)
    found = [
        Case(
            "vit_s16",
            f"batch {batch}",
            lambda: VisionTransformer(width, depth, heads),
            lambda dtype: torch.randn(batch, 3, size, size, dtype=dtype),
        )
    ]
    wide, deep, many, tokens, texts, length = (48, 2, 3, 100, 2, 16) if tiny else (1024, 24, 16, 50257, 8, 1024)
    found.append(
        Case(
            "gpt2_medium",
            f"{texts} x {length} tokens",
            lambda: LanguageModel(wide, deep, many, tokens, length),
            lambda _: torch.randint(0, tokens, (texts, length)),
        )
    )
    outer, hidden = (64, 224) if tiny else (4096, 14336)
    for n in (1, 5) if tiny else (1, 32, 2048):
        found.append(
            Case(
                "llama_mlp",
                f"{n} tokens",
                lambda: GatedMLP(outer, hidden),
                lambda dtype, n=n: torch.randn(n, outer, dtype=dtype),
            )
        )
    return found


def sparsify(model: nn.Module) -> Table:
    """Replaces the linear layers of blocks, in place, by chains with fresh weights; what comes before and after the
    blocks stays."""
    rules = {
        name: RECIPES[module.in_features, module.out_features]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in ("patches", "head")
    }
    return convert(model, rules, fresh=True)


def dense_twin(model: nn.Module) -> nn.Module:
    """A copy whose ``KSLinear`` layers are dense again, with the matrices of the chains: to check results."""
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if isinstance(module, KSLinear):
            weight = module.to_dense()
            linear = nn.Linear(
                module.in_features, module.out_features, module.bias is not None, weight.device, weight.dtype
            )
            with torch.no_grad():
                linear.weight.copy_(weight)
                if module.bias is not None:
                    linear.bias.copy_(module.bias)
            parent, _, child = name.rpartition(".")
            setattr(twin.get_submodule(parent), child, linear)
    return twin
