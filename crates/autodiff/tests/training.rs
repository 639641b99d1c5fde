//! Losses and optimizers against plain double-precision implementations.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{error, input, numbers, run, with_gradients};
use dendrite_autodiff::{
    loss::{self, Loss},
    optimizer::{self, Algorithm, Optimizer},
};
use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Model, Shape, Tensor, WORKING_OPSET};

const WEIGHT: [f64; 3] = [1.0, 0.5, 0.0];

fn log_softmax(p: &[f64]) -> Vec<f64> {
    let max = p.iter().fold(f64::NEG_INFINITY, |m, v| m.max(*v));
    let total = p.iter().map(|v| (v - max).exp()).sum::<f64>().ln() + max;
    p.iter().map(|v| v - total).collect()
}

/// Check a loss of predictions [3, 4]; `reference` gives the loss of one row.
fn check(loss: &Loss, target: Tensor, reference: impl Fn(&[f64], usize) -> f64, scale: f64) {
    let mut graph = Graph::new("loss", WORKING_OPSET);
    let p = input(&mut graph, "p", &[3, 4]);
    let values = loss::attach(&mut graph, p, loss).unwrap();
    graph.outputs = vec![values.per_sample, values.mean];
    let name = with_gradients(&mut graph, values.mean, &[p]).unwrap()[0].clone().unwrap();
    let at: Vec<f64> = numbers(12, 3).into_iter().map(|v| f64::from(v) * scale).collect();
    let x = Tensor::from_f32(&[3, 4], &at.iter().map(|v| *v as f32).collect::<Vec<_>>());
    let weight = Tensor::from_f32(&[3], &WEIGHT.map(|w| w as f32));
    let results = run(&graph, &[("p", &x), ("target", &target), ("weight", &weight)]);
    let losses = |at: &[f64]| -> Vec<f64> { (0..3).map(|n| reference(&at[4 * n..4 * n + 4], n)).collect() };
    let mean = |at: &[f64]| losses(at).iter().zip(WEIGHT).map(|(l, w)| l * w).sum::<f64>() / WEIGHT.iter().sum::<f64>();
    let got = |v| results[graph.name_of(v)].to_f32().unwrap();
    assert!(error(&got(values.per_sample), &losses(&at)) < 1e-6, "{loss:?}");
    assert!(error(&got(values.mean), &[mean(&at)]) < 1e-6, "{loss:?}");
    let gradient: Vec<f64> = (0..12)
        .map(|i| {
            let moved = |by: f64| {
                let mut at = at.clone();
                at[i] += by;
                mean(&at)
            };
            (moved(1e-6) - moved(-1e-6)) / 2e-6
        })
        .collect();
    assert!(error(&results[&name].to_f32().unwrap(), &gradient) < 1e-5, "{loss:?}");
}

fn floats(values: &[f64]) -> Tensor {
    Tensor::from_f32(&[3, 4], &values.iter().map(|v| *v as f32).collect::<Vec<_>>())
}

#[test]
fn losses_agree_with_double_precision() {
    let labels = [2usize, 0, 3];
    let target = Tensor::from_i64(&[3], &labels.map(|l| l as i64));
    check(&Loss::classes(), target, |p, n| -log_softmax(p)[labels[n]], 3.0);

    let soft = [0.7, 0.1, 0.1, 0.1, 0.0, 0.5, 0.5, 0.0, 0.25, 0.25, 0.25, 0.25].map(|v: f64| f64::from(v as f32));
    let row = |n: usize| soft[4 * n..4 * n + 4].to_vec();
    let cross = |p: &[f64], n: usize| -log_softmax(p).iter().zip(row(n)).map(|(l, t)| l * t).sum::<f64>();
    check(&Loss::soft_classes(), floats(&soft), cross, 3.0);

    let mean = |p: &[f64], n: usize, f: &dyn Fn(f64, f64) -> f64| {
        p.iter().zip(row(n)).map(|(p, t)| f(*p, t)).sum::<f64>() / 4.0
    };
    let bce = |p: f64, t: f64| p.max(0.0) - p * t + (-p.abs()).exp().ln_1p();
    check(&Loss::Bce, floats(&soft), |p, n| mean(p, n, &bce), 3.0);
    // Logits at which a naive logarithm of the sigmoid is infinite.
    check(&Loss::Bce, floats(&soft), |p, n| mean(p, n, &bce), 200.0);
    check(&Loss::Mse, floats(&soft), |p, n| mean(p, n, &|p, t| (p - t).powi(2)), 2.0);
    check(&Loss::L1, floats(&soft), |p, n| mean(p, n, &|p, t| (p - t).abs()), 2.0);
    let huber = |p: f64, t: f64| {
        let r = (p - t).abs();
        if r <= 0.5 { r * r / 2.0 } else { 0.5 * (r - 0.25) }
    };
    check(&Loss::Huber { delta: 0.5 }, floats(&soft), |p, n| mean(p, n, &huber), 2.0);
}

