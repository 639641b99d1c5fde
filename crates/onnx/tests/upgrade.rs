//! The upgraded working copy computes what the original computes, for every operator that is rewritten, at the opsets that
//! have its old form; and a graph freed from its fixed batch computes what the fixed one does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use dendrite_onnx::{
    Attributes, ElementType, Error, Graph, Model, Shape, Tensor, ValueId, WORKING_OPSET,
    batch::{BATCH_SYMBOL, fixed_batch, free_batch},
    upgrade::upgrade,
};
use dendrite_runtime::{Optimization, Session, SessionOptions, infer_shapes};
use prost::Message;

/// Reproducible numbers in -1..1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn floats(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_f32(shape, &numbers(shape.iter().product(), seed))
}

/// One node between inputs and outputs. Constants are initializers, the others inputs of the model.
struct Case {
    op: &'static str,
    opset: i64,
    attributes: Attributes,
    inputs: Vec<Option<Tensor>>,
    constant: usize,
    outputs: usize,
}

impl Case {
    fn new(op: &'static str, opset: i64, attributes: Attributes, inputs: Vec<Tensor>) -> Self {
        let inputs: Vec<Option<Tensor>> = inputs.into_iter().map(Some).collect();
        Case { op, opset, attributes, constant: 1, inputs, outputs: 1 }
    }

    fn outputs(self, outputs: usize) -> Self {
        Case { outputs, ..self }
    }

    fn name(&self) -> String {
        let given: Vec<&str> = self.attributes.as_slice().iter().map(|a| a.name()).collect();
        format!("{} at {} with {given:?}", self.op, self.opset)
    }

    /// The model at its own opset, with the feeds of its inputs.
    fn model(&self) -> (Graph, Vec<(String, Tensor)>) {
        let mut graph = Graph::new("case", self.opset);
        let mut feeds = Vec::new();
        let inputs: Vec<Option<ValueId>> = self
            .inputs
            .iter()
            .enumerate()
            .map(|(i, tensor)| {
                let tensor = tensor.as_ref()?;
                let name = format!("i{i}");
                Some(if i < self.constant {
                    feeds.push((name.clone(), tensor.clone()));
                    graph.add_input(&name, tensor.element_type(), Shape::known(tensor.shape()))
                } else {
                    graph.add_constant(&name, tensor.clone())
                })
            })
            .collect();
        let outputs = graph.add_node(self.op, "o", &inputs, self.attributes.clone(), self.outputs);
        for (i, output) in outputs.iter().enumerate() {
            let kind = if self.op == "TopK" && i == 1 { ElementType::Int64 } else { ElementType::Float };
            graph.set_type(*output, Some(kind), None);
        }
        graph.outputs = outputs;
        (graph, feeds)
    }
}

fn run_bytes(bytes: &[u8], feeds: &[(String, Tensor)]) -> dendrite_runtime::Result<BTreeMap<String, Tensor>> {
    let options = SessionOptions { threads: 1, optimization: Optimization::Off, ..Default::default() };
    let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (n.as_str(), t)).collect();
    Ok(Session::from_bytes(bytes, &options)?.run(&feeds)?.into_iter().collect())
}

fn run(graph: &Graph, feeds: &[(String, Tensor)]) -> dendrite_runtime::Result<BTreeMap<String, Tensor>> {
    run_bytes(&graph.to_model().unwrap().encode_to_vec(), feeds)
}

fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let (a, b) = (found.to_f64().unwrap(), expected.to_f64().unwrap());
    let scale = b.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() <= 1e-6 * scale, "{what}: {a} is not {b}\n{found:?}\n{expected:?}");
    }
}

/// Run at the old opset, upgrade with and without known types, run again.
fn check(case: &Case) {
    let (graph, feeds) = case.model();
    let name = case.name();
    let before = run(&graph, &feeds).unwrap_or_else(|e| panic!("{name}, before: {e}"));
    compare(case, &before);
}

fn compare(case: &Case, before: &BTreeMap<String, Tensor>) {
    let (graph, feeds) = case.model();
    let name = case.name();
    for typed in [true, false] {
        let mut new = graph.clone();
        if typed && infer_shapes(&mut new).is_err() {
            continue; // what ONNX Runtime does not run it does not infer either
        }
        upgrade(&mut new, WORKING_OPSET).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(new.opsets[""], WORKING_OPSET);
        let after = run(&new, &feeds).unwrap_or_else(|e| panic!("{name}, after: {e}"));
        for (output, expected) in before {
            assert_close(&format!("{name}, {output}"), &after[output], expected);
        }
    }
}

