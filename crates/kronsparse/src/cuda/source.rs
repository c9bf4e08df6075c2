//! Stage 3, SOURCE: from a plan to the text that the compiler reads.
