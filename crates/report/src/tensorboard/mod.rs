//! A run as TensorBoard events.
