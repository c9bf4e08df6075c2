//! Chores of the repository: `cargo xtask check`, `tidy`, `splice`.

fn main() {}
