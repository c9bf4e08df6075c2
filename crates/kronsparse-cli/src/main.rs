//! The `kronsparse` command.

fn main() {}
