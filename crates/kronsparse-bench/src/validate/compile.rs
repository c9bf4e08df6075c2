//! The kernels of some problems, compiled before they are measured, by as many processes as there are cores.

use std::collections::BTreeSet;

use kronsparse::plan::Algorithm;
use kronsparse::plan::gpu::{ChainPlan, GpuMachine};

use super::cuda::{LIBRARY_BYTES, problem};
use super::problems::{Device, Settings};
use super::ways::{self, By};
use crate::Definition;
use crate::gpu::prepare::{self, Compiled, Target};

/// Compiles every `of`-th kernel that measuring these problems will load, beginning with number `share`, into the cache on the disk,
/// without asking for a GPU. Nothing where there is nothing to compile: for a CPU.
pub fn compile(settings: &Settings, numbers: &[usize], share: (usize, usize), target: &Target) -> Compiled {
    if settings.device == Device::Cpu {
        return Compiled::default();
    }
    // Planning takes milliseconds, and a kernel that several problems load is compiled once.
    prepare::stored_share(&sources(settings, numbers, &target.machine), share, target)
}

/// The sources of all kernels of these problems: what tuning tries, and what is tried beside it.
fn sources(settings: &Settings, numbers: &[usize], machine: &GpuMachine) -> Vec<String> {
    let cases: Vec<_> = numbers.iter().map(|&number| settings.problem(number)).collect();
    let problems: Vec<_> = cases.iter().map(problem).collect();
    let definition = Definition { name: String::new(), description: String::new(), cases };
    let mut all: BTreeSet<String> =
        prepare::sources(&definition, &[Algorithm::Auto], LIBRARY_BYTES, machine).into_iter().collect();
    for plan in problems.iter().filter_map(|problem| ChainPlan::new(problem, machine, Some(LIBRARY_BYTES)).ok()) {
        for way in ways::all(&plan, settings.kernels) {
            match way.by {
                By::Kernels(plans) => all.extend(plans.iter().map(|plan| plan.source())),
                By::Fused(plan) => all.extend([plan.source()]),
                By::Library(_) | By::Stored => {}
            }
        }
    }
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_beside_tuning_is_compiled_too() {
        let settings = Settings::new(Device::Cuda(0), 11);
        let machine = GpuMachine::h100();
        let numbers: Vec<usize> = (0..3).collect();
        let more = sources(&settings, &numbers, &machine);
        let fewer = sources(&Settings { kernels: 1, ..settings.clone() }, &numbers, &machine);
        assert!(
            fewer.iter().all(|source| more.contains(source)) && fewer.len() < more.len(),
            "{} of {}",
            fewer.len(),
            more.len()
        );
        let target = Target { machine, architecture: "sm_90a".into() };
        assert_eq!(compile(&Settings::new(Device::Cpu, 11), &numbers, (0, 1), &target), Compiled::default());
    }
}
