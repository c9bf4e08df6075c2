//! Which tiles are legal, and what the planner takes for well-known layers.

use super::*;

fn problem(shape: [usize; 4], dtype: DType, batch: usize) -> GradientProblem {
    let [a, b, c, d] = shape;
    GradientProblem::new(Pattern::new(a, b, c, d).unwrap(), dtype, batch)
}

#[test]
fn every_pattern_has_a_tile() {
    let machine = GpuMachine::h100();
    for shape in [[1, 64, 64, 64], [64, 64, 64, 1], [1, 768, 192, 2], [3, 5, 7, 11], [1, 1, 1, 1], [1, 2, 2, 1024]] {
        for dtype in [DType::F16, DType::Bf16, DType::F32] {
            for batch in [1, 100, 25088] {
                let problem = problem(shape, dtype, batch);
                let plan = WeightGradientPlan::choose(&problem, &machine).unwrap();
                assert_eq!(plan.problem(), &problem);
                assert!(plan.tile().chunks <= batch.div_ceil(plan.tile().rows), "{plan} for {batch} vectors");
                assert!(plan.shared_bytes() <= machine.shared_per_block);
            }
        }
    }
}

#[test]
fn large_layers_fill_the_machine() {
    let machine = GpuMachine::h100();
    for shape in [[1, 64, 64, 64], [64, 64, 64, 1], [1, 768, 192, 2], [6, 64, 64, 1]] {
        let plan = WeightGradientPlan::choose(&problem(shape, DType::Bf16, 8192), &machine).unwrap();
        let blocks = plan.grid(8192);
        assert!(f64::from(blocks) > 0.9 * f64::from(machine.multiprocessors), "{plan}: {blocks} blocks");
    }
}

#[test]
fn what_cannot_be_is_refused_with_its_numbers() {
    let machine = GpuMachine::h100();
    let usual = problem([1, 64, 64, 64], DType::F16, 1000);
    let tile = WeightGradientPlan::choose(&usual, &machine).unwrap().tile();
    let refused = |tile: GradientTile| WeightGradientPlan::new(&usual, tile, &machine).unwrap_err().to_string();
    assert!(refused(GradientTile { unit_lanes: 3, ..tile }).contains("powers of two"));
    assert!(refused(GradientTile { sub: [4, 1], unit_lanes: 8, ..tile }).contains("at most 16 bytes"));
    assert!(refused(GradientTile { lanes: 24, ..tile }).contains("must divide"));
    assert!(refused(GradientTile { chunks: 0, ..tile }).contains("a part at least"));
    assert!(refused(GradientTile { rows: 8, ..tile }).contains("a multiple of 16 vectors"));
    assert!(refused(GradientTile { fragments: [4, 4], ..tile }).contains("registers"));
    assert!(refused(GradientTile { stages: 100, ..tile }).contains("bytes of shared memory"));
    let wide = problem([1, 64, 64, 64], DType::F64, 1000);
    assert_eq!(WeightGradientPlan::choose(&wide, &machine).unwrap_err(), Rejected::Element(DType::F64));
    let old = GpuMachine { capability: (7, 5), ..machine };
    assert!(WeightGradientPlan::choose(&usual, &old).unwrap_err().to_string().contains("8.0"));
}

#[test]
fn more_vectors_take_longer() {
    let machine = GpuMachine::h100();
    let seconds = |batch| {
        let plan = WeightGradientPlan::choose(&problem([1, 64, 64, 64], DType::Bf16, batch), &machine).unwrap();
        plan.seconds(&machine)
    };
    assert!(seconds(512) < seconds(8192) && seconds(8192) < seconds(25088));
    // No faster than memory.
    assert!(seconds(25088) > problem([1, 64, 64, 64], DType::Bf16, 25088).bytes() / machine.bytes_per_second);
}
