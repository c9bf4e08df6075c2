//! One GPU: its context, its properties, and the modules that were loaded into it.
