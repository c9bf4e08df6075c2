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
];
