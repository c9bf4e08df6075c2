//! Files: what is written is read again to the bit, and whatever is wrong with a file is refused with one clear sentence.

mod arrays;
mod attacks;
mod chains;
mod common;
mod models;
