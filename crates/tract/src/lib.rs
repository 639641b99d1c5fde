//! The second runtime, for parity.
