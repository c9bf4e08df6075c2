"""Converting models and healing them: what is replaced, what is kept and why, the table, and that training helps."""

import copy
import math

import pytest

torch = pytest.importorskip("torch")

import kronsparse as ks
from kronsparse.torch import KSLinear, convert, heal, healing, relative_square
from torch import nn


class Block(nn.Module):
    """A small transformer's block with the usual names."""

    def __init__(self, dim=32, tied=None):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, 4, batch_first=True)
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim, bias=False)

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(nn.functional.gelu(self.up(y)))


class Model(nn.Module):
    """Embedding, blocks, a head that shares the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(32, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return {"hidden": x, "logits": self.head(x)}


def test_rules_the_budget_and_what_is_kept():
    model = Model().eval()
    original = copy.deepcopy(model)
    seen = []
    table = convert(
        model,
        {"blocks.0.up": "monarch:8,4", "blocks.?.down": None, "*.out_proj": 0.5},
        budget=0.6,
        progress=lambda done, total, name: seen.append((done, total, name)),
    )
    rows = {row.name: row for row in table}
    assert set(rows) == {
        "blocks.0.attention.out_proj",
        "blocks.0.up",
        "blocks.0.down",
        "blocks.1.attention.out_proj",
        "blocks.1.up",
        "blocks.1.down",
        "head",
    }
    assert [row.name for row in table.converted] == ["blocks.0.up", "blocks.1.up"]
    assert seen == [(0, 2, "blocks.0.up"), (1, 2, "blocks.1.up")]
    assert rows["blocks.0.up"].chain == "(1,8,4,8)(4,8,8,1)"
    assert rows["blocks.0.up"].parameters_before == 2048 and rows["blocks.0.up"].parameters_after == 512
    assert rows["blocks.1.up"].parameters_after <= 0.6 * 2048
    assert rows["blocks.0.down"].reason == "a rule keeps it"
    assert "subclass of nn.Linear" in rows["blocks.0.attention.out_proj"].reason
    assert rows["head"].reason == "its weight is also embedding.weight"
    for name in ("blocks.0.up", "blocks.1.up"):
        layer, linear = model.get_submodule(name), original.get_submodule(name)
        assert isinstance(layer, KSLinear) and not layer.training
        assert torch.equal(layer.bias, linear.bias)
        error = ((layer.to_dense() - linear.weight).norm() / linear.weight.norm()).item()
        assert rows[name].relative_error == pytest.approx(error, rel=1e-4)
    text = str(table)
    assert (
        "2 of 7 layers" in text
        and "(1,8,4,8)(4,8,8,1)" in text
        and "dense: its weight is also embedding.weight" in text
    )
    ids = torch.randint(0, 50, (3, 7))
    assert model(ids)["logits"].shape == (3, 7, 50)


def test_the_best_of_the_budget_is_taken():
    linear = nn.Linear(48, 96)
    chain = ks.Chain.random(ks.monarch(96, 48, 8, 6), rng=None)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(chain.to_dense()))
    model = nn.Sequential(linear)
    candidates = ks.budget_chains(96, 48, 0.4)
    expected = min(ks.factorize(chain.to_dense(), c).relative_error for c in candidates)
    (row,) = convert(model, budget=0.4)
    assert len(candidates) > 2 and row.relative_error == pytest.approx(expected, rel=1e-4)
    without = nn.Sequential(nn.Linear(48, 96))
    convert(without, budget=0.4, low_rank=False)
    assert any(p.a * p.d > 1 for p in without[0].patterns)


def test_fresh_weights():
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64, bias=False, dtype=torch.float64))
    table = convert(model, {"0": "monarch:8,8"}, budget=0.3, fresh=True)
    assert [row.relative_error for row in table] == [None, None]
    assert model[0](torch.randn(500, 64)).var().item() == pytest.approx(1 / 3, rel=0.5)
    assert model[1].bias is None and model[1].factors[0].dtype == torch.float64


def test_conversions_that_cannot_be_leave_the_model_alone():
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 30))
    before = list(model)
    with pytest.raises(ValueError, match="rules or a budget, found neither"):
        convert(model)
    with pytest.raises(ValueError, match="layer 1: .*p = 8 does not divide rows = 30"):
        convert(model, {"*": "monarch:8,8"})
    with pytest.raises(ValueError, match=r"layer 1: expected shape .* = \(30, 32\), found \(32, 32\)"):
        convert(model, {"*": ks.monarch(32, 32, 8, 8)})
    with pytest.raises(ValueError, match=r"found \['layer.\*'\] that match none"):
        convert(model, {"layer.*": "monarch:8,8"})
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        convert(model, budget=2.0)
    with pytest.raises(ValueError, match="use KSLinear.from_linear"):
        convert(nn.Linear(32, 32), budget=0.5)
    assert list(model) == before
    (first, _) = convert(model, budget=0.01)
    assert first.reason == "no chain has at most 0.01 of its parameters" and list(model) == before


def test_healing_helps_and_says_so():
    torch.manual_seed(torch.seed() % 2**31)
    teacher = Model()
    # A trained model's weights have structure; random ones have none to lose, so half of it is taken away.
    student = copy.deepcopy(teacher)
    convert(student, {"blocks.*.up": "monarch:8,4", "blocks.*.down": "monarch:4,8"})
    data = [torch.randint(0, 50, (16, 8)) for _ in range(8)]
    held_out = [torch.randint(0, 50, (16, 8)) for _ in range(2)]
    teacher.train()
    for p in teacher.parameters():
        p.requires_grad_(True)
    calls = []
    before = [p.clone() for p in teacher.parameters()]
    kept = student.embedding.weight.clone()

    def lost():
        with torch.no_grad():
            return sum(relative_square(student(b), teacher.eval()(b)).item() for b in held_out) / 2

    modes = set()

    def forward(model, batch):
        if model is student:
            modes.add(torch.is_grad_enabled())
        return model(batch)

    first = lost()
    teacher.train()
    result = heal(
        student,
        teacher,
        data,
        held_out=held_out,
        layer_steps=60,
        steps=60,
        layer_rate=1e-2,
        rate=3e-3,
        evaluate_every=20,
        forward=forward,
        progress=lambda *state: calls.append(state),
    )
    # Evaluated as it learns: without gradients, weights on a GPU would be packed for it.
    assert modes == {True}
    assert [phase.name for phase in result.phases] == ["layer by layer", "as a whole"]
    for phase in result.phases:
        assert phase.steps == 60 and not phase.stopped_early
        assert phase.history[0][0] == 0 and phase.best < phase.history[0][1]
    assert lost() == pytest.approx(result.phases[1].best, rel=1e-4) and lost() < 0.9 * first
    assert len(calls) == 120 and calls[-1][:3] == ("as a whole", 60, 60)
    assert "layer by layer" in str(result)
    # The teacher is as it was, and so is what was not to be trained.
    assert all(torch.equal(x, y) for x, y in zip(before, teacher.parameters()))
    assert teacher.training is False or all(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    assert torch.equal(kept, student.embedding.weight)


def test_healing_stops_early_and_keeps_the_best():
    teacher = nn.Sequential(nn.Linear(16, 16))
    student = copy.deepcopy(teacher)
    convert(student, {"0": "(1,16,16,1)"})
    data, held_out = [torch.randn(8, 16)], [torch.randn(8, 16)]
    weights = [p.detach().clone() for p in student.parameters()]
    # Exact already: nothing can be gained.
    result = heal(
        student,
        teacher,
        data,
        held_out=held_out,
        layer_steps=0,
        steps=500,
        evaluate_every=5,
        patience=2,
        progress=False,
    )
    (phase,) = result.phases
    assert phase.stopped_early and phase.steps <= 20
    assert all(torch.equal(x, y) for x, y in zip(weights, student.parameters()))


def test_a_slow_but_steady_gain_is_no_reason_to_stop():
    teacher = nn.Sequential(nn.Linear(4, 4))
    student = copy.deepcopy(teacher)
    convert(student, {"0": "(1,4,4,1)"})
    # Half a per cent less at each evaluation: never one per cent from one to the next, but within two.
    calls = []

    def loss(found, _):
        calls.append(1)
        return 0.995 ** (len(calls) // 2) + 0 * found.sum()

    (phase,) = heal(
        student,
        teacher,
        [torch.randn(2, 4)],
        layer_steps=0,
        steps=30,
        loss=loss,
        evaluate_every=2,
        patience=3,
        progress=False,
    ).phases
    assert phase.steps == 30 and not phase.stopped_early and phase.best < 0.95


def test_healing_ends_in_time_with_the_rate_at_zero(monkeypatch):
    teacher = nn.Sequential(nn.Linear(16, 16))
    student = copy.deepcopy(teacher)
    convert(student, {"0": "monarch:4,4"})
    # A clock of which each look takes a second.
    clock = iter(range(10**6))
    monkeypatch.setattr(healing.time, "perf_counter", lambda: float(next(clock)))
    rates = []

    class Adam(torch.optim.Adam):
        def step(self, *arguments):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*arguments)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    names = []
    (phase,) = heal(
        student,
        teacher,
        [torch.randn(8, 16)],
        layer_steps=0,
        steps=10**6,
        seconds=400,
        rate=1e-2,
        evaluate_every=10**6,
        parameters="0.factors.?",
        progress=lambda *state: names.append(state[0]),
    ).phases
    # Up within a hundred steps, as far as the clock allows, then down to nothing within the seconds.
    assert phase.steps == len(rates) == len(names) == 400 and not phase.stopped_early
    peak = rates.index(max(rates))
    assert rates[0] == pytest.approx(1e-4, rel=1e-3) and 80 <= peak < 100 and 8e-3 < rates[peak] < 1e-2
    assert all(x <= y for x, y in zip(rates[:peak], rates[1 : peak + 1]))
    assert all(x >= y for x, y in zip(rates[peak:], rates[peak + 1 :])) and rates[-1] == 0
    # The bias was not among those that were named.
    assert torch.equal(student[0].bias, teacher[0].bias)
    assert phase.history[-1][0] == 400


def test_healing_refuses_what_it_cannot_do():
    teacher = nn.Sequential(nn.Linear(16, 16))
    student = copy.deepcopy(teacher)
    with pytest.raises(ValueError, match="at least one KSLinear, found none"):
        heal(student, teacher, [torch.randn(2, 16)])
    convert(student, {"0": "monarch:4,4"})
    with pytest.raises(ValueError, match="expected batches, found none"):
        heal(student, teacher, [], progress=False)
    with pytest.raises(ValueError, match="expected 'chains' or names of parameters, found 'some.*', which names none"):
        heal(student, teacher, [torch.randn(2, 16)], parameters="some.*")
    with pytest.raises(ValueError, match="seconds: expected a positive number, found 0"):
        heal(student, teacher, [torch.randn(2, 16)], seconds=0)
    with pytest.raises(RuntimeError, match="the loss at step 1 is nan"):
        heal(student, teacher, [torch.full((2, 16), math.nan)], progress=False)
    with pytest.raises(TypeError, match="give a loss of your own"):
        relative_square(torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_pytorch_s_own_encoders_call_their_chains(activation):
    # In evaluation they have a shortcut that reads weights instead of calling layers.
    layer = nn.TransformerEncoderLayer(32, 4, 64, activation=activation, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    convert(model, budget=0.5)
    layers = [module for module in model.modules() if isinstance(module, KSLinear)]
    assert len(layers) == 4
    x = torch.randn(3, 5, 32)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])
    twin = copy.deepcopy(model).train()  # without the shortcut in any case
    for module in twin.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for module in twin.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    calls = []
    for module in layers:
        module.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        for mask in (None, padding):
            found, expected = model(x, src_key_padding_mask=mask), twin(x, src_key_padding_mask=mask)
            kept = ~padding if mask is not None else torch.ones(3, 5, dtype=torch.bool)
            assert torch.allclose(found[kept], expected[kept], atol=1e-5)
    assert len(calls) == 8
