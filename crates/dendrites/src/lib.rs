//! Dendrite sets on ONNX graphs: sites, plans, insertion, candidates, export; no runtime in it.
