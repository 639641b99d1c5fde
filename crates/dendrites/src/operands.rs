//! Which operands of which operators are weights, and the stored constants behind them.

use std::collections::HashSet;

use dendrite_onnx::{ElementType, Graph, Node, Tensor, ValueId};

/// The domain of ONNX Runtime's own operators.
const CONTRIBUTED: &str = "com.microsoft";

/// What a mask adds to hide a position: exporters write -10000, -1e9, the lowest float or minus infinity.
const HIDDEN: f32 = -1e3;

/// Where a weight may stand among the inputs of an operator.
enum Places {
    /// At these positions.
    At(&'static [usize]),
    /// Anywhere, if it has more than one element and is no mask: a scalar merely configures a computation.
    Vectors,
    /// As [`Places::Vectors`], but for the second input, by which something is divided.
    Dividends,
    /// Anywhere.
    Any,
}

fn places(domain: &str, op: &str) -> Option<Places> {
    Some(match (domain, op) {
        ("", "Conv" | "ConvTranspose") => Places::At(&[1, 2]),
        ("", "Gemm") => Places::At(&[0, 1, 2]),
        ("", "DeformConv") => Places::At(&[1, 3]),
        ("", "MatMul" | "Einsum") => Places::Any,
        ("", "BatchNormalization" | "InstanceNormalization" | "LayerNormalization" | "GroupNormalization") => {
            Places::At(&[1, 2])
        }
        ("", "RMSNormalization" | "SimplifiedLayerNormalization" | "PRelu") => Places::At(&[1]),
        ("", "LSTM") => Places::At(&[1, 2, 3, 7]),
        ("", "GRU" | "RNN") => Places::At(&[1, 2, 3]),
        ("", "Add" | "Sub" | "Mul" | "Sum") => Places::Vectors,
        ("", "Div") => Places::Dividends,
        (CONTRIBUTED, "FusedMatMul" | "TransposeMatMul") => Places::Any,
        (CONTRIBUTED, "FusedGemm") => Places::At(&[0, 1, 2]),
        (CONTRIBUTED, "FusedConv" | "Attention") => Places::At(&[1, 2]),
        (CONTRIBUTED, "MultiHeadAttention") => Places::At(&[3]),
        (CONTRIBUTED, "BiasGelu" | "FastGelu") => Places::At(&[1]),
        (CONTRIBUTED, "SkipLayerNormalization") => Places::At(&[2, 3, 4]),
        (CONTRIBUTED, "SkipSimplifiedLayerNormalization") => Places::At(&[2, 3]),
        (CONTRIBUTED, "GatedRMSNorm") => Places::At(&[2]),
        // Of the embeddings only their normalisation.
        (CONTRIBUTED, "EmbedLayerNormalization") => Places::At(&[5, 6]),
        _ => return None,
    })
}

/// Whether `tensor` is a weight as input `position` of a node.
pub(crate) fn is_weight(node: &Node, position: usize, tensor: &Tensor) -> bool {
    let free = || tensor.len() > 1 && !is_mask(tensor);
    match places(&node.domain, &node.op) {
        Some(Places::At(positions)) => positions.contains(&position),
        Some(Places::Vectors) => free(),
        Some(Places::Dividends) => position == 0 && free(),
        Some(Places::Any) => true,
        None => false,
    }
}

/// Whether all that a tensor says is what attention may see: zeros, and numbers that no softmax leaves anything of.
fn is_mask(tensor: &Tensor) -> bool {
    let hides = |v: f32| v <= HIDDEN;
    tensor
        .to_f32()
        .is_some_and(|values| values.iter().all(|v| *v == 0.0 || hides(*v)) && values.iter().any(|v| hides(*v)))
}

/// The stored float32 constants that a value consists of, through operators that only move elements: an exporter may join a
/// bias of two, or reorder the gates of a cell. What depends on the inputs of the model (`active`) consists of none.
pub(crate) fn stored(graph: &Graph, value: ValueId, active: &HashSet<ValueId>) -> Vec<ValueId> {
    let is_float = |v: &ValueId| graph.constant(*v).is_some_and(|t| t.element_type() == ElementType::Float);
    let mut roots = sources(graph, value, active);
    roots.retain(|v| is_float(v) && !graph.is_of_function(*v) && !graph.is_made(*v));
    roots
}

/// The values without a producer that `value` consists of.
fn sources(graph: &Graph, value: ValueId, active: &HashSet<ValueId>) -> Vec<ValueId> {
    let (mut roots, mut stack, mut seen) = (Vec::new(), vec![value], HashSet::new());
    while let Some(value) = stack.pop() {
        if active.contains(&value) || !seen.insert(value) {
            continue;
        }
        let Some(node) = graph.value(value).producer().map(|id| graph.node(id)) else {
            roots.push(value);
            continue;
        };
        if !node.domain.is_empty() {
            continue;
        }
        match node.op.as_str() {
            "Reshape" | "Transpose" | "Identity" | "Squeeze" | "Unsqueeze" | "Flatten" | "Slice" | "Split"
            | "Gather" | "Expand" | "Tile" | "Pad" => stack.extend(node.input(0)),
            "Concat" => stack.extend(node.inputs.iter().flatten()),
            _ => {}
        }
    }
    roots
}

/// What the sub-graphs of a node read of `graph` as operands: reader, position and value, through operators that only move
/// elements.
pub(crate) fn captured(node: &Node, graph: &Graph) -> Vec<(Node, usize, ValueId)> {
    let mut found = Vec::new();
    for sub in node.attributes.graphs() {
        // A body that cannot be read is refused, with its reason, where a gradient would pass through it.
        let Ok(body) = Graph::from_body(sub, graph) else { continue };
        let free = read(&body).into_iter().filter(|(.., v)| body.constant(*v).is_none());
        found.extend(free.filter_map(|(reader, position, v)| Some((reader, position, graph.find(body.name_of(v))?))));
    }
    found
}

/// What the nodes of a body and of its sub-graphs read as operands: reader, position and one of the values without a producer
/// that the operand consists of, a constant of the body or a value of a graph around it.
pub(crate) fn read(body: &Graph) -> Vec<(Node, usize, ValueId)> {
    let inputs: HashSet<ValueId> = body.inputs.iter().copied().collect();
    let mut found = Vec::new();
    for (_, node) in body.nodes() {
        let own = node.inputs.iter().enumerate().filter_map(|(position, v)| Some((node.clone(), position, (*v)?)));
        for (reader, position, value) in own.chain(captured(node, body)) {
            found.extend(sources(body, value, &inputs).into_iter().map(|root| (reader.clone(), position, root)));
        }
    }
    found
}
