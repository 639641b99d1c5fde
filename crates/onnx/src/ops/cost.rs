//! What nodes cost: parameters and multiply-accumulates, from recorded shapes.
//!
//! A symbolic batch counts as one sample. Elementwise operators count no multiply-accumulates, as is the custom.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::{Dim, Graph, Node, NodeId, Shape, ValueId};

/// The cost of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// Elements of the weights the node and its sub-graphs read; a tied weight counts at each reader.
    pub parameters: usize,
    /// Multiply-accumulates for one sample; `None` where a shape or the operator's work is not known.
    pub macs: Option<u64>,
}

/// The cost of a node.
pub fn node_cost(graph: &Graph, id: NodeId) -> Cost {
    cost(graph, graph.node(id), &batch_symbols(graph))
}

/// Parameters of a model: elements of its weights, each counted once however many nodes read it.
///
/// A weight is a float constant that is not a setting of its reader: single numbers (but for a bias of one channel),
/// scales of Resize and the stored statistics of BatchNormalization do not count, nor do shapes, axes and indices. Weights that
/// a sub-graph holds count as those outside do.
pub fn model_parameters(graph: &Graph) -> usize {
    let weights: BTreeSet<ValueId> = graph.nodes().flat_map(|(_, node)| weights(graph, node)).collect();
    let inner: usize = graph.nodes().map(|(_, node)| held(graph, node)).sum();
    weights.into_iter().map(|v| len(graph, v)).sum::<usize>() + inner
}

/// Multiply-accumulates of a model for one sample; `None` where one of a node's is not known.
pub fn model_macs(graph: &Graph) -> Option<u64> {
    let batch = batch_symbols(graph);
    graph.nodes().try_fold(0u64, |sum, (_, node)| sum.checked_add(cost(graph, node, &batch).macs?))
}

fn cost(graph: &Graph, node: &Node, batch: &HashSet<&str>) -> Cost {
    let read: usize = weights(graph, node).into_iter().map(|v| len(graph, v)).sum();
    let parameters = read + held(graph, node);
    Cost { parameters, macs: macs(graph, node, batch) }
}

// ---- parameters -------------------------------------------------------------------------------------------------------

fn len(graph: &Graph, value: ValueId) -> usize {
    graph.constant(value).map_or(0, crate::Tensor::len)
}

/// The weights a node reads, each once; what its sub-graphs read from this graph is part of it.
fn weights(graph: &Graph, node: &Node) -> BTreeSet<ValueId> {
    let direct = node.inputs.iter().enumerate().filter_map(|(i, v)| Some((i, (*v)?)));
    let mut found: BTreeSet<ValueId> =
        direct.filter(|(position, v)| is_weight(graph, node, *position, *v)).map(|(_, v)| v).collect();
    let captured = captured(graph, node);
    found.extend(captured.iter().filter(|(reader, i, v)| is_weight(graph, reader, *i, *v)).map(|(.., v)| *v));
    found
}

/// Elements of the weights that the sub-graphs of a node hold themselves. One that cannot be read holds none that is known.
fn held(graph: &Graph, node: &Node) -> usize {
    let bodies = node.attributes.graphs().filter_map(|body| Graph::from_body(body, graph).ok());
    bodies.map(|body| model_parameters(&body)).sum()
}

/// What the sub-graphs of a node read of `graph`: the reader, the position and the value.
fn captured(graph: &Graph, node: &Node) -> Vec<(Node, usize, ValueId)> {
    let mut found = Vec::new();
    for body in node.attributes.graphs().filter_map(|body| Graph::from_body(body, graph).ok()) {
        let free: HashSet<ValueId> = body.captures().into_iter().collect();
        let mut read: Vec<(Node, usize, ValueId)> = Vec::new();
        for (_, inner) in body.nodes() {
            let inputs = inner.inputs.iter().enumerate().filter_map(|(i, v)| Some((inner.clone(), i, (*v)?)));
            read.extend(inputs.filter(|(.., v)| free.contains(v)));
            read.extend(self::captured(&body, inner).into_iter().filter(|(.., v)| free.contains(v)));
        }
        let outside = |(reader, i, v): (Node, usize, ValueId)| Some((reader, i, graph.find(body.name_of(v))?));
        found.extend(read.into_iter().filter_map(outside));
    }
    found
}

fn is_weight(graph: &Graph, node: &Node, position: usize, value: ValueId) -> bool {
    let Some(tensor) = graph.constant(value) else { return false };
    if !tensor.element_type().is_float() || graph.is_made(value) {
        return false;
    }
    let setting = matches!(
        (node.op.as_str(), position),
        ("BatchNormalization", 3 | 4)
            | ("Resize", 1 | 2)
            | ("Upsample", 1)
            | ("Pad" | "Dropout" | "Clip" | "Range" | "OneHot", _)
    );
    // A number alone is a setting (an epsilon, a scale) unless it is a weight by its place, in a layer of one channel.
    let layer = matches!(
        node.op.as_str(),
        "Conv"
            | "ConvTranspose"
            | "Gemm"
            | "MatMul"
            | "BatchNormalization"
            | "LayerNormalization"
            | "InstanceNormalization"
    );
    let alone = tensor.len() == 1 && !(node.domain.is_empty() && layer && !tensor.shape().is_empty());
    !setting && !alone && !tensor.is_empty()
}