fn a() -> Attributes {
    Attributes::new()
}

#[test]
fn softmax_in_the_middle() {
    for op in ["Softmax", "LogSoftmax", "Hardmax"] {
        for opset in 7..=13 {
            for axis in 0..=2 {
                check(&Case::new(op, opset, a().with("axis", axis), vec![floats(&[2, 3, 4], 1)]));
            }
            check(&Case::new(op, opset, a(), vec![floats(&[2, 3, 4], 2)]));
            check(&Case::new(op, opset, a(), vec![floats(&[2, 3], 2)]));
            if opset >= 11 {
                for axis in [-1, -2, -3] {
                    check(&Case::new(op, opset, a().with("axis", axis), vec![floats(&[2, 3, 4], 3)]));
                }
            }
        }
    }
}

#[test]
fn axes_that_became_inputs() {
    let x = || vec![floats(&[2, 1, 3, 1], 4)];
    for opset in [7, 11, 12] {
        check(&Case::new("Squeeze", opset, a().with("axes", vec![1i64, 3]), x()));
        check(&Case::new("Squeeze", opset, a(), x()));
        check(&Case::new("Unsqueeze", opset, a().with("axes", vec![0i64, 3]), x()));
    }
    check(&Case::new("Unsqueeze", 11, a().with("axes", vec![-1i64]), x()));
    let reductions = [
        "ReduceSum",
        "ReduceMax",
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSumExp",
        "ReduceSumSquare",
    ];
    for op in reductions {
        for opset in [7, 11, 12, 13, 17, 18] {
            if opset > 12 && op == "ReduceSum" || opset > 17 {
                continue;
            }
            let x = || vec![floats(&[2, 3, 4], 5)];
            check(&Case::new(op, opset, a().with("axes", vec![1i64]), x()));
            check(&Case::new(op, opset, a().with("axes", vec![0i64, 2]).with("keepdims", 0), x()));
            check(&Case::new(op, opset, a(), x()));
        }
    }
    let positive = Tensor::from_f32(&[2, 3], &[0.5, 1.0, 2.0, 3.0, 0.1, 4.0]);
    for opset in [7, 13, 17] {
        check(&Case::new("ReduceLogSum", opset, a().with("axes", vec![1i64]), vec![positive.clone()]));
    }
}

#[test]
fn split_with_and_without_sizes() {
    for opset in [7, 11, 12] {
        let x = || vec![floats(&[2, 6], 6)];
        check(&Case::new("Split", opset, a().with("axis", 1).with("split", vec![1i64, 2, 3]), x()).outputs(3));
        check(&Case::new("Split", opset, a().with("axis", 1), x()).outputs(3));
        check(&Case::new("Split", opset, a(), x()).outputs(2));
    }
    for opset in [13, 17] {
        let sizes = vec![floats(&[2, 6], 6), Tensor::int64s(&[4, 2])];
        check(&Case::new("Split", opset, a().with("axis", 1), sizes).outputs(2));
        check(&Case::new("Split", opset, a().with("axis", 1), vec![floats(&[2, 6], 6)]).outputs(2));
    }
}

#[test]
fn pad_and_clip() {
    for opset in [7, 8, 9, 10] {
        let x = || vec![floats(&[2, 3, 4], 7)];
        let pads = a().with("pads", vec![0i64, 1, 2, 0, 0, 1]);
        check(&Case::new("Pad", opset, pads.clone(), x()));
        check(&Case::new("Pad", opset, pads.clone().with("value", 1.5f32), x()));
        check(&Case::new("Pad", opset, pads.clone().with("mode", "edge"), x()));
        check(&Case::new("Pad", opset, pads.with("mode", "reflect"), x()));
        check(&Case::new("Pad", opset, a().with("pads", vec![0i64, -1, 0, 0, 0, -2]), x()));
        check(&Case::new("Clip", opset, a().with("min", -0.5f32).with("max", 0.25f32), x()));
        check(&Case::new("Clip", opset, a().with("min", 0.0f32), x()));
        check(&Case::new("Clip", opset, a().with("max", 0.1f32), x()));
        check(&Case::new("Clip", opset, a(), x()));
    }
    check(&Case::new("Clip", 11, a(), vec![floats(&[3], 1), Tensor::scalar(ElementType::Float, 0.0)]));
}

