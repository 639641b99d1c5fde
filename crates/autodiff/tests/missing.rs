//! Operators without a kernel at the working opset: lowered they compute what the runtime computes at the opset of the file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{error, numbers, run, try_run, weighted_sum, with_gradients};
use dendrite_autodiff::lower_missing;
use dendrite_onnx::{
    Attributes, ElementType, Graph, Shape, Tensor, ValueId, WORKING_OPSET, ops::cost::model_parameters,
    upgrade::upgrade,
};
use dendrite_runtime::infer_shapes;

fn f32s(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_f32(shape, &numbers(shape.iter().product(), seed))
}

fn a() -> Attributes {
    Attributes::new()
}

/// Regions of all sizes within 8 by 10 pixels, at twice that scale; one without extent, and one that reaches outside.
const REGIONS: [f32; 20] =
    [1.0, 2.0, 13.0, 9.0, 0.0, 0.0, 19.0, 15.0, 6.5, 3.25, 8.0, 14.5, 5.0, 5.0, 5.0, 5.0, -3.0, 8.0, 24.0, 21.0];
const SAMPLES: [i64; 5] = [0, 1, 1, 0, 1];

/// A node at its own opset, of x [2, 3, 8, 10] and constants.
fn graph(op: &str, opset: i64, attributes: Attributes, constants: &[Tensor]) -> Graph {
    let mut graph = Graph::new("case", opset);
    let mut inputs = vec![graph.add_input("x", ElementType::Float, Shape::known(&[2, 3, 8, 10]))];
    inputs.extend(constants.iter().map(|tensor| graph.add_constant("constant", tensor.clone())));
    let y = graph.op(op, "y", &inputs, attributes);
    graph.set_type(y, Some(ElementType::Float), None);
    graph.outputs = vec![y];
    graph
}

fn cases() -> Vec<(String, Graph)> {
    let mut cases = Vec::new();
    let (regions, samples) = (Tensor::from_f32(&[5, 4], &REGIONS), Tensor::int64s(&SAMPLES));
    for opset in [10, 16, 21] {
        for ratio in [0, 1, 2] {
            for mode in ["avg", "max"] {
                for coordinates in ["half_pixel", "output_half_pixel"] {
                    let mut attributes = a()
                        .with("output_height", 3)
                        .with("output_width", 2)
                        .with("sampling_ratio", ratio)
                        .with("spatial_scale", 0.5f32)
                        .with("mode", mode);
                    match (opset, coordinates) {
                        (10, "half_pixel") => continue,
                        (10, _) => {}
                        (_, mode) => attributes.set("coordinate_transformation_mode", mode),
                    }
                    let name = format!("RoiAlign {opset}: {ratio} {mode} {coordinates}");
                    cases.push((name, graph("RoiAlign", opset, attributes, &[regions.clone(), samples.clone()])));
                }
            }
        }
    }
    let rows = REGIONS.chunks(4).zip(SAMPLES).flat_map(|(region, sample)| {
        // Those that reach outside are not defined alike everywhere.
        [sample as f32].into_iter().chain(region.iter().map(|v| v.clamp(0.0, 14.0))).collect::<Vec<_>>()
    });
    let rows = Tensor::from_f32(&[5, 5], &rows.collect::<Vec<_>>());
    let attributes = a().with("pooled_shape", vec![3, 2]).with("spatial_scale", 0.5f32);
    for opset in [8, 21] {
        let rows = [rows.clone()];
        cases.push((format!("MaxRoiPool {opset}"), graph("MaxRoiPool", opset, attributes.clone(), &rows)));
        for p in 1..4 {
            cases.push((format!("GlobalLpPool {opset}: {p}"), graph("GlobalLpPool", opset, a().with("p", p), &[])));
        }
    }
    cases
}

/// The node as it is lowered in a working copy.
fn lowered(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    infer_shapes(&mut graph).unwrap();
    upgrade(&mut graph, WORKING_OPSET).unwrap();
    lower_missing(&mut graph).unwrap();
    graph
}