// ---- multiply-accumulates ---------------------------------------------------------------------------------------------

/// The symbols that stand for the number of samples: the first axis of the graph's inputs.
fn batch_symbols(graph: &Graph) -> HashSet<&str> {
    let first = |v: &ValueId| match graph.value(*v).shape.as_ref()?.0.first()? {
        Dim::Symbol(symbol) => Some(symbol.as_str()),
        _ => None,
    };
    graph.inputs.iter().filter_map(first).collect()
}

/// The dimensions of a value for one sample.
fn dims(shape: &Shape, batch: &HashSet<&str>) -> Option<Vec<u64>> {
    let size = |dim: &Dim| match dim {
        Dim::Known(n) => Some(*n as u64),
        Dim::Symbol(symbol) if batch.contains(symbol.as_str()) => Some(1),
        _ => None,
    };
    shape.0.iter().map(size).collect()
}

fn product(dims: &[u64]) -> Option<u64> {
    dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d))
}

fn macs(graph: &Graph, node: &Node, batch: &HashSet<&str>) -> Option<u64> {
    let of = |v: Option<ValueId>| dims(graph.value(v?).shape.as_ref()?, batch);
    let input = |i: usize| of(node.input(i));
    let output = || product(&of(node.output(0))?);
    match node.domain.as_str() {
        "" => {}
        // The linear and tree models of ai.onnx.ml work, its scalers and encoders do not.
        "ai.onnx.ml" => {
            let works = ["Linear", "SVM", "Tree"].iter().any(|prefix| node.op.starts_with(prefix));
            return (!works).then_some(0);
        }
        _ => return None,
    }
    match node.op.as_str() {
        // Every output element sums over the kernel of its group.
        "Conv" | "ConvInteger" => output()?.checked_mul(product(input(1)?.get(1..)?)?),
        "QLinearConv" => output()?.checked_mul(product(input(3)?.get(1..)?)?),
        // Every input element is spread over the kernel of its group.
        "ConvTranspose" => product(&input(0)?)?.checked_mul(product(input(1)?.get(1..)?)?),
        "Gemm" => {
            let a = input(0)?;
            let inner = if node.attributes.int("transA", 0) != 0 { a.first() } else { a.last() };
            output()?.checked_mul(*inner?)
        }
        "MatMul" | "MatMulInteger" | "QLinearMatMul" => output()?.checked_mul(*input(0)?.last()?),
        "Einsum" => einsum(node.attributes.str("equation", ""), &|i| input(i)),
        // Each step of each sequence multiplies by both matrices, whose first axis is the direction.
        "LSTM" | "GRU" | "RNN" => {
            let matrices = product(&input(1)?)?.checked_add(product(&input(2)?)?)?;
            product(input(0)?.get(..2)?)?.checked_mul(matrices)
        }
        "Attention" | "DeformConv" => None,
        _ if node.attributes.graphs().next().is_some() => None,
        _ => Some(0),
    }
}

