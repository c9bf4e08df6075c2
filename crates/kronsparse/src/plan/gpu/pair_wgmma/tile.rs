//! The tile of `pair_wgmma`: what is chosen, what follows from it, which rules make it legal, where each weight stands.

use crate::Pattern;

/// How a cluster cuts the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Blocks that share vectors: each has its blocks `i` of the first factor and its lanes of the second one.
    pub cluster: usize,
    /// Teams of warpgroups of a block, 64 vectors each.
    pub row_groups: usize,
    /// Warpgroups of a team.
    pub members: usize,
    /// Eights of lanes of a warpgroup at a time in the second factor.
    pub item_units: usize,
    /// Its outputs at a time: the N of `wgmma`.
    pub group_outs: usize,
    /// Steps of 16 inputs of the second factor per stage of the ring.
    pub depth: usize,
    /// Stages of the ring.
    pub stages: usize,
    /// Whether the next tile's X comes to the second-level cache ahead of time.
    pub prefetch: bool,
}

impl Tile {
    /// What is tried first.
    pub(super) const ORDINARY: Tile = Tile {
        cluster: 1,
        row_groups: 1,
        members: 2,
        item_units: 2,
        group_outs: 16,
        depth: 2,
        stages: 3,
        prefetch: false,
    };

    /// All that are worth a thought, with the fewest stages.
    pub(super) fn all() -> impl Iterator<Item = Tile> {
        // Two teams of one, or one of two.
        let teams = [(1, 2), (2, 1)];
        [1, 2, 4, 8].into_iter().flat_map(move |cluster| {
            teams.into_iter().flat_map(move |(row_groups, members)| {
                [(2, 16), (2, 8), (1, 32), (1, 16), (1, 8)].into_iter().flat_map(move |(item_units, group_outs)| {
                    [2, 1].into_iter().map(move |depth| {
                        let prefetch = cluster >= 4;
                        Tile { cluster, row_groups, members, item_units, group_outs, depth, stages: 3, prefetch }
                    })
                })
            })
        })
    }
}

/// What follows from a tile; the kernel's `PairTile` computes the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Numbers {
    pub(super) rows: usize,
    pub(super) threads: usize,
    /// Registers of a consumer's thread.
    pub(super) registers: usize,
    /// Blocks `i` of a block of the cluster.
    pub(super) blocks: usize,
    /// Outputs of the first factor's products, with padding.
    pub(super) first_outs: usize,
    /// Lanes of a block of the cluster.
    pub(super) lanes: usize,
    pub(super) stage_bytes: usize,
    pub(super) shared: usize,
    /// Weights of a block of the cluster, packed.
    pub(super) packed: usize,
    c1: usize,
    brought_blocks: usize,
    brings: usize,
    out_tiles: usize,
    items: usize,
    chunks: usize,
}

/// Numbers of 128 bytes, of 16 bytes, and of a step of `wgmma`.
const LINE: usize = 64;
const UNIT: usize = 8;
const STEP: usize = 16;
/// Registers of a producer's thread, as in the kernel.
const PRODUCER_REGISTERS: usize = 40;

impl Numbers {
    /// Sums of a thread in the first factor: two lots of all blocks that are brought together.
    pub(super) fn first_sums(first: Pattern) -> usize {
        (first.c().max(LINE) / first.c()) * first.b().next_multiple_of(32)
    }

