//! Compiled kernels on the disk: named by content, published by rename, verified on load.
