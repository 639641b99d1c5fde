//! Every rule against references computed in double precision (scripts/gradient_references.py).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use common::{error, try_run, weighted_sum, with_gradients};
use dendrite_autodiff::supported;
use dendrite_onnx::{Dim, Graph, Model, Shape, Tensor, ValueId};

const FAMILIES: &[&str] = &[
    "activation",
    "convolution",
    "elementwise",
    "indexing",
    "linear",
    "movement",
    "normalization",
    "pooling",
    "reduction",
    "resize",
];
const TOLERANCE: f64 = 2e-3;

fn cases(family: &str) -> Vec<Graph> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../fixtures/gradients/{family}.cases"));
    let bytes = std::fs::read(path).unwrap();
    let mut rest = &bytes[..];
    let mut cases = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let (model, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
        cases.push(Graph::from_model(&Model::from_bytes(model.to_vec()).unwrap()).unwrap());
        rest = tail;
    }
    cases
}

fn stored(graph: &Graph, role: &str, v: ValueId) -> Option<Tensor> {
    graph.constant(graph.find(&format!("{role}/{}", graph.name_of(v)))?).cloned()
}

/// Of which values only the rank is known, as in a model with dynamic axes.
#[derive(Clone, Copy)]
enum Dynamic {
    Nothing,
    /// The first input and the outputs.
    Activations,
    Everything,
}

fn forget_sizes(graph: &mut Graph, dynamic: Dynamic) {
    let inputs = match dynamic {
        Dynamic::Nothing => return,
        Dynamic::Activations => graph.inputs[..1].to_vec(),
        Dynamic::Everything => graph.inputs.clone(),
    };
    for v in inputs.into_iter().chain(graph.outputs.clone()) {
        let value = graph.value(v);
        let (element_type, rank) = (value.element_type, value.shape.as_ref().unwrap().rank());
        graph.set_type(v, element_type, Some(Shape(vec![Dim::Unknown; rank])));
    }
}

/// The worst error of a case, or why it could not be differentiated.
fn check(case: &Graph, dynamic: Dynamic) -> Result<f64, dendrite_autodiff::Error> {
    let mut graph = case.clone();
    forget_sizes(&mut graph, dynamic);
    let outputs: Vec<_> = graph.outputs.iter().filter_map(|y| Some((*y, stored(&graph, "weight", *y)?))).collect();
    let wrt = graph.inputs.clone();
    let loss = weighted_sum(&mut graph, &outputs);
    let names = with_gradients(&mut graph, loss, &wrt)?;
    let values: Vec<_> =
        wrt.iter().map(|v| (graph.name_of(*v).to_owned(), stored(&graph, "value", *v).unwrap())).collect();
    let feeds: Vec<_> = values.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let results = match try_run(&graph, &feeds) {
        Ok(results) => results,
        Err(e) => {
            println!("'{}': {e}", graph.name);
            return Ok(f64::INFINITY);
        }
    };
    let mut worst = 0.0f64;
    for (v, name) in wrt.iter().zip(names) {
        let expected = stored(&graph, "gradient", *v).unwrap();
        let actual = match name {
            Some(name) => {
                if results[&name].shape() != expected.shape() {
                    println!(
                        "'{}': gradient of shape {:?}, not {:?}",
                        graph.name,
                        results[&name].shape(),
                        expected.shape()
                    );
                    return Ok(f64::INFINITY);
                }
                results[&name].to_f32().unwrap()
            }
            None => vec![0.0; expected.len()],
        };
        worst = worst.max(error(&actual, &expected.to_f64().unwrap()));
    }
    Ok(worst)
}

#[test]
fn rules_agree_with_double_precision() {
    let mut failures = Vec::new();
    let mut tested = BTreeSet::new();
    for family in FAMILIES {
        let mut worst = (0.0, String::new());
        for (i, case) in cases(family).iter().enumerate() {
            let node = case.nodes().next().unwrap().1.clone();
            tested.insert(node.op.clone());
            match check(case, Dynamic::Nothing) {
                Ok(e) if e <= TOLERANCE => {
                    if e > worst.0 {
                        worst = (e, format!("{} ({i})", node.op));
                    }
                }
                Ok(e) => failures.push(format!("{family} {i}: {} differs by {e:.2e}", node.op)),
                Err(e) => failures.push(format!("{family} {i}: {e}")),
            }
        }
        println!("{family}: worst relative error {:.1e}, of {}", worst.0, worst.1);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    println!("{} operators tested", tested.len());
}

/// With sizes known only when the graph runs, a rule answers the same or says what it needs. Only these may need it.
#[test]
fn rules_work_on_dynamic_shapes() {
    let mut failures = Vec::new();
    for dynamic in [Dynamic::Activations, Dynamic::Everything] {
        let mut stops: BTreeMap<String, usize> = BTreeMap::new();
        for family in FAMILIES {
            for (i, case) in cases(family).iter().enumerate() {
                let op = case.nodes().next().unwrap().1.op.clone();
                match check(case, dynamic) {
                    Ok(e) if e <= TOLERANCE => {}
                    Ok(e) => failures.push(format!("{family} {i}: {op} differs by {e:.2e}")),
                    Err(dendrite_autodiff::Error::Stop { .. }) => *stops.entry(op).or_default() += 1,
                    Err(e) => failures.push(format!("{family} {i}: {e}")),
                }
            }
        }
        println!("needs known sizes: {stops:?}");
        let may_stop = ["AveragePool", "Conv", "ConvTranspose", "DepthToSpace", "Resize"];
        failures.extend(stops.into_keys().filter(|op| !may_stop.contains(&op.as_str())));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_rule_has_a_case() {
    let tested: BTreeSet<String> = FAMILIES
        .iter()
        .flat_map(|f| cases(f))
        .flat_map(|g| g.nodes().map(|(_, n)| n.op.clone()).collect::<Vec<_>>())
        .collect();
    // Steps, conditions and integers are tested in engine.rs with the few that are not written by hand, control flow in
    // control.rs, recurrent operators in recurrent.rs.
    let elsewhere = [
        "And",
        "ArgMax",
        "ArgMin",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "Cast",
        "CastLike",
        "ConstantOfShape",
        "Equal",
        "EyeLike",
        "Greater",
        "GRU",
        "GreaterOrEqual",
        "If",
        "IsInf",
        "IsNaN",
        "Less",
        "LSTM",
        "LessOrEqual",
        "Loop",
        "MaxUnpool",
        "NonZero",
        "Not",
        "Or",
        "RandomNormalLike",
        "RandomUniformLike",
        "RNN",
        "Scan",
        "Shape",
        "Size",
        "Xor",
    ];
    let missing: Vec<_> =
        supported().into_iter().filter(|(_, op)| !tested.contains(*op) && !elsewhere.contains(op)).collect();
    assert!(missing.is_empty(), "without a case: {missing:?}");
}
