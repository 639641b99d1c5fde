//! Everything about ONNX Runtime: the library, devices, sessions, bindings, shape inference.