#[test]
fn slice_and_top_k() {
    for opset in [7, 9] {
        let x = || vec![floats(&[4, 5, 6], 8)];
        let range = a().with("starts", vec![1i64, -4]).with("ends", vec![3i64, 1000]);
        check(&Case::new("Slice", opset, range.clone(), x()));
        check(&Case::new("Slice", opset, range.with("axes", vec![2i64, 0]), x()));
        check(&Case::new("TopK", opset, a().with("k", 3).with("axis", 1), x()).outputs(2));
        check(&Case::new("TopK", opset, a().with("k", 2), x()).outputs(2));
    }
    check(&Case::new("TopK", 10, a().with("axis", 0), vec![floats(&[4, 5], 8), Tensor::int64s(&[2])]).outputs(2));
    let range = vec![floats(&[4, 5], 8), Tensor::int64s(&[1]), Tensor::int64s(&[3]), Tensor::int64s(&[1])];
    check(&Case::new("Slice", 10, a(), range));
}

#[test]
fn upsample_and_resize() {
    let x = || floats(&[1, 2, 3, 4], 9);
    for mode in ["nearest", "linear"] {
        for scales in [[1.0f32, 1.0, 2.0, 3.0], [1.0, 1.0, 1.5, 2.5]] {
            let given = a().with("mode", mode);
            check(&Case::new("Upsample", 7, given.clone().with("scales", scales.to_vec()), vec![x()]));
            check(&Case::new("Upsample", 8, given.clone().with("scales", scales.to_vec()), vec![x()]));
            check(&Case::new("Upsample", 9, given.clone(), vec![x(), Tensor::from_f32(&[4], &scales)]));
            check(&Case::new("Resize", 10, given, vec![x(), Tensor::from_f32(&[4], &scales)]));
        }
        // Downwards, and one axis down while the other goes up.
        for scales in [[1.0f32, 1.0, 0.5, 0.6], [1.0, 1.0, 0.67, 0.4]] {
            let scales = Tensor::from_f32(&[4], &scales);
            check(&Case::new("Resize", 10, a().with("mode", mode), vec![floats(&[1, 2, 7, 10], 9), scales]));
        }
    }
    let scales = Tensor::from_f32(&[4], &[1.0, 1.0, 0.5, 2.0]);
    check(&Case::new("Resize", 10, a().with("mode", "linear"), vec![x(), scales.clone()]));
    let (mut graph, _) = Case::new("Resize", 10, a(), vec![x(), scales]).model();
    let refused = upgrade(&mut graph, WORKING_OPSET).unwrap_err();
    assert!(refused.to_string().contains("shrinks another"), "{refused}");
    for mode in ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"] {
        let given = a().with("coordinate_transformation_mode", mode).with("mode", "linear");
        let inputs = vec![x(), Tensor::from_f32(&[0], &[]), Tensor::from_f32(&[4], &[1.0, 1.0, 1.5, 2.0])];
        check(&Case::new("Resize", 11, given, inputs));
    }
}

#[test]
fn dropout_and_batch_normalisation() {
    let x = || floats(&[2, 3, 4], 10);
    for opset in [7, 10, 11, 12] {
        let given = if opset < 12 { a().with("ratio", 0.4f32) } else { a() };
        check(&Case::new("Dropout", opset, given, vec![x()]));
    }
    let variance = Tensor::from_f32(&[3], &[0.5, 1.0, 2.0]);
    let inputs = || vec![x(), floats(&[3], 11), floats(&[3], 12), floats(&[3], 13), variance.clone()];
    for opset in [7, 8, 9, 13, 14, 15] {
        check(&Case::new("BatchNormalization", opset, a().with("epsilon", 1e-3f32).with("momentum", 0.5f32), inputs()));
        check(&Case::new("BatchNormalization", opset, a(), inputs()));
    }
    check(&Case::new("BatchNormalization", 7, a().with("spatial", 1), inputs()));
    let (mut graph, _) = Case::new("BatchNormalization", 7, a().with("spatial", 0), inputs()).model();
    let refused = upgrade(&mut graph, WORKING_OPSET).unwrap_err();
    assert!(refused.to_string().contains("spatial"), "{refused}");
}

