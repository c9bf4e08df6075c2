"""The example of a sentence encoder, run on a small model of the same shape with fresh weights."""

import csv
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
    for name in ("bert", "minilm", "measuring", "texts"):
        sys.modules.pop(name, None)


def write_safetensors(path, state):
    header, data = {}, b""
    for name, tensor in state.items():
        raw = tensor.contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def test_the_example_heals_a_small_model(example, tmp_path, capsys, monkeypatch):
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
    options = (
        "--budgets 0.5 --sentences 60 --held-out 40 --batch 16 --layer-steps 15 --steps 15 --length 16 --rate 3e-3"
    )
    options = [
        *options.split(),
        "--table",
        "--sources",
        "topics",
        "--apart",
        "json",
        "--out",
        str(tmp_path / "curve.csv"),
    ]
    (row,) = minilm.main([str(wheel), *options, "--saved", str(tmp_path)])
    before, after = row["similarity_before"], row["similarity_after"]
    assert row["budget"] == 0.5 and -1 <= before <= 1 and 0.4 < row["parameters_kept"] <= 0.5
    # A tenth of what was lost, at least, is won back.
    assert 1 - after < 0.9 * (1 - before)
    # Whole batches are measured.
    assert (row["learnt_from"], row["held_out"], row["apart"], row["steps"]) == (60, 32, 32, 15)
    assert "12 of 12 layers" in capsys.readouterr().out
    (written,) = csv.DictReader((tmp_path / "curve.csv").open())
    assert float(written["similarity_after"]) == after and written["ms_f16"] == ""
    # What was saved is what was measured, and is not healed again.
    monkeypatch.setattr(minilm, "healed", None)
    (again,) = minilm.main([str(wheel), *options, "--saved", str(tmp_path)])
    assert again["similarity_after"] == pytest.approx(after, abs=1e-6) and again["seconds"] == row["seconds"]


def test_batches_are_all_sentences_with_little_padding(example):
    _, minilm = example
    tokens = torch.zeros(50, 12, dtype=torch.int64)
    for row in range(50):
        tokens[row, : 1 + row % 12] = row + 1
    data = minilm.Batches(tokens, 4, "cpu")
    first, second = list(data), list(data)
    for found in (first, second):
        assert sorted(batch[at, 0].item() for batch in found for at in range(len(batch))) == list(range(1, 51))
        assert all((batch != 0).any(0).all() for batch in found)
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in second]
    assert sum(batch.numel() for batch in first) < 0.75 * tokens.numel()


def test_nothing_that_is_held_out_is_learnt(example):
    import texts

    code = "Here x = [1, 2, 3] + (4, 5) ** {6: 7} - 8 / 9."
    assert list(texts.sentences(f"No. {code} This sentence is long enough,\n  and of words. ")) == [
        "This sentence is long enough, and of words."
    ]
    documents = {
        f"document {number}": [f"Sentence {at} of document {letter} is here." for at in range(3)] + ["It is the same."]
        for number, letter in enumerate("abcdefghijklmnop")
    }
    learnt, held_out = texts.split(documents, 5, seed=3)
    known, apart = {texts.plain(s) for s in learnt}, {texts.plain(s) for s in held_out}
    assert len(apart) == len(held_out) == 5 and not known & apart
    # Three sentences of a document differ by a digit, and so are one; what all documents say is said once.
    assert len(known) == len(learnt) <= 17 - 5
    owners = [{name for name, found in documents.items() if s in found} for s in held_out if "same" not in s]
    assert all(len(owner) == 1 for owner in owners)
    with pytest.raises(SystemExit, match="expected more than 18 different sentences"):
        texts.split(documents, 18)
    found = texts.documents(["topics", "json"])
    assert "topics/lambda" in found and "json/decoder.py" in found and all(found.values())
    with pytest.raises(SystemExit, match="names of installed packages"):
        texts.documents(["no_such_package"])