#[test]
fn cross_entropy_of_positions() {
    // [N, C, d] and [N, d, C]: the mean over positions.
    let (at, labels) = (numbers(12, 4), [0i64, 2, 1, 1]);
    for axis in [1, 2] {
        let mut graph = Graph::new("loss", WORKING_OPSET);
        let shape = if axis == 1 { [2, 3, 2] } else { [2, 2, 3] };
        let p = input(&mut graph, "p", &shape);
        let loss = Loss::CrossEntropy { axis, soft: false, ignore: None, class_weights: None, smoothing: 0.0 };
        let values = loss::attach(&mut graph, p, &loss).unwrap();
        graph.outputs = vec![values.per_sample];
        assert_eq!(graph.value(values.target).shape, Some(Shape::known(&[2, 2])));
        let results = run(
            &graph,
            &[
                ("p", &Tensor::from_f32(&shape, &at)),
                ("target", &Tensor::from_i64(&[2, 2], &labels)),
                ("weight", &Tensor::from_f32(&[2], &[1.0, 1.0])),
            ],
        );
        let score = |n: usize, d: usize, c: usize| at[6 * n + if axis == 1 { 2 * c + d } else { 3 * d + c }];
        let expected: Vec<f64> = (0..2)
            .map(|n| {
                let column = |d: usize| (0..3).map(|c| f64::from(score(n, d, c))).collect::<Vec<_>>();
                (0..2).map(|d| -log_softmax(&column(d))[labels[2 * n + d] as usize]).sum::<f64>() / 2.0
            })
            .collect();
        assert!(error(&results[graph.name_of(values.per_sample)].to_f32().unwrap(), &expected) < 1e-6);
    }
}

/// Positions that are ignored count nowhere, classes count by their weights, and the mean is that over positions, as
/// PyTorch's cross_entropy has it.
#[test]
fn positions_count_by_their_class() {
    let (at, labels, weights, sample) = (numbers(12, 5), [0i64, -100, 2, 1], [0.5f32, 2.0, 3.0], [1.0f32, 0.25]);
    for class_weights in [None, Some(weights.to_vec())] {
        let loss = Loss::CrossEntropy {
            axis: 1,
            soft: false,
            ignore: Some(-100),
            class_weights: class_weights.clone(),
            smoothing: 0.1,
        };
        let mut graph = Graph::new("loss", WORKING_OPSET);
        let p = input(&mut graph, "p", &[2, 3, 2]);
        let values = loss::attach(&mut graph, p, &loss).unwrap();
        graph.outputs = vec![values.mean];
        let name = with_gradients(&mut graph, values.mean, &[p]).unwrap()[0].clone().unwrap();
        let results = run(
            &graph,
            &[
                ("p", &Tensor::from_f32(&[2, 3, 2], &at)),
                ("target", &Tensor::from_i64(&[2, 2], &labels)),
                ("weight", &Tensor::from_f32(&[2], &sample)),
            ],
        );
        let mean = |at: &[f64]| {
            let (mut sum, mut total) = (0.0, 0.0);
            for (n, d) in [(0, 0), (1, 0), (1, 1)] {
                let column: Vec<f64> = (0..3).map(|c| at[6 * n + 2 * c + d]).collect();
                let label = labels[2 * n + d] as usize;
                let counts = class_weights.as_ref().map_or(1.0, |w| f64::from(w[label])) * f64::from(sample[n]);
                let log_p = log_softmax(&column);
                sum -= counts * (0.9 * log_p[label] + 0.1 * log_p.iter().sum::<f64>() / 3.0);
                total += counts;
            }
            sum / total
        };
        let at: Vec<f64> = at.iter().map(|v| f64::from(*v)).collect();
        assert!(error(&results[graph.name_of(values.mean)].to_f32().unwrap(), &[mean(&at)]) < 1e-6);
        let gradient: Vec<f64> = (0..12)
            .map(|i| {
                let moved = |by: f64| {
                    mean(&at.iter().enumerate().map(|(k, v)| v + if k == i { by } else { 0.0 }).collect::<Vec<_>>())
                };
                (moved(1e-6) - moved(-1e-6)) / 2e-6
            })
            .collect();
        assert!(error(&results[&name].to_f32().unwrap(), &gradient) < 1e-5);
    }
}

