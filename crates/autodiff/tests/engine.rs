//! The engine on whole graphs: paths, stops, dynamic sizes, second derivatives, refusals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use common::{error, input, numbers, run, weighted_sum, with_gradients};
use dendrite_autodiff::{Error, expr::Builder, gradients, loss};
use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Model, Shape, Tensor, ValueId, WORKING_OPSET};

/// A node whose result is float32 of the given shape.
fn op(graph: &mut Graph, op: &str, inputs: &[ValueId], attributes: Attributes, shape: &[Dim]) -> ValueId {
    let v = graph.op(op, op, inputs, attributes);
    graph.set_type(v, Some(ElementType::Float), Some(Shape(shape.to_vec())));
    v
}

fn known(dims: &[usize]) -> Vec<Dim> {
    Shape::known(dims).0
}

fn f32s(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_f32(shape, &numbers(shape.iter().product(), seed))
}

#[test]
fn only_the_path_is_differentiated() {
    let mut graph = Graph::new("path", WORKING_OPSET);
    let (x, w, unused) =
        (input(&mut graph, "x", &[2, 3]), input(&mut graph, "w", &[3]), input(&mut graph, "unused", &[3]));
    // Not differentiable, and not between w and the loss.
    let odd = op(&mut graph, "Unheard", &[x], Attributes::new(), &known(&[2, 3]));
    let y = op(&mut graph, "Mul", &[odd, w], Attributes::new(), &known(&[2, 3]));
    let total = weighted_sum(&mut graph, &[(y, f32s(&[2, 3], 1))]);
    let found = gradients(&mut graph, total, &[w, unused], &HashSet::new()).unwrap();
    assert!(found[0].is_some() && found[1].is_none());

    let refused = gradients(&mut graph, total, &[x], &HashSet::new()).unwrap_err();
    assert_eq!(refused.to_string(), "node 'Unheard': the gradient of Unheard (opset 26) is not implemented");
    assert!(refused.hint().unwrap().contains("freeze the parameters before this node"));
}

#[test]
fn a_stop_is_treated_as_constant() {
    // loss = sum((x * x) * x) with the square stopped: the gradient is x^2, not 3 x^2.
    let mut graph = Graph::new("stop", WORKING_OPSET);
    let x = input(&mut graph, "x", &[4]);
    let square = op(&mut graph, "Mul", &[x, x], Attributes::new(), &known(&[4]));
    let cube = op(&mut graph, "Mul", &[square, x], Attributes::new(), &known(&[4]));
    let total = weighted_sum(&mut graph, &[(cube, Tensor::from_f32(&[4], &[1.0; 4]))]);
    let all = with_gradients(&mut graph, total, &[x]).unwrap()[0].clone().unwrap();
    let found = gradients(&mut graph, total, &[x, square], &HashSet::from([square])).unwrap();
    let names: Vec<String> = found
        .iter()
        .map(|v| {
            let out = op(&mut graph, "Identity", &[v.unwrap()], Attributes::new(), &known(&[4]));
            graph.outputs.push(out);
            graph.name_of(out).to_owned()
        })
        .collect();
    let at = Tensor::from_f32(&[4], &[-1.5, 0.5, 1.0, 2.0]);
    let results = run(&graph, &[("x", &at)]);
    let expect = |name: &str, f: fn(f64) -> f64| {
        let expected: Vec<f64> = at.to_f64().unwrap().into_iter().map(f).collect();
        assert!(error(&results[name].to_f32().unwrap(), &expected) < 1e-6, "{name}");
    };
    expect(&all, |x| 3.0 * x * x);
    expect(&names[0], |x| x * x);
    // The stopped value can itself be differentiated.
    expect(&names[1], |x| x);
}

#[test]
fn steps_have_gradient_zero() {
    let zero = ["Floor", "Ceil", "Round", "Sign", "Equal", "Greater", "ArgMax", "Shape", "Size", "IsNaN"];
    for name in zero {
        let mut graph = Graph::new("zero", WORKING_OPSET);
        let x = input(&mut graph, "x", &[3]);
        let inputs = if matches!(name, "Equal" | "Greater") { vec![x, x] } else { vec![x] };
        let y = graph.op(name, "y", &inputs, Attributes::new());
        let y = graph.op("Cast", "cast", &[y], Attributes::new().with("to", 1i64));
        graph.set_type(y, Some(ElementType::Float), Some(Shape::known(&[3])));
        let total = weighted_sum(&mut graph, &[(y, f32s(&[3], 1))]);
        assert_eq!(gradients(&mut graph, total, &[x], &HashSet::new()).unwrap(), vec![None], "{name}");
    }
}

