# Fits plan/gpu/lanes_mma/cost.rs: python lanes_mma.py
import numpy as np
from common import calls, run

found = calls("kernels.tsv", "lanes_mma")


def column(name):
    return np.array([getattr(call, name) for call in found])


names = "a b d n size memory cache shared tensor issue chunks stages rounds per threads rows lanes outs depth xv sv".split()
v = {name: column(name).astype(float) for name in names}
last, kind = column("layout") == "bsl", column("kind")
f32, tf32 = column("dtype") == "f32", column("dtype") == "tf32"
loads = v["rows"] * v["lanes"] * v["chunks"] * v["depth"] * v["size"] / (v["xv"] * v["threads"])
share = [v[size] / (np.ceil(v[size] / v[tile]) * v[tile]) for size, tile in (("b", "outs"), ("d", "lanes"))]
stores = v["rows"] * v["lanes"] * v["outs"] * v["size"] * share[0] * share[1] / (v["sv"] * v["threads"])
parts = [v[name] for name in ("memory", "cache", "shared", "tensor", "issue")]
largest = np.maximum.reduce(parts)
modelled = largest + 0.1 * (sum(parts) - largest)
narrow = np.where((kind == "Whole") & (v["d"] == 1) & (v["sv"] < 16), v["n"] * v["a"] * v["b"] * v["size"] / (v["sv"] * 115e9), 0)


def model(p):
    lanes = ~last & (v["d"] > 1)
    correction = np.select([f32 & lanes, (f32 | tf32) & last, f32 | tf32, lanes, last], [p["f32 lanes"], p["f32 last"], p["f32"], p["lanes"], p["last"]], p["one"])

    def piece(width, what):
        return np.select([width == 2, width == 4, width == 8], [p[f"{what} 2"], p[f"{what} 4"], p[f"{what} 8"]], 0.0)

    alone = v["rounds"] * (piece(v["xv"], "load") * loads + piece(v["sv"], "store") * stores) * 1e-6
    instructions = piece(v["xv"], "load instructions") * loads + piece(v["sv"], "store instructions") * stores
    together = v["rounds"] * v["per"] * v["threads"] / 32 * instructions / (4 * 1.755e9)
    busy = np.maximum(correction * modelled + np.hypot(alone, together), narrow)
    return 2 + p["launch"] + p["stage"] * np.minimum(v["chunks"] / (v["stages"] - 1), 4) + 1e6 * busy


start = {"f32 lanes": 2.5, "f32 last": 1.5, "f32": 1.5, "lanes": 1.2, "last": 1.1, "one": 1.1, "launch": 1.6, "stage": 0.7}
start |= {"load 2": 0.08, "load 4": 0.02, "load 8": 0.01, "load instructions 2": 20, "load instructions 4": 8, "load instructions 8": 4}
start |= {"store 2": 0.1, "store 4": 0.08, "store 8": 0.02, "store instructions 2": 40, "store instructions 4": 30, "store instructions 8": 10}
run(model, found, start, 2 / 3, [("batch-first", ~last), ("batch-last", last)])
