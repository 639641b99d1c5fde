//! Which shapes depend on what an input holds, not only on its size: a probe run, whose inputs are made up, cannot tell them.

use dendrite_onnx::{Graph, Node, ValueId};

/// For every value of a graph, what the contents of the graph's inputs decide.
pub(crate) struct Influence {
    contents: Vec<bool>,
    shapes: Vec<bool>,
}

impl Influence {
    pub(crate) fn of(graph: &Graph) -> Self {
        let count = graph.value_count();
        let mut influence = Influence { contents: vec![false; count], shapes: vec![false; count] };
        graph.inputs.iter().for_each(|v| influence.contents[v.index()] = true);
        let Ok(order) = graph.topological_order() else {
            // Nothing can be said of a graph without an order.
            return Influence { contents: vec![true; count], shapes: vec![true; count] };
        };
        for id in order {
            let node = graph.node(id);
            let read = graph.reads(node);
            let shape = read.iter().any(|v| influence.on_shape(*v))
                || operands_of_shape(node).any(|v| influence.on_contents(v));
            let contents = if matches!(node.op.as_str(), "Shape" | "Size") {
                false
            } else {
                read.iter().any(|v| influence.on_contents(*v))
            };
            for output in node.outputs.iter().flatten() {
                influence.shapes[output.index()] = shape;
                influence.contents[output.index()] = contents || shape;
            }
        }
        influence
    }

    /// Whether the contents of an input decide what the value holds.
    pub(crate) fn on_contents(&self, value: ValueId) -> bool {
        self.contents.get(value.index()).copied().unwrap_or(true)
    }

    /// Whether they decide its shape.
    pub(crate) fn on_shape(&self, value: ValueId) -> bool {
        self.shapes.get(value.index()).copied().unwrap_or(true)
    }
}

/// The inputs of a node whose contents its outputs' shapes depend on.
fn operands_of_shape(node: &Node) -> impl Iterator<Item = ValueId> {
    let places: &[usize] = match node.op.as_str() {
        "ConstantOfShape" | "NonZero" | "Unique" | "If" => &[0],
        "Loop" | "NonMaxSuppression" | "Range" => &[0, 1, 2, 3, 4],
        "Reshape" | "Expand" | "Tile" | "Squeeze" | "Unsqueeze" | "Split" | "TopK" | "OneHot" | "Compress"
        | "CenterCropPad" | "ReduceSum" | "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceProd" | "ReduceL1"
        | "ReduceL2" | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" | "AffineGrid" | "DFT"
        | "SplitToSequence" => &[1],
        "Col2Im" | "STFT" => &[1, 2, 3],
        "MaxUnpool" => &[2],
        "Pad" => &[1, 3],
        "Slice" => &[1, 2, 3, 4],
        "Resize" => &[1, 2, 3],
        "BlackmanWindow" | "HammingWindow" | "HannWindow" | "MelWeightMatrix" => &[0, 1],
        _ => &[],
    };
    places.iter().filter_map(|i| node.input(*i))
}
