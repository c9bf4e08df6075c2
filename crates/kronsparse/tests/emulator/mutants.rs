//! The mistakes that somebody could make in a kernel, one line each. A text that is no longer in its file is an error: the list
//! changes with the kernels.

/// A file of `kernels/` with one text replaced.
pub(crate) struct Mutant {
    /// The family whose plans must notice it.
    pub(crate) family: &'static str,
    pub(crate) file: &'static str,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
}

const fn mutant(family: &'static str, file: &'static str, from: &'static str, to: &'static str) -> Mutant {
    Mutant { family, file, from, to }
}

pub(crate) const MUTANTS: &[Mutant] = &[
    mutant("plain", "plain.cuh", "        sync_block();  // Everybody has read what is overwritten now.\n", ""),
    mutant("plain", "plain.cuh", "        sync_block();\n        if (l0 + DEPTH < C)", "        if (l0 + DEPTH < C)"),
    mutant("plain", "plain.cuh", "l + more.l < C &&", "l + more.l <= C &&"),
    mutant("plain", "plain.cuh", "l + more_l < C &&", "l + more_l <= C &&"),
    mutant("plain", "plain.cuh", "vector + more.vector < n;", "vector + more.vector < n + 1;"),
    mutant("plain", "plain.cuh", "if (batch >= n) continue;", ""),
    mutant("plain", "plain.cuh", "if (at >= B) continue;", "if (at > B) continue;"),
    mutant("plain", "plain.cuh", "if (lane0 + lane >= A * D) continue;", ""),
    mutant("plain", "plain.cuh", "VECTORS * LANES) store_sum", "VECTORS * LANES / 2) store_sum"),
    mutant("plain", "plain.cuh", "at += more.l * D * n + more.vector;", "at += more.l * n + more.vector;"),
    mutant("plain", "plain.cuh", "l0 < C; l0 += DEPTH", "l0 + DEPTH <= C; l0 += DEPTH"),
    mutant("plain", "plain.cuh", "my_x + l * X_STRIDE + v * X_STEP", "my_x + l * X_STRIDE + v"),
    mutant("plain", "plain.cuh", "feature * n + batch, finish", "feature + batch * n, finish"),
    mutant("plain", "epilogue.cuh", "if constexpr (BIAS) sum += E::load(bias, feature);", ""),
    mutant("plain", "epilogue.cuh", "S(1.59576912160573071176)", "S(1.7)"),
    mutant("plain", "epilogue.cuh", "return x < S(0) ? S(0) : x;", "return x;"),
    mutant("lanes_mma", "lanes_mma.cuh", "        sync_block();\n        load_next();", "        load_next();"),
    mutant("lanes_mma", "lanes_mma.cuh", "copy_wait<STAGES - 2>()", "copy_wait<STAGES - 1>()"),
    mutant(
        "lanes_mma",
        "lanes_mma.cuh",
        "        copy_wait<STAGES - 2>();\n        sync_block();\n        load_next();",
        "        sync_block();\n        load_next();\n        copy_wait<STAGES - 2>();",
    ),
    mutant("lanes_mma", "lanes_mma.cuh", "if (row >= args.n) continue;", ""),
    mutant("lanes_mma", "lanes_mma.cuh", "bool valid = row < rows;", "bool valid = row <= rows;"),
    mutant("lanes_mma", "lanes_mma.cuh", "o < B ? (D - j) * E : 0", "(D - j) * E"),
    mutant("lanes_mma", "lanes_mma.cuh", "half ? 0x7632u : 0x5410u", "half ? 0x5410u : 0x7632u"),
    mutant("lanes_mma", "lanes_mma.cuh", "second % 2 ? 0x7600u : 0x5400u", "second % 2 ? 0x5400u : 0x7600u"),
    mutant("lanes_mma", "lanes_mma.cuh", "(unit ^ (q << 1)) * 16", "unit * 16"),
    mutant("lanes_mma", "lanes_mma.cuh", "((byte / 16) ^ ((l & 3) << 1))", "((byte / 16) ^ ((l & 1) << 1))"),
    mutant(
        "lanes_mma",
        "lanes_mma.cuh",
        "const int term = G::swap_term(row, in_group / 4)",
        "const int term = G::swap_term(row + 1, in_group / 4)",
    ),
    mutant(
        "lanes_mma",
        "lanes_mma.cuh",
        "        sync_block();\n        constexpr int VECTOR = G::REGROUP_VECTOR",
        "        constexpr int VECTOR = G::REGROUP_VECTOR",
    ),
    mutant("lanes_mma", "lanes_mma.cuh", "G::REGROUP_OFFSET + u % 2 * G::REGROUP_BYTES", "G::REGROUP_OFFSET"),
    mutant("lanes_mma", "lanes_mma.cuh", "if (D % LANES != 0) valid = valid && at.j0 + j < D;", ""),
    mutant("lanes_mma", "lanes_mma.cuh", "left < 16 ? static_cast<int>(left) : 16", "16"),
    mutant("lanes_mma", "lanes_mma.cuh", "(B % OUTS != 0 && o >= B)", "(B % OUTS != 0 && o > B)"),
    mutant("lanes_mma", "lanes_mma.cuh", "loading += stride;", "loading += 1;"),
    mutant("lanes_mma", "lanes_mma.cuh", "half * 8 + g, group);", "half * 4 + g, group);"),
    mutant("lanes_mma", "mma_number.cuh", "mma_tf32(part, x.low, w.finite[0], w.finite[1]);", ""),
    mutant("lanes_mma", "mma_number.cuh", "mma_tf32(part, x.finite, w.low[0], w.low[1]);", ""),
    mutant("narrow", "narrow.cuh", "        copy_wait<1>();\n        sync_block();", "        copy_wait<1>();"),
    mutant("narrow", "narrow.cuh", "copy_wait<1>()", "copy_wait<2>()"),
    mutant(
        "narrow",
        "narrow.cuh",
        "        }\n        sync_block();\n      }\n      store(",
        "        }\n      }\n      store(",
    ),
    mutant("narrow", "narrow.cuh", "    sync_block();\n    for (int k = thread;", "    for (int k = thread;"),
    mutant("narrow", "narrow.cuh", "bool valid = row < rows;", "bool valid = row <= rows;"),
    mutant("narrow", "narrow.cuh", "byte < bytes && l0 + l < C && j0 + j < D;", "byte < bytes && l0 + l < C;"),
    mutant(
        "narrow",
        "narrow.cuh",
        "byte < bytes && l0 + l < C && j0 + j < D;",
        "byte < bytes && l0 + l <= C && j0 + j < D;",
    ),
    mutant("narrow", "narrow.cuh", "if (n0 + v >= args.n || j0", "if (n0 + v > args.n || j0"),
    mutant("narrow", "narrow.cuh", "j0 + j >= D || o0 + o >= B) continue;", "j0 + j >= D) continue;"),
    mutant(
        "narrow",
        "narrow.cuh",
        "for (int s = 0; s < SPLIT; ++s) total",
        "for (int s = 0; s < (SPLIT + 1) / 2; ++s) total",
    ),
    mutant("narrow", "narrow.cuh", "words[k / 2] >> (k % 2 * 16)", "words[k / 2] >> (k % 2 * 8)"),
    mutant(
        "narrow",
        "narrow.cuh",
        "multiply(w, buffer, turn * SPLIT + part);",
        "multiply(w, buffer, turn + part * TURNS);",
    ),
];
