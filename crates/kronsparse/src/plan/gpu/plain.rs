//! The family that is always legal: CUDA cores, any type, any size, any alignment.