#[test]
fn graphs_and_losses_that_make_no_sense_are_refused() {
    let mut graph = Graph::new("old", 17);
    let x = input(&mut graph, "x", &[]);
    let old = gradients(&mut graph, x, &[x], &HashSet::new()).unwrap_err();
    assert_eq!(old.to_string(), "the graph is at opset 17, gradients are built at opset 26");
    let mut graph = Graph::new("vector", WORKING_OPSET);
    let x = input(&mut graph, "x", &[3]);
    let vector = gradients(&mut graph, x, &[x], &HashSet::new()).unwrap_err();
    assert_eq!(vector.to_string(), "'x' is not a float of one element");
    assert!(matches!(vector, Error::Invalid { .. }) && vector.hint().is_some());
}

/// Convolution, bias, ReLU, overlapping pooling, a product with a matrix, cross-entropy; the batch has no size.
fn network(batch: Dim) -> (Graph, Vec<ValueId>, loss::LossValues) {
    let mut graph = Graph::new("network", WORKING_OPSET);
    let n = batch;
    let dims = |rest: &[usize]| -> Vec<Dim> { std::iter::once(n.clone()).chain(known(rest)).collect() };
    let x = graph.add_input("x", ElementType::Float, Shape(dims(&[2, 8, 8])));
    let kernel = input(&mut graph, "kernel", &[3, 2, 3, 3]);
    let shift = input(&mut graph, "shift", &[3, 1, 1]);
    let matrix = input(&mut graph, "matrix", &[27, 4]);
    let same = Attributes::new().with("auto_pad", "SAME_UPPER");
    let y = op(&mut graph, "Conv", &[x, kernel], same, &dims(&[3, 8, 8]));
    let y = op(&mut graph, "Add", &[y, shift], Attributes::new(), &dims(&[3, 8, 8]));
    let y = op(&mut graph, "Relu", &[y], Attributes::new(), &dims(&[3, 8, 8]));
    let pool = Attributes::new().with("kernel_shape", vec![3i64, 3]).with("strides", vec![2i64, 2]);
    let y = op(&mut graph, "MaxPool", &[y], pool, &dims(&[3, 3, 3]));
    let target = graph.add_constant("target_shape", Tensor::int64s(&[-1, 27]));
    let y = op(&mut graph, "Reshape", &[y, target], Attributes::new(), &dims(&[27]));
    let y = op(&mut graph, "MatMul", &[y, matrix], Attributes::new(), &dims(&[4]));
    let values = loss::attach(&mut graph, y, &loss::Loss::classes()).unwrap();
    graph.outputs.push(values.mean);
    (graph, vec![kernel, shift, matrix], values)
}

fn network_feeds(batch: usize) -> HashMap<String, Tensor> {
    let labels: Vec<i64> = (0..batch as i64).map(|i| i % 4).collect();
    HashMap::from([
        ("x".to_owned(), f32s(&[batch, 2, 8, 8], 5)),
        ("kernel".to_owned(), f32s(&[3, 2, 3, 3], 6)),
        ("shift".to_owned(), f32s(&[3, 1, 1], 7)),
        ("matrix".to_owned(), f32s(&[27, 4], 8)),
        ("target".to_owned(), Tensor::from_i64(&[batch], &labels)),
        ("weight".to_owned(), Tensor::from_f32(&[batch], &vec![1.0; batch])),
    ])
}

fn borrowed(feeds: &HashMap<String, Tensor>) -> Vec<(&str, &Tensor)> {
    feeds.iter().map(|(n, t)| (n.as_str(), t)).collect()
}