#[test]
fn a_loss_of_ones_own_is_a_graph() {
    let mut own = Graph::new("own", WORKING_OPSET);
    let (t, p) = (input(&mut own, "target", &[3, 4]), input(&mut own, "prediction", &[3, 4]));
    let r = own.op("Sub", "r", &[p, t], Attributes::new());
    let power = own.add_constant("four", Tensor::from_f32(&[], &[4.0]));
    let r = own.op("Pow", "fourth", &[r, power], Attributes::new());
    let axes = own.add_constant("axes", Tensor::int64s(&[1]));
    let l = own.op("ReduceSum", "l", &[r, axes], Attributes::new().with("keepdims", 0i64));
    own.set_type(l, Some(ElementType::Float), Some(Shape::known(&[3])));
    own.outputs.push(l);
    let bytes = prost_bytes(&own);
    // Types within the loss graph are the caller's to infer; here they are declared by running inference.
    let mut graph = Graph::new("loss", WORKING_OPSET);
    let p = input(&mut graph, "p", &[3, 4]);
    let values = loss::attach(&mut graph, p, &Loss::Graph(Box::new(Model::from_bytes(bytes).unwrap()))).unwrap();
    graph.outputs = vec![values.per_sample, values.mean];
    dendrite_runtime::infer_shapes(&mut graph).unwrap();
    let name = with_gradients(&mut graph, values.mean, &[p]).unwrap()[0].clone().unwrap();
    let at = numbers(12, 3);
    let results = run(
        &graph,
        &[
            ("p", &Tensor::from_f32(&[3, 4], &at)),
            ("target", &Tensor::from_f32(&[3, 4], &[0.0; 12])),
            ("weight", &Tensor::from_f32(&[3], &[1.0; 3])),
        ],
    );
    let expected: Vec<f64> = at.iter().map(|v| 4.0 * f64::from(*v).powi(3) / 3.0).collect();
    assert!(error(&results[&name].to_f32().unwrap(), &expected) < 1e-6);
}

