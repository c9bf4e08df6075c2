# Reads the calls of one factor that estimates are fitted to, searches for constants and prints quantiles of measured over estimated times.
#
# kernels.tsv and libraries.tsv: where from, a, b, c, d, type, layout, n, way, seconds measured; for kernels what the plan's cost model
# computes of the tile. They are the cold calls of one factor in the records up to this one whose tile is still offered.
import pathlib

import numpy as np

SIZES = {"f16": 2, "bf16": 2, "f32": 4, "tf32": 4, "f64": 8}


class Call:
    def __init__(self, line):
        fields = line.rstrip("\n").split("\t")
        self.source, self.dtype, self.layout, self.way = fields[0], fields[5], fields[6], fields[8]
        self.a, self.b, self.c, self.d = map(int, fields[1:5])
        self.n, self.us, self.size = int(fields[7]), float(fields[9]) * 1e6, SIZES[self.dtype]
        self.random = self.source.startswith("validate")
        # Calls of one problem are fitted, or judged, together.
        self.problem = int(self.source[8:]) if self.random else hash((self.a, self.b, self.c, self.d)) % 1000
        for field in fields[10:]:
            name, value = field.split("=", 1)
            try:
                setattr(self, name, float(value))
            except ValueError:
                setattr(self, name, value)


def calls(file, *ways):
    path = pathlib.Path(__file__).parent / file
    return [call for call in map(Call, path.open()) if call.way in ways]


def weights(random, random_share):
    return np.where(random, random_share / max(random.sum(), 1), (1 - random_share) / max((~random).sum(), 1))


def fit(model, measured, start, weight, mask, steps, seed=0, pull=0.005):
    """Constants with the least mean |log(estimate / measured)|, more where that is above 0.2, pulled a little to where the search starts."""

    def loss(constants):
        off = np.minimum(np.abs(np.log(model(constants) / measured)), 1.2)
        far = sum(np.log(constants[name] / start[name]) ** 2 for name in constants)
        return np.sum((weight * (off + 2 * np.maximum(off - 0.2, 0)))[mask]) / weight[mask].sum() + pull * far

    rng, best, scale = np.random.default_rng(seed), dict(start), 0.35
    least = loss(best)
    for step in range(steps):
        trial = dict(best)
        for name in rng.choice(list(trial), rng.integers(1, 4), replace=False):
            trial[name] *= np.exp(scale * rng.normal())
        now = loss(trial)
        if now < least:
            least, best = now, trial
        if step % (steps // 5) == steps // 5 - 1:
            scale *= 0.6
    return best


def report(name, measured, estimated):
    if len(measured) == 0:
        return
    ratio = np.sort(measured / estimated)
    at = [ratio[int(round(share * (len(ratio) - 1)))] for share in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)]
    within = np.mean((ratio > 0.8) & (ratio < 4 / 3))
    print(f"{name}: {len(ratio)} calls, measured over estimated {' '.join(f'{x:.2f}' for x in at)}, within a quarter {within:.1%}")


def run(model, found, start, random_share, groups, steps=8000):
    measured, random = np.array([call.us for call in found]), np.array([call.random for call in found])
    problem, weight = np.array([call.problem for call in found]), weights(random, random_share)
    held_out = np.zeros(len(found))
    for part in range(4):
        constants = fit(model, measured, start, weight, problem % 4 != part, steps // 2, part)
        held_out[problem % 4 == part] = model(constants)[problem % 4 == part]
    constants = fit(model, measured, start, weight, np.ones(len(found), bool), steps)
    for name, estimated in (("held out", held_out), ("fitted", model(constants))):
        for group, of_group in groups:
            for kind, mask in (("random", of_group & random), ("well-known", of_group & ~random)):
                report(f"{name}, {group}, {kind}", measured[mask], estimated[mask])
    print({name: round(float(value), 4) for name, value in constants.items()})
