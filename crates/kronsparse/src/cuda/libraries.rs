//! Where the CUDA libraries are that the toolkit, pip or conda installed, and which are missing.