#[test]
fn one_gradient_graph_serves_every_batch_size() {
    for batch in [Dim::Symbol("N".to_owned()), Dim::Unknown] {
        let (mut graph, params, values) = network(batch);
        let names = with_gradients(&mut graph, values.mean, &params).unwrap();
        for size in [3, 5] {
            let (mut fixed, params, values) = network(Dim::Known(size));
            let expected = with_gradients(&mut fixed, values.mean, &params).unwrap();
            let feeds = network_feeds(size);
            let (a, b) = (run(&graph, &borrowed(&feeds)), run(&fixed, &borrowed(&feeds)));
            for (name, reference) in names.iter().flatten().zip(expected.iter().flatten()) {
                let reference = b[reference].to_f64().unwrap();
                assert!(reference.iter().any(|v| v.abs() > 1e-3));
                assert!(error(&a[name].to_f32().unwrap(), &reference) < 1e-5, "{name} at batch {size}");
            }
        }
    }
}

#[test]
fn padding_rows_change_nothing() {
    let (mut graph, params, values) = network(Dim::Symbol("N".to_owned()));
    let names = with_gradients(&mut graph, values.mean, &params).unwrap();
    let whole = network_feeds(3);
    let mut padded = network_feeds(5);
    padded.insert("weight".to_owned(), Tensor::from_f32(&[5], &[1.0, 1.0, 1.0, 0.0, 0.0]));
    let (a, b) = (run(&graph, &borrowed(&padded)), run(&graph, &borrowed(&whole)));
    for name in names.iter().flatten() {
        assert!(error(&a[name].to_f32().unwrap(), &b[name].to_f64().unwrap()) < 1e-6);
    }
}

