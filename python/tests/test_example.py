"""The example of a sentence encoder, run on a small model of the same shape with fresh weights."""

import json
import sys
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import bert
    import minilm

    yield bert, minilm
    for name in ("bert", "minilm"):
        sys.modules.pop(name)


def write_safetensors(path, state):
    header, data = {}, b""
    for name, tensor in state.items():
        raw = tensor.contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_the_example_heals_a_small_model(example, tmp_path, capsys):
    bert, minilm = example
    torch.manual_seed(torch.seed() % 2**31)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "the", "of", "##s", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    config = {
        "hidden_size": 32,
        "vocab_size": len(words),
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    model = bert.Encoder(config)
    write_safetensors(tmp_path / "model.safetensors", model.state_dict())
    loaded = bert.load(tmp_path)
    tokens = bert.Tokenizer(tmp_path / "vocab.txt", 12)(["The cats.", "Éa", "of ☃"])
    assert tokens[0].tolist()[:4] == [2, 5, words.index("c"), words.index("##a")] and tokens[0, -1] == 3
    assert tokens[1].tolist()[:4] == [2, words.index("e"), words.index("##a"), 3]
    assert tokens[2].tolist()[:4] == [2, 6, 1, 3]
    with torch.no_grad():
        assert torch.equal(loaded(tokens), model.eval()(tokens))
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in ("config.json", "vocab.txt", "model.safetensors"):
            archive.write(tmp_path / file, f"package/model/{file}")
        archive.writestr("package/model/1_Pooling/config.json", "{}")
    options = "--budgets 0.5 --sentences 60 --layer-steps 15 --steps 15 --length 16 --rate 3e-3 --table".split()
    ((budget, before, after),) = minilm.main([str(wheel), *options])
    assert budget == 0.5 and -1 <= before <= 1
    # A tenth of what was lost, at least, is won back.
    assert 1 - after < 0.9 * (1 - before)
    assert "12 of 12 layers" in capsys.readouterr().out
