//! The CUDA kernels on the host: kernels/emulator runs them thread by thread, with every rule checked that a GPU does not check.
//! Needs a C++17 compiler (`CXX`, or one of c++, g++, clang++); no GPU and nothing of CUDA.

mod chain_plans;
mod columns;
mod compile;
mod gradients;
#[path = "../harness/mod.rs"]
mod harness;
mod hopper;
mod joins;
mod kernels;
mod launch;
mod mutants;
mod packing;
mod plans;
mod units;