/// Two layers in double precision, against central differences of the same graph.
#[test]
fn a_network_in_double_precision_agrees_with_differences() {
    let mut graph = Graph::new("double", WORKING_OPSET);
    let double = |graph: &mut Graph, name: &str, shape: &[usize]| {
        graph.add_input(name, ElementType::Double, Shape::known(shape))
    };
    let shapes: [(&str, &[usize]); 5] = [("x", &[4, 3]), ("a", &[3, 5]), ("b", &[5]), ("c", &[5, 2]), ("d", &[1, 2])];
    let inputs: Vec<ValueId> = shapes.iter().map(|(name, shape)| double(&mut graph, name, shape)).collect();
    let total = Builder::scope(&mut graph, "network", |b| {
        let v: Vec<_> = inputs.iter().map(|v| b.value(*v)).collect();
        let y = (v[0].matmul(v[1]) + v[2]).tanh().matmul(v[3]) * v[4].exp();
        (y.sigmoid().ln() * (y * y + 1.0).sqrt()).sum(&[0, 1], false).id()
    });
    graph.outputs.push(total);
    let found = gradients(&mut graph, total, &inputs, &HashSet::new()).unwrap();
    graph.outputs.extend(found.iter().flatten());
    let at: Vec<Vec<f64>> = shapes
        .iter()
        .enumerate()
        .map(|(i, (_, s))| numbers(s.iter().product(), i as u64 + 1).into_iter().map(f64::from).collect())
        .collect();
    let mut session = common::session(&graph, dendrite_runtime::Optimization::Basic).unwrap();
    let mut evaluate = |at: &[Vec<f64>]| -> HashMap<String, Tensor> {
        let tensors: Vec<Tensor> = shapes.iter().zip(at).map(|((_, s), v)| Tensor::from_f64(s, v)).collect();
        let feeds: Vec<_> = shapes.iter().zip(&tensors).map(|((n, _), t)| (*n, t)).collect();
        session.run(&feeds).unwrap().into_iter().collect()
    };
    let exact = evaluate(&at);
    let name = graph.name_of(total).to_owned();
    for (i, gradient) in found.iter().enumerate() {
        let gradient = exact[graph.name_of(gradient.unwrap())].to_f64().unwrap();
        for j in 0..at[i].len() {
            let mut moved = |by: f64| {
                let mut at = at.clone();
                at[i][j] += by;
                evaluate(&at)[&name].to_f64().unwrap()[0]
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((gradient[j] - difference).abs() < 1e-8 * difference.abs().max(1.0), "{} {j}", shapes[i].0);
        }
    }
}

/// The gradient of |gradient|^2 / 2 against differences of the gradient graph: every rule's output has rules itself.
#[test]
fn gradients_are_differentiated_again() {
    type Build = fn(&Builder, &[ValueId]) -> ValueId;
    let smooth: Build = |b, v| {
        let (x, w) = (b.value(v[0]), b.value(v[1]));
        (x.matmul(w).tanh() * x.matmul(w).sigmoid()).exp().sum(&[0, 1], false).id()
    };
    let softmax: Build = |b, v| {
        let y = b.value(v[0]).matmul(b.value(v[1]));
        let p = b.node("Softmax", &[y], Attributes::new(), ElementType::Float, y.shape());
        (p * p * y).sum(&[0, 1], false).id()
    };
    let normalised: Build = |b, v| {
        let y = b.value(v[0]).matmul(b.value(v[1]));
        let scale = b.floats(ElementType::Float, &[4], &[0.5, 1.0, 1.5, -1.0]);
        let z = b.node("LayerNormalization", &[y, scale], Attributes::new(), ElementType::Float, y.shape());
        (z * z * z).sum(&[0, 1], false).id()
    };
    for (which, build) in [smooth, softmax, normalised].into_iter().enumerate() {
        let mut graph = Graph::new("twice", WORKING_OPSET);
        let wrt = [input(&mut graph, "x", &[2, 3]), input(&mut graph, "w", &[3, 4])];
        let total = Builder::scope(&mut graph, "network", |b| build(b, &wrt));
        second_order(graph, total, &wrt, &[&[2, 3], &[3, 4]], which);
    }
}

#[test]
fn convolutions_and_pooling_are_differentiated_again() {
    for (which, stride) in [1i64, 2].into_iter().enumerate() {
        let mut graph = Graph::new("twice", WORKING_OPSET);
        let wrt = [input(&mut graph, "x", &[1, 2, 6, 6]), input(&mut graph, "w", &[2, 2, 3, 3])];
        let strides = Attributes::new().with("strides", vec![stride, stride]).with("pads", vec![1i64, 1, 1, 1]);
        let size = if stride == 1 { 6 } else { 3 };
        let y = op(&mut graph, "Conv", &wrt, strides, &known(&[1, 2, size, size]));
        let y = op(&mut graph, "Tanh", &[y], Attributes::new(), &known(&[1, 2, size, size]));
        let step = if stride == 1 { 2 } else { 1 };
        let pool = Attributes::new().with("kernel_shape", vec![2i64, 2]).with("strides", vec![step, step]);
        let y = op(
            &mut graph,
            "MaxPool",
            &[y],
            pool,
            &known(&[1, 2, size / 2 + usize::from(stride == 2), size / 2 + usize::from(stride == 2)]),
        );
        let shape: Vec<usize> = graph.value(y).shape.as_ref().unwrap().as_known().unwrap();
        let total = weighted_sum(&mut graph, &[(y, f32s(&shape, 3))]);
        second_order(graph, total, &wrt, &[&[1, 2, 6, 6], &[2, 2, 3, 3]], which);
    }
}

fn second_order(mut graph: Graph, total: ValueId, wrt: &[ValueId], shapes: &[&[usize]], which: usize) {
    let first = gradients(&mut graph, total, wrt, &HashSet::new()).unwrap();
    let energy = Builder::scope(&mut graph, "energy", |b| {
        let squares: Vec<_> = first
            .iter()
            .flatten()
            .map(|g| {
                (b.value(*g) * b.value(*g)).sum(&(0..b.value(*g).rank().unwrap()).collect::<Vec<_>>(), false) * 0.5
            })
            .collect();
        b.sum(&squares).unwrap().id()
    });
    let second = gradients(&mut graph, energy, wrt, &HashSet::new()).unwrap();
    graph.outputs = first.iter().chain(&second).flatten().copied().collect();
    let values: Vec<Vec<f32>> =
        shapes.iter().enumerate().map(|(i, s)| numbers(s.iter().product(), 20 + i as u64)).collect();
    let names: Vec<String> = wrt.iter().map(|v| graph.name_of(*v).to_owned()).collect();
    let mut session = common::session(&graph, dendrite_runtime::Optimization::All).unwrap();
    let mut evaluate = |values: &[Vec<f32>]| -> Vec<Vec<f64>> {
        let tensors: Vec<Tensor> = shapes.iter().zip(values).map(|(s, v)| Tensor::from_f32(s, v)).collect();
        let feeds: Vec<_> = names.iter().map(String::as_str).zip(&tensors).collect();
        session.run(&feeds).unwrap().into_iter().map(|(_, t)| t.to_f64().unwrap()).collect()
    };
    let exact = evaluate(&values);
    // d(energy) along a direction is sum(gradient * directional derivative of the gradient).
    let h = 1e-3f32;
    let direction: Vec<Vec<f32>> =
        shapes.iter().enumerate().map(|(i, s)| numbers(s.iter().product(), 40 + i as u64)).collect();
    let mut moved = |by: f32| {
        let at: Vec<Vec<f32>> =
            values.iter().zip(&direction).map(|(v, d)| v.iter().zip(d).map(|(v, d)| v + by * d).collect()).collect();
        evaluate(&at)
    };
    let (ahead, behind) = (moved(h), moved(-h));
    let count = wrt.len();
    let expected: f64 = (0..count)
        .flat_map(|i| (0..exact[i].len()).map(move |j| (i, j)))
        .map(|(i, j)| exact[i][j] * (ahead[i][j] - behind[i][j]) / (2.0 * f64::from(h)))
        .sum();
    let actual: f64 =
        (0..count).flat_map(|i| exact[count + i].iter().zip(&direction[i]).map(|(g, d)| g * f64::from(*d))).sum();
    assert!((actual - expected).abs() < 5e-3 * expected.abs().max(1.0), "{which}: {actual} is not {expected}");
}

/// Real models: the derivative along the gradient is the gradient's norm.
#[test]
fn real_models_agree_with_differences() {
    for (file, output) in [("letters.onnx", "probabilities"), ("mnist8.onnx", ""), ("jv_cnn4.onnx", "")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(file);
        let mut graph = Graph::from_model(&Model::open(path).unwrap()).unwrap();
        dendrite_onnx::upgrade::upgrade(&mut graph, WORKING_OPSET).unwrap();
        let prediction = graph.find(output).unwrap_or(graph.outputs[0]);
        graph.outputs = vec![prediction];
        graph.prune();
        let params: Vec<ValueId> = graph
            .values()
            .filter(|(_, v)| v.constant.as_ref().is_some_and(|t| t.element_type() == ElementType::Float && t.len() > 1))
            .map(|(id, _)| id)
            .collect();
        let reads: HashSet<ValueId> = graph.nodes().flat_map(|(_, n)| n.inputs.clone()).flatten().collect();
        let params: Vec<ValueId> = params.into_iter().filter(|v| reads.contains(v)).collect();
        dendrite_runtime::infer_shapes(&mut graph).unwrap();
        let start: Vec<Tensor> = params.iter().map(|v| graph.constant_to_input(*v).unwrap()).collect();
        let shape = graph.value(prediction).shape.clone().unwrap();
        let classes = shape.0[1].known().unwrap();
        let batch = shape.0[0].known().unwrap_or(4);
        let values = loss::attach(&mut graph, prediction, &loss::Loss::classes()).unwrap();
        graph.outputs = vec![values.mean];
        let names = with_gradients(&mut graph, values.mean, &params).unwrap();
        let data = graph.inputs[0];
        let mut x_shape: Vec<usize> =
            graph.value(data).shape.as_ref().unwrap().0.iter().map(|d| d.known().unwrap_or(batch)).collect();
        x_shape[0] = batch;
        let labels: Vec<i64> = (0..batch).map(|i| ((i + 1) % classes) as i64).collect();
        let (x, target) = (f32s(&x_shape, 9), Tensor::from_i64(&[batch], &labels));
        let weight = Tensor::from_f32(&[batch], &vec![1.0; batch]);
        let mut session = common::session(&graph, dendrite_runtime::Optimization::All).unwrap();
        let mut evaluate = |at: &[Tensor]| -> HashMap<String, Tensor> {
            let mut feeds = vec![(graph.name_of(data), &x), ("target", &target), ("weight", &weight)];
            feeds.extend(params.iter().map(|v| graph.name_of(*v)).zip(at));
            session.run(&feeds).unwrap().into_iter().collect()
        };
        let exact = evaluate(&start);
        let gradient: Vec<Vec<f64>> = names
            .iter()
            .zip(&start)
            .map(|(n, t)| n.as_ref().map_or(vec![0.0; t.len()], |n| exact[n].to_f64().unwrap()))
            .collect();
        let norm = gradient.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        assert!(norm > 1e-3, "{file}");
        let mut moved = |by: f64| {
            let at: Vec<Tensor> = start
                .iter()
                .zip(&gradient)
                .map(|(t, g)| {
                    let values: Vec<f32> =
                        t.to_f64().unwrap().iter().zip(g).map(|(v, g)| (v + by * g / norm) as f32).collect();
                    Tensor::from_f32(t.shape(), &values)
                })
                .collect();
            evaluate(&at)[graph.name_of(values.mean)].to_f64().unwrap()[0]
        };
        let h = 1e-2 / norm.max(1.0);
        let difference = (moved(h) - moved(-h)) / (2.0 * h);
        println!("{file}: {norm} against {difference}");
        assert!((difference - norm).abs() < 1e-2 * norm, "{file}: {norm} is not {difference}");
    }
}

/// Batch statistics: the operator's gradients are those of the formula written out.
#[test]
fn batch_normalization_in_training_mode() {
    let shapes: [&[usize]; 3] = [&[4, 3, 2, 2], &[3], &[3]];
    let results: Vec<Vec<Vec<f32>>> = [true, false]
        .into_iter()
        .map(|operator| {
            let mut graph = Graph::new("training", WORKING_OPSET);
            let wrt: Vec<ValueId> = ["x", "s", "b"].iter().zip(shapes).map(|(n, s)| input(&mut graph, n, s)).collect();
            let y = if operator {
                let mean = graph.add_constant("mean", Tensor::from_f32(&[3], &[0.0; 3]));
                let variance = graph.add_constant("variance", Tensor::from_f32(&[3], &[1.0; 3]));
                let inputs: Vec<_> = wrt.iter().copied().chain([mean, variance]).map(Some).collect();
                let attributes = Attributes::new().with("training_mode", 1i64);
                let y = graph.add_node("BatchNormalization", "y", &inputs, attributes, 3)[0];
                graph.set_type(y, Some(ElementType::Float), Some(Shape::known(shapes[0])));
                y
            } else {
                Builder::scope(&mut graph, "formula", |b| {
                    let (x, s, t) = (b.value(wrt[0]), b.value(wrt[1]), b.value(wrt[2]));
                    let axes = [0, 2, 3];
                    let centred = x - x.mean(&axes, true);
                    let z = centred / ((centred * centred).mean(&axes, true) + 1e-5).sqrt();
                    (z * s.unsqueeze(&[1, 2]) + t.unsqueeze(&[1, 2])).id()
                })
            };
            let total = weighted_sum(&mut graph, &[(y, f32s(shapes[0], 11))]);
            let names = with_gradients(&mut graph, total, &wrt).unwrap();
            let values: Vec<Tensor> = shapes.iter().enumerate().map(|(i, s)| f32s(s, i as u64 + 1)).collect();
            let feeds: Vec<_> = ["x", "s", "b"].into_iter().zip(&values).collect();
            let results = run(&graph, &feeds);
            names.into_iter().map(|n| results[&n.unwrap()].to_f32().unwrap()).collect()
        })
        .collect();
    for (operator, formula) in results[0].iter().zip(&results[1]) {
        let formula: Vec<f64> = formula.iter().map(|v| f64::from(*v)).collect();
        assert!(error(operator, &formula) < 1e-5);
    }
}

/// In training mode each gradient passes where the element was kept, scaled as it was.
#[test]
fn dropout_passes_gradients_where_it_passed_elements() {
    let mut graph = Graph::new("dropout", WORKING_OPSET);
    let x = input(&mut graph, "x", &[64]);
    let ratio = graph.add_constant("ratio", Tensor::from_f32(&[], &[0.25]));
    let training = graph.add_constant("training", Tensor::scalar(ElementType::Bool, 1.0));
    let y = op(&mut graph, "Dropout", &[x, ratio, training], Attributes::new(), &known(&[64]));
    let total = weighted_sum(&mut graph, &[(y, Tensor::from_f32(&[64], &[1.0; 64]))]);
    let name = with_gradients(&mut graph, total, &[x]).unwrap()[0].clone().unwrap();
    graph.outputs.push(y);
    let results = run(&graph, &[("x", &Tensor::from_f32(&[64], &[1.0; 64]))]);
    // With x = 1 and weights 1, y and the gradient are the same numbers.
    let y = results[graph.name_of(y)].to_f64().unwrap();
    assert!(y.contains(&0.0) && y.iter().any(|v| *v > 1.0));
    assert!(error(&results[&name].to_f32().unwrap(), &y) < 1e-6);
}

/// Types change on the way and back.
#[test]
fn casts_between_floats_pass_gradients() {
    let mut graph = Graph::new("cast", WORKING_OPSET);
    let x = input(&mut graph, "x", &[3]);
    let wide = graph.op("Cast", "wide", &[x], Attributes::new().with("to", ElementType::Double as i64));
    graph.set_type(wide, Some(ElementType::Double), Some(Shape::known(&[3])));
    let total = Builder::scope(&mut graph, "sum", |b| (b.value(wide) * b.value(wide)).sum(&[0], false).id());
    let name = with_gradients(&mut graph, total, &[x]).unwrap()[0].clone().unwrap();
    let results = run(&graph, &[("x", &Tensor::from_f32(&[3], &[1.0, -2.0, 0.5]))]);
    assert_eq!(results[&name].to_f32().unwrap(), vec![2.0, -4.0, 1.0]);
}

/// Where windows tile the image, elements that equal the maximum share its gradient, and every other gets none.
#[test]
fn equal_maxima_share_the_gradient() {
    let mut graph = Graph::new("ties", WORKING_OPSET);
    let x = input(&mut graph, "x", &[1, 1, 2, 6]);
    let pool = Attributes::new().with("kernel_shape", vec![2i64, 3]).with("strides", vec![2i64, 3]);
    let y = op(&mut graph, "MaxPool", &[x], pool, &known(&[1, 1, 1, 2]));
    let loss = weighted_sum(&mut graph, &[(y, Tensor::from_f32(&[1, 1, 1, 2], &[6.0, 10.0]))]);
    let name = with_gradients(&mut graph, loss, &[x]).unwrap()[0].clone().unwrap();
    let at = [1.0, 1.0, 0.0, -3.0, -2.0, -9.0, 1.0, -1.0, 0.5, -2.5, -4.0, -5.0];
    let results = run(&graph, &[("x", &Tensor::from_f32(&[1, 1, 2, 6], &at))]);
    let expected = [2.0, 2.0, 0.0, 0.0, 10.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    assert!(error(&results[&name].to_f32().unwrap(), &expected) < 1e-6);
}

/// Scales are refused where they are differentiated, and are no obstacle where they come from a shape.
#[test]
fn scales_made_of_a_shape_are_constants() {
    let build = |from_shape: bool| {
        let mut graph = Graph::new("resize", WORKING_OPSET);
        let x = input(&mut graph, "x", &[1, 1, 2, 4]);
        let s = input(&mut graph, "s", &[4]);
        let dims = op(&mut graph, "Shape", &[x], Attributes::new(), &known(&[4]));
        graph.set_type(dims, Some(ElementType::Int64), Some(Shape::known(&[4])));
        let dims = op(&mut graph, "Cast", &[dims], Attributes::new().with("to", 1i64), &known(&[4]));
        let ones = op(&mut graph, "Div", &[dims, dims], Attributes::new(), &known(&[4]));
        let scales = if from_shape { ones } else { s };
        let attributes = Attributes::new().with("mode", "linear");
        let y = graph.add_node("Resize", "y", &[Some(x), None, Some(scales)], attributes, 1)[0];
        graph.set_type(y, Some(ElementType::Float), Some(Shape::known(&[1, 1, 2, 4])));
        let loss = weighted_sum(&mut graph, &[(y, f32s(&[1, 1, 2, 4], 3))]);
        with_gradients(&mut graph, loss, &[x, s])
    };
    let found = build(true).unwrap();
    assert!(found[0].is_some() && found[1].is_none());
    assert!(matches!(build(false), Err(dendrite_autodiff::Error::Stop { .. })));
}