#[test]
fn grid_sample_and_fourier() {
    for opset in [16, 17, 19] {
        for mode in ["bilinear", "nearest", "bicubic"] {
            for padding in ["zeros", "border", "reflection"] {
                let given = a().with("mode", mode).with("padding_mode", padding).with("align_corners", 1);
                check(&Case::new(
                    "GridSample",
                    opset,
                    given,
                    vec![floats(&[1, 2, 4, 5], 14), floats(&[1, 3, 3, 2], 15)],
                ));
            }
        }
        check(&Case::new("GridSample", opset, a(), vec![floats(&[1, 2, 4, 5], 14), floats(&[1, 3, 3, 2], 15)]));
    }
    for opset in [17, 19] {
        for axis in [1, 2] {
            check(&Case::new("DFT", opset, a().with("axis", axis), vec![floats(&[2, 5, 6, 1], 16)]));
        }
        check(&Case::new("DFT", opset, a(), vec![floats(&[2, 5, 2], 16)]));
        check(&Case::new("DFT", opset, a().with("onesided", 1), vec![floats(&[2, 8, 1], 16)]));
    }
}

#[test]
fn scatter_and_regions() {
    for opset in [9, 10] {
        let inputs = vec![floats(&[3, 3], 17), Tensor::from_i64(&[2, 3], &[1, 0, 2, 0, 2, 1]), floats(&[2, 3], 18)];
        check(&Case::new("Scatter", opset, a(), inputs.clone()));
        let inputs = vec![inputs[0].clone(), Tensor::from_i64(&[3, 2], &[1, 0, 2, 0, 2, 1]), floats(&[3, 2], 18)];
        check(&Case::new("Scatter", opset, a().with("axis", 1), inputs));
    }
    // ONNX Runtime has no kernel for RoiAlign at the working opset: the attribute is all there is to see.
    for (opset, mode) in [(10, "output_half_pixel"), (15, "output_half_pixel"), (16, "half_pixel")] {
        let boxes = floats(&[2, 4], 20);
        let inputs = vec![floats(&[1, 2, 8, 8], 19), boxes, Tensor::int64s(&[0, 0])];
        let (mut graph, _) = Case::new("RoiAlign", opset, a(), inputs).model();
        upgrade(&mut graph, WORKING_OPSET).unwrap();
        let (_, node) = graph.nodes().next().unwrap();
        assert_eq!(node.attributes.str("coordinate_transformation_mode", "half_pixel"), mode, "opset {opset}");
    }
}

#[test]
fn group_normalisation_of_groups() {
    // y = (x - mean) / sqrt(var + epsilon) of each group, scaled by the group's numbers.
    let x = floats(&[1, 4, 3], 20);
    let (scale, bias) = ([0.5f32, 2.0], [0.1f32, -0.3]);
    let values = x.to_f64().unwrap();
    let mut expected = Vec::new();
    for group in 0..2 {
        let part = &values[group * 6..group * 6 + 6];
        let mean = part.iter().sum::<f64>() / 6.0;
        let variance = part.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 6.0;
        let deviation = (variance + 1e-5).sqrt();
        expected.extend(
            part.iter().map(|v| ((v - mean) / deviation * f64::from(scale[group]) + f64::from(bias[group])) as f32),
        );
    }
    for opset in [18, 20] {
        let inputs = vec![x.clone(), Tensor::from_f32(&[2], &scale), Tensor::from_f32(&[2], &bias)];
        let case = Case::new("GroupNormalization", opset, a().with("num_groups", 2), inputs);
        let before = BTreeMap::from([("o".to_owned(), Tensor::from_f32(&[1, 4, 3], &expected))]);
        compare(&case, &before);
    }
}

