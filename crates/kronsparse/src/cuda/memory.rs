//! Device memory as typed buffers.
