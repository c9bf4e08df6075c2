//! What is compared: a chain, or the dense matrix, with what it can express and what it costs.

use super::Objective;
use super::ranks::{self, Split, rank_bound, splits};
use super::target::Cost;
use crate::{ChainPattern, Result};

/// The families that people know chains by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// The matrix itself.
    Dense,
    /// Two dense factors.
    LowRank,
    /// Two factors, blocks of rank 1.
    Monarch,
    /// Two factors, blocks of a larger rank.
    BlockLowRank,
    /// Three or four factors.
    Butterfly,
    /// One factor with zeros: every output sees a part of the inputs.
    Partial,
}

impl Family {
    /// All but the matrix itself.
    pub(super) const CHAINS: [Family; 5] =
        [Family::LowRank, Family::Monarch, Family::BlockLowRank, Family::Butterfly, Family::Partial];

    /// In a few words.
    pub fn name(self) -> &'static str {
        match self {
            Family::Dense => "dense",
            Family::LowRank => "low rank",
            Family::Monarch => "Monarch",
            Family::BlockLowRank => "blocks of low rank",
            Family::Butterfly => "butterfly",
            Family::Partial => "one sparse factor",
        }
    }

    pub(super) fn of(chain: &ChainPattern, splits: &[Split]) -> Family {
        match (chain.patterns(), splits) {
            ([one], _) if ranks::is_dense(*one) => Family::Dense,
            ([_], _) => Family::Partial,
            (_, [split]) if split.blocks() == 1 => Family::LowRank,
            (_, [split]) if split.rank == 1 => Family::Monarch,
            (_, [_]) => Family::BlockLowRank,
            _ => Family::Butterfly,
        }
    }
}

/// What was measured of one way and one number of vectors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Median seconds of a multiplication whose result was verified.
    pub seconds: f64,
    /// Joules, where there was a meter.
    pub joules: Option<f64>,
}

/// A chain, or the dense matrix as a chain of one factor, with what it costs.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The patterns.
    pub chain: ChainPattern,
    /// Its family.
    pub family: Family,
    /// Where its pairs cut the matrix, and the rank that they allow there; empty for one factor.
    pub splits: Vec<Split>,
    /// The most rank that the whole matrix can have.
    pub rank: usize,
    /// Estimates, one for each number of vectors.
    pub costs: Vec<Cost>,
    /// What was measured, one for each number of vectors.
    pub measured: Vec<Option<Measured>>,
}

impl Candidate {
    pub(super) fn new(chain: ChainPattern, costs: Vec<Cost>) -> Result<Candidate> {
        let splits = splits(&chain)?;
        let family = Family::of(&chain, &splits);
        let narrowest = chain.patterns().iter().map(|p| p.rows().min(p.cols())).min().unwrap_or(0);
        let rank = rank_bound(&splits, chain.rows(), chain.cols(), 1, 1).min(narrowest);
        let measured = vec![None; costs.len()];
        Ok(Candidate { chain, family, splits, rank, costs, measured })
    }

    /// Estimated cost in the unit of an objective; the error says what is missing.
    pub(super) fn estimate(&self, at: usize, objective: Objective) -> std::result::Result<f64, &str> {
        let cost = &self.costs[at];
        match objective {
            Objective::Time => Ok(cost.seconds),
            Objective::Energy => cost.joules.as_ref().copied().map_err(String::as_str),
            Objective::Memory => Ok(cost.memory.bytes()),
        }
    }

    /// Measured cost in the unit of an objective; bytes are counted, not measured.
    pub(super) fn measurement(&self, at: usize, objective: Objective) -> Option<f64> {
        match objective {
            Objective::Time => self.measured[at].map(|measured| measured.seconds),
            Objective::Energy => self.measured[at]?.joules,
            Objective::Memory => None,
        }
    }
}