#[test]
fn swish_by_its_formula() {
    for alpha in [1.0f32, 1.7] {
        let x = floats(&[2, 3], 21);
        let value = |v: &f32| (f64::from(*v) / (1.0 + (-f64::from(alpha * v)).exp())) as f32;
        let expected: Vec<f32> = x.to_f32().unwrap().iter().map(value).collect();
        for opset in [24, 25, 26] {
            let case = Case::new("Swish", opset, a().with("alpha", alpha), vec![x.clone()]);
            compare(&case, &BTreeMap::from([("o".to_owned(), Tensor::from_f32(&[2, 3], &expected))]));
        }
    }
}

#[test]
fn old_names_do_not_clash_with_new_constants() {
    // The model has a value called like the constant that the upgrade adds.
    let mut graph = Graph::new("clash", 11);
    let x = graph.add_input("x", ElementType::Float, Shape::known(&[2, 1]));
    let taken = graph.add_constant("y/axes", floats(&[2], 22));
    let y = graph.op("Squeeze", "y", &[x], a().with("axes", vec![1i64]));
    let z = graph.op("Add", "z", &[y, taken], a());
    graph.set_type(z, Some(ElementType::Float), None);
    graph.outputs = vec![z];
    let feeds = [("x".to_owned(), floats(&[2, 1], 23))];
    let before = run(&graph, &feeds).unwrap();
    upgrade(&mut graph, WORKING_OPSET).unwrap();
    assert_close("z", &run(&graph, &feeds).unwrap()["z"], &before["z"]);
}

/// A branch in a branch, of which the inner one reads a value of the main graph and changes with the opset.
#[test]
fn bodies_are_upgraded() {
    let branch = |build: &dyn Fn(&mut Graph, ValueId) -> ValueId| {
        let mut body = Graph::new("branch", 11);
        let x = body.capture("x", Some(ElementType::Float), Some(Shape::known(&[2, 3])));
        let y = build(&mut body, x);
        body.set_type(y, Some(ElementType::Float), Some(Shape::known(&[2, 1, 3])));
        body.outputs = vec![y];
        body.to_body().unwrap()
    };
    let widened = |op: &'static str, name: &'static str| {
        branch(&move |body: &mut Graph, x| {
            let y = body.op(op, &format!("{name}_{op}"), &[x], a());
            body.op("Unsqueeze", name, &[y], a().with("axes", vec![1]))
        })
    };
    let inner = a().with("then_branch", widened("Relu", "p")).with("else_branch", widened("Neg", "q"));
    let outer = branch(&|body: &mut Graph, _| {
        let yes = body.capture("yes", Some(ElementType::Bool), Some(Shape::known(&[])));
        body.op("If", "inner", &[yes], inner.clone())
    });
    let mut graph = Graph::new("g", 11);
    graph.add_input("x", ElementType::Float, Shape::known(&[2, 3]));
    let yes = graph.add_input("yes", ElementType::Bool, Shape::known(&[]));
    let y = graph.op("If", "y", &[yes], a().with("then_branch", outer).with("else_branch", widened("Abs", "r")));
    graph.set_type(y, Some(ElementType::Float), None);
    graph.outputs = vec![y];
    let mut new = graph.clone();
    infer_shapes(&mut new).unwrap();
    upgrade(&mut new, WORKING_OPSET).unwrap();
    for yes in [0u8, 1] {
        let yes = Tensor::new(ElementType::Bool, vec![], vec![yes]).unwrap();
        let feeds = [("x".to_owned(), floats(&[2, 3], 5)), ("yes".to_owned(), yes)];
        assert_close("branches", &run(&new, &feeds).unwrap()["y"], &run(&graph, &feeds).unwrap()["y"]);
    }
}

