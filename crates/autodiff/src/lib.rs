//! Reverse-mode differentiation of ONNX graphs, with losses and optimizers as graphs; no runtime in it.