/// Every combination of subscripts is one multiply-accumulate.
fn einsum(equation: &str, input: &dyn Fn(usize) -> Option<Vec<u64>>) -> Option<u64> {
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    if equation.contains("...") {
        return None;
    }
    let mut sizes: BTreeMap<char, u64> = BTreeMap::new();
    for (index, term) in equation.split("->").next()?.split(',').enumerate() {
        for (letter, size) in term.chars().zip(input(index)?) {
            let known = sizes.entry(letter).or_insert(size);
            *known = size.max(*known);
        }
    }
    product(&sizes.into_values().collect::<Vec<_>>())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::{Attributes, ElementType, Model, Tensor};

    fn weight(graph: &mut Graph, shape: &[usize]) -> ValueId {
        graph.add_constant("w", Tensor::filled(ElementType::Float, shape, 1.0))
    }

    fn batched(graph: &mut Graph, dims: &[usize]) -> ValueId {
        let mut shape = Shape::known(dims);
        shape.0.insert(0, Dim::Symbol("N".to_owned()));
        graph.add_input("x", ElementType::Float, shape)
    }

    /// The cost of one node, whose output has a shape.
    fn one(graph: &mut Graph, op: &str, inputs: &[ValueId], attributes: Attributes, output: &[usize]) -> Cost {
        let y = graph.op(op, "y", inputs, attributes);
        let mut shape = Shape::known(output);
        shape.0.insert(0, Dim::Symbol("N".to_owned()));
        graph.set_type(y, Some(ElementType::Float), Some(shape));
        node_cost(graph, graph.value(y).producer().unwrap())
    }

    #[test]
    fn convolutions_count_kernels() {
        let mut graph = Graph::new("g", 20);
        let (x, w) = (batched(&mut graph, &[8, 10, 10]), weight(&mut graph, &[16, 4, 3, 3]));
        let b = weight(&mut graph, &[16]);
        let grouped = one(&mut graph, "Conv", &[x, w, b], Attributes::new().with("group", 2), &[16, 8, 8]);
        assert_eq!(grouped, Cost { parameters: 16 * 4 * 9 + 16, macs: Some(16 * 64 * 4 * 9) });
        let w = weight(&mut graph, &[8, 5, 2, 2]);
        let up = one(&mut graph, "ConvTranspose", &[x, w], Attributes::new(), &[5, 11, 11]);
        assert_eq!(up, Cost { parameters: 160, macs: Some(800 * 5 * 4) });
    }

    #[test]
    fn products_count_the_inner_axis() {
        let mut graph = Graph::new("g", 20);
        let x = batched(&mut graph, &[7]);
        let (w, b) = (weight(&mut graph, &[1, 7]), weight(&mut graph, &[1]));
        let attributes = Attributes::new().with("transB", 1);
        let gemm = one(&mut graph, "Gemm", &[x, w, b], attributes, &[1]);
        assert_eq!(gemm, Cost { parameters: 8, macs: Some(7) }, "a bias of one channel is a parameter");
        let w = weight(&mut graph, &[7, 3]);
        assert_eq!(
            one(&mut graph, "MatMul", &[x, w], Attributes::new(), &[3]),
            Cost { parameters: 21, macs: Some(21) }
        );
        let attributes = Attributes::new().with("equation", "ni, ij -> nj");
        assert_eq!(one(&mut graph, "Einsum", &[x, w], attributes, &[3]).macs, Some(21));
    }

    #[test]
    fn recurrence_counts_steps_and_directions() {
        let mut graph = Graph::new("g", 20);
        let shape = Shape(vec![Dim::Known(25), Dim::Symbol("N".to_owned()), Dim::Known(12)]);
        let x = graph.add_value("sequence");
        graph.set_type(x, Some(ElementType::Float), Some(shape));
        batched(&mut graph, &[12, 25]);
        let (w, r) = (weight(&mut graph, &[2, 24, 12]), weight(&mut graph, &[2, 24, 8]));
        let gru = one(&mut graph, "GRU", &[x, w, r], Attributes::new(), &[2, 8]);
        assert_eq!(gru, Cost { parameters: 2 * 24 * 20, macs: Some(25 * 2 * 24 * 20) });
    }

    #[test]
    fn what_is_not_known_is_none_and_what_is_huge_does_not_overflow() {
        let mut graph = Graph::new("g", 20);
        let x = graph.add_input("x", ElementType::Float, Shape(vec![Dim::Symbol("N".to_owned()), Dim::Unknown]));
        let w = weight(&mut graph, &[7, 3]);
        assert_eq!(one(&mut graph, "MatMul", &[x, w], Attributes::new(), &[3]).macs, None);
        assert_eq!(model_macs(&graph), None);
        assert_eq!(one(&mut graph, "Relu", &[x], Attributes::new(), &[3]).macs, Some(0));
        let huge = batched(&mut graph, &[usize::MAX]);
        assert_eq!(one(&mut graph, "MatMul", &[huge, w], Attributes::new(), &[usize::MAX]).macs, None);
    }

    #[test]
    fn tied_weights_count_once_and_settings_not_at_all() {
        let mut graph = Graph::new("g", 20);
        let x = batched(&mut graph, &[4]);
        let w = weight(&mut graph, &[4, 4]);
        let epsilon = graph.add_constant("epsilon", Tensor::scalar(ElementType::Float, 1e-5));
        let shape = graph.add_constant("shape", Tensor::int64s(&[-1, 4]));
        let h = graph.op("MatMul", "h", &[x, w], Attributes::new());
        let h = graph.op("MatMul", "h", &[h, w], Attributes::new());
        let h = graph.op("Add", "h", &[h, epsilon], Attributes::new());
        let h = graph.op("Reshape", "h", &[h, shape], Attributes::new());
        let statistics: Vec<ValueId> = (0..4).map(|_| weight(&mut graph, &[4])).collect();
        graph.op("BatchNormalization", "y", &[&[h], &statistics[..]].concat(), Attributes::new());
        assert_eq!(model_parameters(&graph), 16 + 2 * 4);
    }

    #[test]
    fn published_models_have_the_parameters_they_should() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let expected = [
            ("letters", (16 * 16 + 16) + (16 * 26 + 26)),
            ("mnist8", (8 * 25 + 8) + (16 * 8 * 25 + 16) + (256 * 10 + 10)),
            ("jv_cnn4", 521),
            ("jv_gru8", 24 * (12 + 8) + 48 + 8 * 9 + 9),
        ];
        for (name, count) in expected {
            let model = Model::open(root.join(format!("{name}.onnx"))).unwrap();
            assert_eq!(model_parameters(&Graph::from_model(&model).unwrap()), count, "{name}");
        }
    }
}
