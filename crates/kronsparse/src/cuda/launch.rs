//! Stage 5, LAUNCH: typed arguments, a grid and a stream, and no hidden synchronisation.