#[test]
fn lowered_operators_compute_the_same() {
    let x = f32s(&[2, 3, 8, 10], 1);
    for (name, graph) in cases() {
        let expected = &run(&graph, &[("x", &x)])["y"];
        let mut copy = lowered(&graph);
        let found = &run(&copy, &[("x", &x)])["y"];
        assert_eq!(found.shape(), expected.shape(), "{name}");
        let expected: Vec<f64> = expected.to_f64().unwrap();
        let off = error(&found.to_f32().unwrap(), &expected);
        assert_eq!(model_parameters(&copy), model_parameters(&graph), "{name}");
        println!("{name}: {off:.1e}");
        assert!(off < 2e-6, "{name}: {off:.1e}\n{found:?}\n{expected:?}");
        // The number of samples is not written into it, and shapes are inferred as before.
        infer_shapes(&mut copy).unwrap();
        let y = copy.find("y").unwrap();
        assert_eq!(copy.value(y).shape, Some(Shape::known(found.shape())), "{name}");
        let input = copy.inputs[0];
        copy.set_type(input, Some(ElementType::Float), Some(Shape::known(&[3, 3, 8, 10])));
        try_run(&copy, &[("x", &f32s(&[3, 3, 8, 10], 2))]).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// Where this fails the runtime has learned an operator, which then need not be replaced any more.
#[test]
fn there_is_no_kernel_at_the_working_opset() {
    let x = f32s(&[2, 3, 8, 10], 1);
    for (name, mut graph) in cases() {
        graph.opsets.insert(String::new(), WORKING_OPSET);
        assert!(try_run(&graph, &[("x", &x)]).is_err(), "{name}");
    }
}

#[test]
fn what_has_a_kernel_stays() {
    let mut graph = Graph::new("g", WORKING_OPSET);
    let x = graph.add_input("x", ElementType::Float, Shape::known(&[2, 3, 8, 10]));
    let y = graph.op("LpPool", "y", &[x], a().with("kernel_shape", vec![2, 2]));
    graph.outputs = vec![y];
    let before = graph.to_model().unwrap();
    lower_missing(&mut graph).unwrap();
    assert_eq!(graph.to_model().unwrap(), before);
}

#[test]
fn operators_in_sub_graphs_are_lowered_too() {
    let branch = |op: &'static str, name: &str| {
        let mut body = Graph::new("branch", 16);
        let x = body.capture("x", Some(ElementType::Float), Some(Shape::known(&[2, 3, 8, 10])));
        let y = body.op(op, name, &[x], a());
        body.set_type(y, Some(ElementType::Float), None);
        body.outputs = vec![y];
        body.to_body().unwrap()
    };
    let mut graph = Graph::new("g", 16);
    graph.add_input("x", ElementType::Float, Shape::known(&[2, 3, 8, 10]));
    let yes = graph.add_input("yes", ElementType::Bool, Shape::default());
    let branches =
        a().with("then_branch", branch("GlobalLpPool", "p")).with("else_branch", branch("GlobalMaxPool", "q"));
    let y = graph.op("If", "y", &[yes], branches);
    graph.set_type(y, Some(ElementType::Float), None);
    graph.outputs = vec![y];
    let copy = lowered(&graph);
    let x = f32s(&[2, 3, 8, 10], 3);
    for yes in [0u8, 1] {
        let yes = Tensor::new(ElementType::Bool, vec![], vec![yes]).unwrap();
        let [found, expected] = [&copy, &graph].map(|g| run(g, &[("x", &x), ("yes", &yes)])["y"].clone());
        assert!(error(&found.to_f32().unwrap(), &expected.to_f64().unwrap()) < 1e-6);
    }
}

#[test]
fn gradients_agree_with_differences() {
    for (name, graph) in cases().into_iter().filter(|(name, _)| name.starts_with("RoiAlign 16: 0 avg")) {
        let mut graph = lowered(&graph);
        let x = f32s(&[2, 3, 8, 10], 1);
        let y = graph.outputs[0];
        let weight = f32s(&[5, 3, 3, 2], 4);
        let loss = weighted_sum(&mut graph, &[(y, weight)]);
        graph.outputs = vec![loss];
        let wrt: Vec<ValueId> = graph.inputs.clone();
        let gradient = with_gradients(&mut graph, loss, &wrt).unwrap()[0].clone().unwrap();
        let at = |x: &Tensor| run(&graph, &[("x", x)]);
        let loss = graph.name_of(loss).to_owned();
        let computed = at(&x)[&gradient].to_f32().unwrap();
        // Averages of interpolated pixels are linear in the pixels: a long step is as good as a short one.
        for seed in 0..4 {
            let direction = numbers(computed.len(), 50 + seed);
            let moved = |by: f32| {
                let x: Vec<f32> = x.to_f32().unwrap().iter().zip(&direction).map(|(v, d)| v + by * d).collect();
                f64::from(at(&Tensor::from_f32(&[2, 3, 8, 10], &x))[&loss].to_f32().unwrap()[0])
            };
            let difference = (moved(1.0) - moved(-1.0)) / 2.0;
            let expected: f64 = computed.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
            let off = (difference - expected).abs() / expected.abs().max(1.0);
            assert!(off < 1e-5, "{name}: {expected} by the rule, {difference} by differences");
        }
    }
}
