# Fits plan/gpu/libraries.rs: python libraries.py
import numpy as np
from common import calls, run

found = [call for call in calls("libraries.tsv", "dense", "strided", "permute-bmm") if not any(x in call.source for x in ("small", "decode"))]
A, B, C, D, N, S = (np.array([getattr(call, name) for call in found], float) for name in "a b c d n size".split())
way, last, dtype = (np.array([getattr(call, name) for call in found]) for name in ("way", "layout", "dtype"))
last, dense, strided, permuted = last == "bsl", way == "dense", way == "strided", way == "permute-bmm"
half, tf32, wide = np.isin(dtype, ["f16", "bf16"]), dtype == "tf32", np.isin(dtype, ["f32", "f64"])
SM, CLOCK, BANDWIDTH, CACHE = 132, 1.755e9, 3.35e12, 50 << 20
batch, b, c = np.where(dense, 1, A * D), np.where(dense, A * B * D, B), np.where(dense, A * C * D, C)
x, y, w = N * A * C * D * S, N * A * B * D * S, np.where(dense, (A * D) ** 2, A * D) * B * C * S
moves = (D > 1) & ((B > 1) | (C > 1))
peak = 2 * SM * CLOCK * np.select([wide, tf32], [128.0, 1024.0], 2048.0)


def piece(size):
    size, found = size.astype(np.int64), np.full(len(size), 16)
    for width in (8, 4, 2):
        found = np.where(size % (2 * width) != 0, width, found)
    return found


begins = np.where(last, piece(N * S), np.minimum(piece(b * S), piece(c * S)))
both = np.where(last, np.minimum(begins, piece(c * S)), begins)


def up(size, tile):
    return np.ceil(size / tile) * tile


def model(p):
    rate = peak * np.select([wide, dense & (A * D > 1)], [p["wide"], p["zeros"]], p["half"])

    def rounds(vectors, outputs, terms):
        tiles = batch * np.ceil(N / vectors) * np.ceil(b / outputs) * (np.ceil(c / terms) if terms else 1)
        return np.ceil(tiles / SM) * 2 * vectors * outputs * (np.minimum(up(c, 16), terms) if terms else up(c, 16)) / (rate / SM)

    of_wide = np.minimum(rounds(128, 64, 0), rounds(32, 32, 256) / p["small reach"])
    of_half = np.maximum(2 * batch * up(N, 16) * up(b, 64) * up(c, 16) / rate, p["few"] * rounds(64, 64, 512))
    arithmetic = np.where(N == 1, 0, np.where(wide, of_wide, of_half))
    slower, memory = np.ones(len(N)), np.ones(len(N))
    for width in (2, 4, 8):
        for kind, name in ((half, "half"), (tf32, "tf32")):
            slower = np.where(kind & (both == width), p[f"{name} {width}"], slower)
            memory = np.where(kind & (begins == width), p[f"{name} memory {width}"], memory)
    slower, memory = (np.where(wide & (begins < 16), p[name], of) for name, of in (("wide unaligned", slower), ("wide memory", memory)))
    fixed = p["product"] * 1e-6 + p["term"] * 1e-9 * np.minimum(c, p["terms"]) + np.where(dense & (begins < 16), p["dense"] * 1e-6, 0)

    def product(moved):
        return fixed + np.hypot(slower * arithmetic, memory * moved / (BANDWIDTH * p["streamed"]))

    def permutation(rows, columns, moved, cached):
        width = np.where(last, piece(N * S), np.minimum(piece(rows * S), piece(columns * S)))
        reach = p["permuted"] * np.select([width >= 8, width >= 4], [1, p["narrow 4"]], p["narrow 2"])
        seconds = np.hypot(p["permutation"] * 1e-6, 1.3e-6 + moved * (1 + 1 / cached) / (BANDWIDTH * reach))
        return np.where((rows == 1) | (columns == 1), 0, seconds)

    while_cached = np.where(2 * (x + y + w) < CACHE, 2.1, 1.0)
    cached = np.where(moves, while_cached, 1.0)
    by_permuting = permutation(C, D, x, 1.0) + product(x / cached + y + w) + permutation(D, B, y, cached)
    table = np.where(strided & (np.minimum(A, D) > 1), p["table"] * 1e-6, 0)
    return 2 + 1e6 * np.where(permuted, by_permuting, product(x + y + w) + table)


start = {"wide": 0.83, "half": 0.8, "zeros": 0.99, "small reach": 0.5, "few": 0.8, "half 2": 6, "half 4": 4.5, "half 8": 3.5}
start |= {"half memory 2": 2.3, "half memory 4": 2.3, "half memory 8": 1.8, "tf32 2": 2, "tf32 4": 3, "tf32 8": 1.4, "tf32 memory 2": 2}
start |= {"tf32 memory 4": 1.1, "tf32 memory 8": 1.3, "wide memory": 1.3, "wide unaligned": 1.1, "term": 2, "terms": 1000, "product": 3.4}
start |= {"dense": 1.5, "streamed": 0.75, "permuted": 0.93, "narrow 4": 0.82, "narrow 2": 0.61, "permutation": 3.0, "table": 2.2}
run(model, found, start, 1 / 2, [("dense", dense), ("strided", strided), ("permute-bmm", permuted)], 4000)
