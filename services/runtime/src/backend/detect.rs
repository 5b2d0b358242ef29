//! Which container runtime: by choice, or by looking.