    /// Errors: the rule that the tile or the pattern breaks.
    pub(super) fn new(first: Pattern, second: Pattern, tile: Tile) -> Result<Numbers, String> {
        let ([a1, b1, c1, _], [_, b2, c2, d2]) = (first.shape(), second.shape());
        let Tile { cluster, row_groups, members, item_units, group_outs, depth, stages, prefetch: _ } = tile;
        let check = |holds: bool, why: String| if holds { Ok(()) } else { Err(why) };
        let all = [row_groups, members, item_units, group_outs, depth];
        check(all.iter().all(|&x| x > 0), format!("sizes must be positive, found {tile:?}"))?;
        check(matches!(cluster, 1 | 2 | 4 | 8), format!("a cluster has 1, 2, 4 or 8 blocks, found {cluster}"))?;
        let groups = row_groups * members;
        // One alone starts with more registers than it may ask for, three have too few.
        check(groups == 2, format!("a block has two warpgroups that multiply, found {groups}"))?;
        // A warpgroup begins its next products before it gives the stage of the last ones back.
        check(stages > members, format!("the ring needs more stages than a team has members, found {stages}"))?;

        check(b1.is_multiple_of(UNIT), format!("b of the first factor must be a multiple of 8, found {b1}"))?;
        check(
            c1.is_multiple_of(STEP) && (LINE.is_multiple_of(c1) || c1.is_multiple_of(LINE)),
            format!("c of the first factor must be 16, 32 or a multiple of 64, found {c1}"),
        )?;
        let lanes_at_once = UNIT * item_units;
        check(
            d2.is_multiple_of(cluster * lanes_at_once),
            format!("d of the second factor must be a multiple of {} lanes, found {d2}", cluster * lanes_at_once),
        )?;
        let columns = c1.max(LINE);
        let brought_blocks = columns / c1;
        check(
            a1.is_multiple_of(cluster * brought_blocks * members),
            format!("a of the first factor must be a multiple of {}, found {a1}", cluster * brought_blocks * members),
        )?;
        check(
            group_outs.is_multiple_of(8) && group_outs <= 256,
            format!("wgmma has 8, 16, … 256 outputs, found {group_outs}"),
        )?;
        let first_outs = b1.next_multiple_of(32);
        check(first_outs <= 256, format!("b of the first factor can be 256 at most, found {b1}"))?;

        let rows = 64 * row_groups;
        let blocks = a1 / cluster;
        let brings = blocks / brought_blocks;
        let x_bytes = rows * columns * 2;
        let first_bytes = columns / STEP * first_outs * 32;
        let lanes = d2 / cluster;
        let chunks = c2.div_ceil(STEP).div_ceil(depth);
        let out_tiles = b2.div_ceil(group_outs);
        let items = lanes / lanes_at_once * out_tiles;
        let second_bytes = depth * lanes_at_once * group_outs * 32;
        let stage_bytes = (x_bytes + first_bytes).max(second_bytes.next_multiple_of(1024));
        let hidden_bytes = 64 * chunks * depth * STEP * lanes * 2;
        check(
            hidden_bytes < 1 << 20,
            format!("a team's hidden numbers must be below a megabyte, found {hidden_bytes} bytes"),
        )?;

        let threads = 128 * (groups + 1);
        let launch = (65536 / threads / 8 * 8).min(255 / 8 * 8);
        let registers = ((launch * threads - PRODUCER_REGISTERS * 128) / (threads - 128) / 8 * 8).min(232);
        let first_sums = Self::first_sums(first);
        let second_sums = lanes_at_once * group_outs / 2;
        check(
            first_sums + 40 <= registers && second_sums + 2 * 32 + 24 <= registers,
            format!("{first_sums} and {second_sums} sums of a thread exceed its {registers} registers"),
        )?;
        Ok(Numbers {
            rows,
            threads,
            registers,
            blocks,
            first_outs,
            lanes,
            stage_bytes,
            shared: row_groups * hidden_bytes + stages * (stage_bytes + 16) + 16 * row_groups,
            packed: (brings * first_bytes + items * chunks * second_bytes) / 2,
            c1,
            brought_blocks,
            brings,
            out_tiles,
            items,
            chunks,
        })
    }

    /// Where weight `(i, o, l)` of the first factor stands.
    pub(super) fn first_index(&self, i: usize, o: usize, l: usize) -> usize {
        let (rank, block) = (i / self.blocks, i % self.blocks);
        let (bring, block) = (block / self.brought_blocks, block % self.brought_blocks);
        let steps = self.c1.max(LINE) / STEP;
        let step = block * (self.c1 / STEP) + l / STEP;
        // A thread's columns 8t + 2q, + 1 of four eights are eight outputs one after the other.
        let (unit, within) = (o / UNIT, o % UNIT);
        let column = 8 * (unit / 4 * 4 + within / 2) + 2 * (unit % 4) + within % 2;
        rank * self.packed + (bring * steps + step) * self.first_outs * STEP + core(column, l % STEP)
    }

    /// Where weight `(o, l, j)` of the second factor stands.
    pub(super) fn second_index(&self, tile: &Tile, o: usize, l: usize, j: usize) -> usize {
        let (rank, lane) = (j / self.lanes, j % self.lanes);
        let lanes = UNIT * tile.item_units;
        let item = lane / lanes * self.out_tiles + o / tile.group_outs;
        let (step, within) = (l / STEP, l % STEP);
        let (chunk, step) = (step / tile.depth, step % tile.depth);
        // The members of a team take the chunks of their items in turn.
        let (round, member) = (item / tile.members * tile.members, item % tile.members);
        let side_by_side = tile.members.min(self.items - round);
        let turn = round * self.chunks + chunk * side_by_side + member;
        // A thread's four terms of a step are 2q, 2q + 1, 2q + 8, 2q + 9: inputs q, q + 4, q + 8, q + 12.
        let (q, slot) = (within % 4, within / 4);
        let k = 2 * q + slot % 2 + slot / 2 * 8;
        let block = (turn * tile.depth + step) * lanes + lane % lanes;
        let before = self.brings * (self.c1.max(LINE) / STEP) * self.first_outs * STEP;
        rank * self.packed + before + block * tile.group_outs * STEP + core(o % tile.group_outs, k)
    }
}

/// Within one B: core matrices of 8 columns × 8 terms, two along the terms, then along the columns.
fn core(column: usize, k: usize) -> usize {
    ((column / 8 * 2 + k / UNIT) * 8 + column % 8) * UNIT + k % UNIT
}
