//! Stage 4, MODULE: NVRTC turns a source and the embedded headers into a cubin and a report.
