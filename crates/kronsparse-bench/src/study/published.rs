//! The figures of the article that a study can be read beside, each with its source. Nothing here is measured by this project.

/// A figure of the article.
pub(super) struct Claim {
    /// What it is about.
    pub(super) what: &'static str,
    /// The figure.
    pub(super) value: &'static str,
    /// Where it is said.
    pub(super) source: &'static str,
}

const ABSTRACT: &str =
    "Gonon, Zheng, Carrivain, Le, Fast inference with Kronecker-sparse matrices, ICML 2025 (PMLR 267), abstract";

/// Median speed-up over the best of the others, f32.
pub(super) const SPEEDUP: f64 = 1.4;
/// Energy over that of the best of the others, f32.
pub(super) const ENERGY: f64 = 0.85;
/// Largest share of time that permutations take.
pub(super) const REWRITING: f64 = 0.5;

/// All of them.
pub(super) const CLAIMS: [Claim; 5] = [
    Claim { what: "median speed-up over the best of the others, f32, 600 patterns", value: "1.4×", source: ABSTRACT },
    Claim { what: "energy, f32", value: "15 % less", source: ABSTRACT },
    Claim { what: "share of time in which permutations rewrite memory", value: "up to 50 %", source: ABSTRACT },
    Claim { what: "time of a whole ViT-S/16, f32", value: MODELS[0].value, source: ABSTRACT },
    Claim { what: "time of a whole GPT-2 medium, f32", value: MODELS[1].value, source: ABSTRACT },
];

/// A whole model of the article.
pub(super) struct Model {
    /// Its name in `python/examples/end_to_end.py`.
    pub(super) name: &'static str,
    /// Its name for people.
    pub(super) title: &'static str,
    /// The figure, for f32.
    pub(super) value: &'static str,
}

/// All of them, in the order of the last of [`CLAIMS`].
pub(super) const MODELS: [Model; 2] = [
    Model { name: "vit_s16", title: "ViT-S/16", value: "up to 22 % less" },
    Model { name: "gpt2_medium", title: "GPT-2 medium", value: "up to 16 % less" },
];