/// Opset 11 has the axes of ReduceSum as an attribute. A symbol of the loss graph says nothing about the graph's of that
/// name.
#[test]
fn a_loss_of_an_older_opset_is_upgraded() {
    let rows = |rest: usize| Shape(vec![Dim::Symbol("N".to_owned()), Dim::Known(rest)]);
    let mut own = Graph::new("own", 11);
    let p = own.add_input("prediction", ElementType::Float, rows(4));
    let t = own.add_input("target", ElementType::Float, rows(4));
    let r = own.op("Sub", "r", &[p, t], Attributes::new());
    own.set_type(r, Some(ElementType::Float), Some(rows(4)));
    let squares = own.op("Mul", "squares", &[r, r], Attributes::new());
    own.set_type(squares, Some(ElementType::Float), Some(rows(4)));
    let axes = Attributes::new().with("axes", vec![-1i64]).with("keepdims", 0i64);
    let l = own.op("ReduceSum", "l", &[squares], axes);
    own.set_type(l, Some(ElementType::Float), Some(Shape(vec![Dim::Symbol("N".to_owned())])));
    own.outputs.push(l);
    let model = Model::from_bytes(prost_bytes(&own)).unwrap();

    let mut graph = Graph::new("loss", WORKING_OPSET);
    let p = input(&mut graph, "p", &[3, 4]);
    let values = loss::attach(&mut graph, p, &Loss::Graph(Box::new(model))).unwrap();
    assert_eq!(graph.value(values.target).shape, Some(Shape::known(&[3, 4])));
    assert_eq!(graph.value(values.per_sample).shape, Some(Shape::known(&[3])));
    graph.outputs = vec![values.per_sample, values.mean];
    dendrite_runtime::infer_shapes(&mut graph).unwrap();
    let name = with_gradients(&mut graph, values.mean, &[p]).unwrap()[0].clone().unwrap();
    let at = numbers(12, 3);
    let results = run(
        &graph,
        &[
            ("p", &Tensor::from_f32(&[3, 4], &at)),
            ("target", &Tensor::from_f32(&[3, 4], &[0.5; 12])),
            ("weight", &Tensor::from_f32(&[3], &[1.0; 3])),
        ],
    );
    let expected: Vec<f64> = at.iter().map(|v| 2.0 * (f64::from(*v) - 0.5) / 3.0).collect();
    assert!(error(&results[&name].to_f32().unwrap(), &expected) < 1e-6);
}

fn prost_bytes(graph: &Graph) -> Vec<u8> {
    use prost::Message;
    graph.to_model().unwrap().encode_to_vec()
}

#[test]
fn losses_that_do_not_fit_are_refused() {
    let mut graph = Graph::new("loss", WORKING_OPSET);
    let p = input(&mut graph, "p", &[3]);
    let e = loss::attach(&mut graph, p, &Loss::classes()).unwrap_err();
    assert_eq!(e.to_string(), "prediction 'p' of shape [3] has no axis of classes");
    let label = graph.add_input("label", ElementType::Int64, Shape::known(&[3]));
    let e = loss::attach(&mut graph, label, &Loss::Mse).unwrap_err();
    assert_eq!(e.to_string(), "prediction 'label' is int64, not a float");
}

/// One step of an algorithm on one element: (p, m, v, g, step, lr) to (p, m, v).
fn step(algorithm: &Algorithm, (p, m, v): (f64, f64, f64), g: f64, t: i32, lr: f64) -> (f64, f64, f64) {
    match *algorithm {
        Algorithm::AdamW { beta1, beta2, epsilon, weight_decay } => {
            let (m, v) = (beta1 * m + (1.0 - beta1) * g, beta2 * v + (1.0 - beta2) * g * g);
            let (mh, vh) = (m / (1.0 - beta1.powi(t)), v / (1.0 - beta2.powi(t)));
            (p - lr * weight_decay * p - lr * mh / (vh.sqrt() + epsilon), m, v)
        }
        Algorithm::Adam { beta1, beta2, epsilon, weight_decay } => {
            let decoupled = Algorithm::AdamW { beta1, beta2, epsilon, weight_decay: 0.0 };
            step(&decoupled, (p, m, v), g + weight_decay * p, t, lr)
        }
        Algorithm::Sgd { momentum, nesterov, weight_decay } => {
            let g = g + weight_decay * p;
            let v = momentum * v + g;
            (p - lr * if nesterov { g + momentum * v } else { v }, m, v)
        }
    }
}