/// h' = sin(h + v u w), of v [features] forwards and u backwards, steps counted; h', the sum of v and u, and the count go out.
/// Three samples of up to four steps.
fn scan_of_a_batch(
    directions: Option<Vec<i64>>,
    lengths: Option<&[i64]>,
    counted: bool,
) -> (Graph, Vec<(String, Tensor)>) {
    let mut body = Graph::new("step", 8);
    let vector = |body: &mut Graph, name: &str| body.add_input(name, ElementType::Float, Shape::known(&[2]));
    let h = vector(&mut body, "h");
    let count = counted.then(|| body.add_input("count", ElementType::Int64, Shape::known(&[1])));
    let [v, u] = ["v", "u"].map(|name| vector(&mut body, name));
    let w = body.capture("w", Some(ElementType::Float), Some(Shape::known(&[2])));
    let product = body.op("Mul", "product", &[v, u], a());
    let product = body.op("Mul", "weighted", &[product, w], a());
    let sum = body.op("Add", "sum", &[h, product], a());
    // Squeeze and Unsqueeze are rewritten within the body.
    let wide = body.op("Unsqueeze", "wide", &[sum], a().with("axes", vec![0]));
    let sum = body.op("Squeeze", "narrow", &[wide], a().with("axes", vec![0]));
    let next = body.op("Sin", "next", &[sum], a());
    let out = body.op("Identity", "out", &[next], a());
    let both = body.op("Add", "both", &[v, u], a());
    let mut outputs = vec![next, out, both];
    if let Some(count) = count {
        let one = body.add_constant("one", Tensor::int64s(&[1]));
        let after = body.op("Add", "count_after", &[count, one], a());
        let told = body.op("Identity", "told", &[after], a());
        outputs = vec![next, after, out, both, told];
    }
    for output in &outputs {
        let integer = ["count_after", "told"].contains(&body.name_of(*output));
        let kind = if integer { ElementType::Int64 } else { ElementType::Float };
        body.set_type(*output, Some(kind), Some(Shape::known(if integer { &[1] } else { &[2] })));
    }
    body.outputs = outputs.clone();

    let mut graph = Graph::new("scan", 8);
    graph.add_constant("w", Tensor::from_f32(&[2], &[0.75, -1.5]));
    let mut feeds = Vec::new();
    let mut input = |graph: &mut Graph, name: &str, tensor: Tensor| {
        let id = graph.add_input(name, tensor.element_type(), Shape::known(tensor.shape()));
        feeds.push((name.to_owned(), tensor));
        Some(id)
    };
    let mut inputs = vec![lengths.and_then(|l| input(&mut graph, "lengths", Tensor::int64s(l)))];
    inputs.push(input(&mut graph, "first", floats(&[3, 2], 1)));
    if counted {
        inputs.push(input(&mut graph, "counted", Tensor::from_i64(&[3, 1], &[0, 10, 20])));
    }
    inputs.push(input(&mut graph, "vs", floats(&[3, 4, 2], 2)));
    inputs.push(input(&mut graph, "us", floats(&[3, 4, 2], 3)));
    let mut attributes = a().with("body", body.to_body().unwrap()).with("num_scan_inputs", 2);
    if let Some(directions) = directions {
        attributes.set("directions", directions);
    }
    let found = graph.add_node("Scan", "y", &inputs, attributes, outputs.len());
    for (found, inner) in found.iter().zip(&outputs) {
        graph.set_type(*found, body.value(*inner).element_type, None);
    }
    graph.outputs = found;
    (graph, feeds)
}

