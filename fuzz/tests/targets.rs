//! Every target for a short time; see the crate's documentation for the environment variables.

use kronsparse_fuzz::{TARGETS, driver, run};

#[track_caller]
fn fuzz(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("a target");
    match run(target, driver::seed(), driver::budget()) {
        Ok(report) => println!("{name}: {report:?}"),
        Err(why) => panic!("{why}"),
    }
}

macro_rules! tests {
    ($($test:ident $name:literal)*) => {
        $(#[test] fn $test() { fuzz($name) })*

        #[test]
        fn every_target_has_a_test() {
            let tested = [$($name),*];
            assert_eq!(TARGETS.iter().map(|t| t.name).collect::<Vec<_>>(), tested);
        }
    };
}

tests! {
    read_layer "read-layer"
    model "model"
    npy "npy"
    npz "npz"
    array_source "array-source"
    pattern "pattern"
    chain_spec "chain-spec"
    dtype "dtype"
    layout "layout"
    activation "activation"
    algorithm "algorithm"
}