/// Twenty steps on sum(c * (p - 1)^2) / 2 of parameters of several shapes, one of them too large to be joined with others.
fn train(optimizer: &Optimizer) {
    let shapes: [&[usize]; 4] = [&[2, 3], &[], &[4], &[130, 130]];
    let mut graph = Graph::new("steps", WORKING_OPSET);
    let (mut params, mut factors) = (Vec::new(), Vec::new());
    for (i, shape) in shapes.iter().enumerate() {
        let p = input(&mut graph, &format!("p{i}"), shape);
        let c = Tensor::from_f32(shape, &numbers(shape.iter().product(), 7 + i as u64));
        factors.push(c.clone());
        let gradient = dendrite_autodiff::expr::Builder::scope(&mut graph, "g", |b| {
            (b.constant(c) * (b.value(p) - 1.0)).typed(ElementType::Float, Some(Shape::known(shape))).id()
        });
        params.push((p, gradient));
    }
    let values = optimizer::attach(&mut graph, optimizer, &params).unwrap();
    assert_eq!(values.updated.len(), 4);
    graph.outputs = values.updated.iter().chain(values.state.iter().map(|(_, out, _)| out)).copied().collect();
    let mut tensors: Vec<Tensor> = shapes
        .iter()
        .enumerate()
        .map(|(i, s)| Tensor::from_f32(s, &numbers(s.iter().product(), 30 + i as u64)))
        .collect();
    let mut state: Vec<Tensor> =
        values.state.iter().map(|(_, _, s)| Tensor::filled(ElementType::Float, &s.as_known().unwrap(), 0.0)).collect();
    let mut reference: Vec<Vec<(f64, f64, f64)>> =
        tensors.iter().map(|t| t.to_f64().unwrap().into_iter().map(|p| (p, 0.0, 0.0)).collect()).collect();
    let factors: Vec<Vec<f64>> = factors.iter().map(|c| c.to_f64().unwrap()).collect();
    let mut session = common::session(&graph, dendrite_runtime::Optimization::All).unwrap();
    for t in 1..=20 {
        let lr = 0.05 / f64::from(t);
        let scalars = [Tensor::from_f32(&[], &[lr as f32]), Tensor::from_f32(&[], &[t as f32])];
        let mut feeds: Vec<(&str, &Tensor)> =
            vec![(graph.name_of(values.learning_rate), &scalars[0]), (graph.name_of(values.step), &scalars[1])];
        feeds.extend(params.iter().map(|(p, _)| graph.name_of(*p)).zip(&tensors));
        feeds.extend(values.state.iter().map(|(i, _, _)| graph.name_of(*i)).zip(&state));
        // Plain descent knows no step; a session accepts feeds of its inputs only.
        let results: Vec<Tensor> = session.run(&feeds).unwrap().into_iter().map(|(_, t)| t).collect();
        tensors = results[..4].to_vec();
        state = results[4..].to_vec();

        let gradients: Vec<Vec<f64>> = reference
            .iter()
            .zip(&factors)
            .map(|(p, c)| p.iter().zip(c).map(|(p, c)| c * (p.0 - 1.0)).collect())
            .collect();
        let norm = gradients.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
        let scale = optimizer.clip_norm.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0));
        for (block, gradient) in reference.iter_mut().zip(&gradients) {
            for (element, g) in block.iter_mut().zip(gradient) {
                *element = step(&optimizer.algorithm, *element, g * scale, t, lr);
            }
        }
    }
    for (tensor, block) in tensors.iter().zip(&reference) {
        let expected: Vec<f64> = block.iter().map(|e| e.0).collect();
        let e = error(&tensor.to_f32().unwrap(), &expected);
        assert!(e < 2e-5, "{optimizer:?}: {e:.1e} at {:?}", tensor.shape());
    }
}

#[test]
fn optimizers_agree_with_double_precision() {
    let adam = |weight_decay| Algorithm::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay };
    let algorithms = [
        adam(0.0),
        adam(0.1),
        Algorithm::Adam { beta1: 0.8, beta2: 0.99, epsilon: 1e-6, weight_decay: 0.05 },
        Algorithm::Sgd { momentum: 0.0, nesterov: false, weight_decay: 0.0 },
        Algorithm::Sgd { momentum: 0.9, nesterov: false, weight_decay: 0.01 },
        Algorithm::Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.0 },
    ];
    for algorithm in algorithms {
        for clip_norm in [None, Some(0.5)] {
            train(&Optimizer { algorithm: algorithm.clone(), clip_norm });
        }
    }
}