#[test]
fn a_scan_over_a_batch() {
    for directions in [None, Some(vec![0, 0]), Some(vec![0, 1]), Some(vec![1, 1])] {
        for lengths in [None, Some(&[4, 4, 4][..]), Some(&[1, 4, 2]), Some(&[3, 2, 1])] {
            for counted in [false, true] {
                let (graph, feeds) = scan_of_a_batch(directions.clone(), lengths, counted);
                let what = format!("{directions:?} {lengths:?} {counted}");
                let before = run(&graph, &feeds).unwrap_or_else(|e| panic!("{what}, before: {e}"));
                for typed in [true, false] {
                    let mut new = graph.clone();
                    if typed {
                        infer_shapes(&mut new).unwrap();
                    }
                    upgrade(&mut new, WORKING_OPSET).unwrap();
                    let after = run(&new, &feeds).unwrap_or_else(|e| panic!("{what}, after: {e}"));
                    for (output, expected) in &before {
                        assert_close(&format!("{what}, {output}"), &after[output], expected);
                    }
                    infer_shapes(&mut new).unwrap();
                    let shape = |name: &str| new.value(new.find(name).unwrap()).shape.clone().unwrap();
                    assert_eq!(shape("y"), Shape::known(&[3, 2]), "{what}");
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_upgraded_is_refused() {
    let mut graph = Graph::new("new", WORKING_OPSET + 1);
    assert!(matches!(upgrade(&mut graph, WORKING_OPSET), Err(Error::Unsupported { .. })));
    let mut graph = Graph::new("old", 6);
    assert!(matches!(upgrade(&mut graph, WORKING_OPSET), Err(Error::Unsupported { .. })));
}

// ---- batch ------------------------------------------------------------------------------------------------------------

/// Convolution, a way from [n, c, ..] to a matrix, a product.
fn fixed(batch: usize, flat: &str) -> Graph {
    let mut graph = Graph::new("fixed", 13);
    let x = graph.add_input("x", ElementType::Float, Shape::known(&[batch, 2, 4, 4]));
    let kernel = graph.add_constant("kernel", floats(&[3, 2, 3, 3], 31));
    let matrix = graph.add_constant("matrix", floats(&[3, 4, 5], 32));
    let c = graph.op("Conv", "c", &[x, kernel], a());
    let target = |g: &mut Graph, values: &[i64]| g.add_constant("target", Tensor::int64s(values));
    let n = batch as i64;
    let h = match flat {
        "flatten" => graph.op("Flatten", "h", &[c], a().with("axis", 1)),
        "known" => {
            let t = target(&mut graph, &[n, 12]);
            graph.op("Reshape", "h", &[c, t], a())
        }
        "inferred" => {
            let t = target(&mut graph, &[n, -1]);
            graph.op("Reshape", "h", &[c, t], a())
        }
        "batch inferred" => {
            let t = target(&mut graph, &[-1, 12]);
            graph.op("Reshape", "h", &[c, t], a())
        }
        "twice" => {
            // There and back: the second target begins with the batch as well.
            let t = target(&mut graph, &[n, 3, 4]);
            let first = graph.op("Reshape", "r", &[c, t], a());
            let t = target(&mut graph, &[n, 12]);
            graph.op("Reshape", "h", &[first, t], a())
        }
        other => panic!("{other}"),
    };
    // A Reshape of weights is none of the batch's business, even if its target begins with the same number.
    let t = target(&mut graph, &[12, 5]);
    let m = graph.op("Reshape", "m", &[matrix, t], a());
    let t = target(&mut graph, &[1, 5]);
    let flat_bias = graph.add_constant("bias", floats(&[5], 33));
    let bias = graph.op("Reshape", "bias_row", &[flat_bias, t], a());
    let y = graph.op("MatMul", "product", &[h, m], a());
    let y = graph.op("Add", "y", &[y, bias], a());
    graph.set_type(y, Some(ElementType::Float), Some(Shape::known(&[batch, 5])));
    graph.outputs = vec![y];
    graph
}

#[test]
fn a_freed_batch_computes_the_same() {
    for batch in [1usize, 4] {
        for flat in ["flatten", "known", "inferred", "batch inferred", "twice"] {
            let model = Model::from_bytes(fixed(batch, flat).to_model().unwrap().encode_to_vec()).unwrap();
            let mut graph = Graph::from_model(&model).unwrap();
            infer_shapes(&mut graph).unwrap();
            upgrade(&mut graph, WORKING_OPSET).unwrap();
            let inputs: Vec<_> = graph.inputs.iter().map(|input| (*input, 0)).collect();
            assert_eq!(fixed_batch(&graph, &inputs), Some(batch));
            free_batch(&mut graph, &inputs, batch);
            assert_eq!(fixed_batch(&graph, &inputs), None);
            infer_shapes(&mut graph).unwrap_or_else(|e| panic!("batch {batch}, {flat}: {e}"));
            let shape = graph.value(graph.outputs[0]).shape.clone().unwrap();
            assert_eq!(shape.to_string(), format!("[{BATCH_SYMBOL}, 5]"), "batch {batch}, {flat}");

            let x = floats(&[3 * batch, 2, 4, 4], 34);
            let rows = x.to_f32().unwrap();
            let whole = run(&graph, &[("x".to_owned(), x)]).unwrap()["y"].clone();
            let mut parts = Vec::new();
            for part in rows.chunks(rows.len() / 3) {
                let x = Tensor::from_f32(&[batch, 2, 4, 4], part);
                parts.extend(run_bytes(model.bytes(), &[("x".to_owned(), x)]).unwrap()["y"].to_f32().unwrap());
            }
            assert_close(&format!("batch {batch}, {flat}"), &whole, &Tensor::from_f32(&[3 * batch, 5], &parts));
        }
    }
}
