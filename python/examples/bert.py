"""A BERT encoder for sentence embeddings in plain PyTorch, its WordPiece tokenizer, and its weights from a safetensors
file.

Just what all-MiniLM-L6-v2 needs, with the names of its checkpoint, so that the example depends on PyTorch alone.
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Self-attention; the names follow the checkpoint."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = lambda name: self.self[name](x).view(batch, length, self.heads, -1).transpose(1, 2)  # noqa: E731
        y = F.scaled_dot_product_attention(split("query"), split("key"), split("value"), attn_mask=mask)
        y = self.output["dense"](y.transpose(1, 2).reshape(batch, length, width))
        return self.output["LayerNorm"](x + y)


class Layer(nn.Module):
    """Attention and the two dense layers after it."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(hidden, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention(x, mask)
        y = self.output["dense"](F.gelu(self.intermediate["dense"](x)))
        return self.output["LayerNorm"](x + y)


class Encoder(nn.Module):
    """Token numbers ``(batch, length)``, zero for padding, to unit vectors ``(batch, width)``: means over tokens."""

    def __init__(self, config: dict[str, int]) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config["vocab_size"], width),
                "position_embeddings": nn.Embedding(config["max_position_embeddings"], width),
                "token_type_embeddings": nn.Embedding(config["type_vocab_size"], width),
                "LayerNorm": nn.LayerNorm(width, eps=1e-12),
            }
        )
        layers = [
            Layer(width, config["num_attention_heads"], config["intermediate_size"])
            for _ in range(config["num_hidden_layers"])
        ]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})

    def forward(self, tokens: Tensor) -> Tensor:
        return self.states(tokens)[0]

    def states(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The unit vectors, and what each layer puts out, ``(batch, length, width)``, with zeros for padding."""
        known = tokens != 0
        e = self.embeddings
        x = e["word_embeddings"](tokens) + e["position_embeddings"].weight[: tokens.shape[1]]
        x = e["LayerNorm"](x + e["token_type_embeddings"].weight[0])
        weights = known.unsqueeze(-1).to(x.dtype)
        hidden = []
        for layer in self.encoder["layer"]:
            x = layer(x, known[:, None, None, :])
            hidden.append(x * weights)
        return F.normalize(hidden[-1].sum(1) / weights.sum(1), dim=-1), hidden


def load(folder: Path) -> Encoder:
    """The encoder of a model's folder: ``config.json`` and ``model.safetensors``."""
    model = Encoder(json.loads((folder / "config.json").read_text()))
    state = read_safetensors(folder / "model.safetensors")
    # The checkpoint has a pooler, which sentence embeddings do not use, and a table of positions.
    wanted = {name: state[name] for name in model.state_dict()}
    model.load_state_dict(wanted)
    return model.eval()


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file: eight bytes of length, a JSON header, numbers. F16, F32 and I64 are read."""
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    kinds = {"F16": torch.float16, "F32": torch.float32, "I64": torch.int64}
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = (start + offset for offset in entry["data_offsets"])
            flat = torch.frombuffer(data[first:last], dtype=kinds[entry["dtype"]])
            tensors[name] = flat.reshape(entry["shape"])
    return tensors


class Tokenizer:
    """WordPiece in lower case without accents, as the checkpoint was trained with."""

    def __init__(self, vocabulary: Path, longest: int = 64) -> None:
        words = vocabulary.read_text(encoding="utf-8").splitlines()
        self.numbers = {word: number for number, word in enumerate(words)}
        self.longest = longest
        self.known: dict[str, list[int]] = {}

    def __call__(self, sentences: list[str]) -> Tensor:
        """Token numbers, padded with zeros (``[PAD]``) to the longest sentence."""
        rows = [self._row(sentence) for sentence in sentences]
        length = max(map(len, rows))
        return torch.tensor([row + [0] * (length - len(row)) for row in rows])

    def _row(self, sentence: str) -> list[int]:
        pieces = [piece for word in self._words(sentence) for piece in self._remembered(word)]
        return [self.numbers["[CLS]"], *pieces[: self.longest - 2], self.numbers["[SEP]"]]

    def _words(self, sentence: str) -> list[str]:
        plain = unicodedata.normalize("NFD", sentence.lower())
        spaced = []
        for letter in plain:
            kind = unicodedata.category(letter)
            if kind == "Mn":
                continue
            apart = kind.startswith("P") or (letter.isascii() and not letter.isalnum() and not letter.isspace())
            spaced.append(f" {letter} " if apart else letter)
        return "".join(spaced).split()

    def _remembered(self, word: str) -> list[int]:
        if word not in self.known:
            self.known[word] = self._pieces(word)
        return self.known[word]

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                number = self.numbers.get(prefix + word[start:end])
                if number is not None:
                    found.append(number)
                    start = end
                    break
            else:
                return [self.numbers["[UNK]"]]
        return found
