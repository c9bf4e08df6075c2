//! A chain made ready for multiplication on a GPU.
