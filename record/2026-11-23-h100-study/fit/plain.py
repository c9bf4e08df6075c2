# Fits plan/gpu/plain/cost.rs: python plain.py
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
# The search, and what is printed of it, are those of the first fit.
sys.path.insert(0, str(HERE.parents[1] / "2026-11-23-h100-training" / "fit"))
from common import calls, report, run

found = calls(HERE / "plain.tsv", "plain")


def column(name):
    return np.array([getattr(call, name) for call in found], float)


A, B, C, D, N, S, L, O, V, depth, to, tv, tiles, threads = map(column, "a b c d n size lanes outs vectors depth to tv tiles threads".split())
first, f64 = np.array([call.layout == "bsf" for call in found]), S == 8
SM, F32, BANDWIDTH = 132, 2 * 128 * 132 * 1.755e9, 3.35e12


def first_run(tile, size):
    return np.where(L < D, L, np.where(tile >= size, size * L, tile * D))


in_run, out_run = (np.where(first, first_run(*sizes), np.minimum(V, N)) for sizes in ((depth, C), (O, B)))
weight_run = np.minimum(O, B) * L * np.where(O >= B, np.minimum(depth, C), 1)


def sectors(elements):
    return np.maximum(elements * S / 32, 1)


def lines(run):
    return np.clip(32 / run, 1, 32)


of_lanes = np.where(L <= D, sectors(L), np.minimum(np.minimum(L, np.ceil(L / D) * sectors(D)), sectors(L * B)))
store_lines = np.where(first, np.minimum(32 / L * of_lanes, 32), S * np.where(V / tv >= 32, 1, 1.5))


def model(p):
    converted = np.where(S == 2, p["converted"], np.where(f64, p["wide"], 1))
    inputs = L * V / threads * converted * p["input"] * (8 + 4 * lines(in_run))
    weights = L * O / threads * np.where(f64, p["wide"], 1) * p["weight"] * (8 + 4 * lines(weight_run))
    multiply = p["multiply"] * np.maximum(to * tv * np.where(f64, p["f64"], 1), p["operand"] * np.maximum(S, 4) / 4 * (to + tv))
    cycles = multiply + inputs + weights + p["stage cycles"] / depth
    stored = converted * p["store"] * to * tv * (4 + store_lines)
    turns = np.ceil(tiles / SM)
    active = np.minimum(turns, np.clip(1024 / threads, 1, 8)) * threads
    waits = np.maximum(p["threads"] / active, 1) ** p["missing"]
    arithmetic = turns * threads * (np.ceil(C / depth) * depth * cycles + stored) * 2 * SM / F32 * waits

    def slowdown(run):
        return 1 + np.minimum((p["run"] / (run * S)) ** 1.5, 16)

    moved = tiles * S * (V * L * C * slowdown(in_run) + O * L * C * slowdown(weight_run) + V * L * O * slowdown(out_run))
    once = S * (N * A * D * (B + C) + A * B * C * D) * slowdown(np.minimum(in_run, out_run))
    traffic = p["traffic"] * (once + p["again"] * np.maximum(moved - once, 0)) / BANDWIDTH
    return 2 + p["launch"] + p["stage"] * np.ceil(C / depth) + 1e6 * (np.maximum(arithmetic, traffic) + np.minimum(p["unhidden"], 1) * np.minimum(arithmetic, traffic))


start = {"f64": 4, "operand": 2.55 / 0.85, "multiply": 0.85, "input": 1.55, "weight": 1, "stage cycles": 45, "store": 0.75, "threads": 512, "missing": 0.8}
start |= {"run": 10, "traffic": 1.2, "again": 0.7, "launch": 1.3, "stage": 0.5, "unhidden": 0.75, "converted": 1.2, "wide": 1}
start_code = {**start, "converted": 4.0}
us = np.array([call.us for call in found])
for name, mask in (("16 bits", S == 2), ("f32", S == 4), ("f64", f64)):
    report("as it is, " + name, us[mask], model(start_code)[mask])
run(model, found, start, 0.9, [("16 bits", S == 2), ("f32", S == 4), ("f64", f64)])
