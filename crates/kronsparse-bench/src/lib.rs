//! Benchmarks: definitions -> samples -> record -> tables, plots, the HTML page.
