//! Every rule against references computed in double precision (scripts/gradient_references.py).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use common::{
    cases::{FAMILIES, cases, label, stored},
    error, try_run, weighted_sum, with_gradients,
};
use dendrite_autodiff::supported;
use dendrite_onnx::{Dim, Graph, Shape, Tensor};

const TOLERANCE: f64 = 2e-3;
/// Of the values of an operator that is replaced by an expression.
const FORWARD_TOLERANCE: f64 = 2e-6;

/// Operators that the runtime does not run at the working opset, with the last opset at which it does. What they are replaced
/// by runs.
const WITHOUT_KERNEL: &[(&str, Option<i64>)] =
    &[("GlobalLpPool", Some(21)), ("MaxRoiPool", Some(21)), ("RoiAlign", Some(21)), ("Swish", None)];

/// The outputs of the runtime's own kernel for a case that was lowered, if it has one.
fn own_values(case: &Graph, feeds: &[(&str, &Tensor)]) -> Option<HashMap<String, Tensor>> {
    let op = &case.nodes().next().unwrap().1.op;
    let mut case = case.clone();
    if let Some((_, last)) = WITHOUT_KERNEL.iter().find(|(without, _)| without == op) {
        assert!(try_run(&case, feeds).is_err(), "the runtime has {op}");
        case.opsets.insert(String::new(), (*last)?);
    }
    Some(try_run(&case, feeds).unwrap_or_else(|e| panic!("'{}': {e}", case.name)))
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
    let own = case.nodes().next().unwrap().1;
    if graph.nodes().all(|(_, node)| node.domain != own.domain || node.op != own.op)
        && let Some(own) = own_values(case, &feeds)
    {
        // The node was replaced: the values must be those of the runtime's own kernel.
        for y in &case.outputs {
            let (ours, theirs) = (&results[case.name_of(*y)], &own[case.name_of(*y)]);
            assert_eq!(ours.shape(), theirs.shape(), "'{}'", case.name);
            let forward = error(&ours.to_f32().unwrap(), &theirs.to_f64().unwrap());
            if forward > FORWARD_TOLERANCE {
                println!("'{}': lowered it gives values that differ by {forward:.1e}", case.name);
                return Ok(f64::INFINITY);
            }
        }
    }
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
            tested.insert(label(&node));
            match check(case, Dynamic::Nothing) {
                Ok(e) if e <= TOLERANCE => {
                    if e > worst.0 {
                        worst = (e, format!("{} ({i})", label(&node)));
                    }
                }
                Ok(e) => failures.push(format!("{family} {i}: {} differs by {e:.2e}", label(&node))),
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
                let op = label(case.nodes().next().unwrap().1);
                match check(case, dynamic) {
                    Ok(e) if e <= TOLERANCE => {}
                    Ok(e) => failures.push(format!("{family} {i}: {op} differs by {e:.2e}")),
                    Err(dendrite_autodiff::Error::Stop { .. }) => *stops.entry(op).or_default() += 1,
                    Err(e) => failures.push(format!("{family} {i}: {e}")),
                }
            }
        }
        println!("needs known sizes: {stops:?}");
        // Heads are parts of an axis whose size must be known.
        let heads = ["Attention", "MultiHeadAttention", "RotaryEmbedding"];
        let may_stop = [
            "AveragePool",
            "Conv",
            "ConvTranspose",
            "DeformConv",
            "DepthToSpace",
            "Det",
            "FusedConv",
            "LpPool",
            "Resize",
        ];
        let may_stop = |op: &str| {
            let op = op.trim_start_matches("com.microsoft.");
            may_stop.contains(&op) || heads.contains(&op)
        };
        failures.extend(stops.into_keys().filter(|op| !may_stop(op)));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_rule_has_a_case() {
    let tested: BTreeSet<String> = FAMILIES
        .iter()
        .flat_map(|f| cases(f))
        .flat_map(|g| g.nodes().map(|(_, n)| label(n)).collect::<Vec<_>>())
        .collect();
    // Steps, conditions and integers are tested in engine.rs with the few that are not written by hand, control flow in
    // control.rs, recurrent operators in recurrent.rs, sequences in sequence.rs, quantisation in quantization.rs.
    let elsewhere = [
        "And",
        "ArgMax",
        "ArgMin",
        "Bernoulli",
        "BitShift",
        "BitwiseAnd",
        "BitwiseNot",
        "BitwiseOr",
        "BitwiseXor",
        "BlackmanWindow",
        "Cast",
        "CastLike",
        "ConcatFromSequence",
        "ConstantOfShape",
        "DequantizeLinear",
        "Equal",
        "EyeLike",
        "GRU",
        "Greater",
        "GreaterOrEqual",
        "HammingWindow",
        "HannWindow",
        "If",
        "IsInf",
        "IsNaN",
        "LSTM",
        "Less",
        "LessOrEqual",
        "Loop",
        "MaxUnpool",
        "MelWeightMatrix",
        "Multinomial",
        "NonMaxSuppression",
        "NonZero",
        "Not",
        "OptionalGetElement",
        "OptionalHasElement",
        "Or",
        "QuantizeLinear",
        "RNN",
        "RandomNormalLike",
        "RandomUniformLike",
        "Scan",
        "SequenceAt",
        "SequenceLength",
        "Shape",
        "Size",
        "Xor",
        "com.microsoft.DequantizeLinear",
        "com.microsoft.QuantizeLinear",
    ];
    let named = |(domain, op): (&str, &str)| if domain.is_empty() { op.to_owned() } else { format!("{domain}.{op}") };
    let missing: Vec<_> = supported()
        .into_iter()
        .map(named)
        .filter(|op| !tested.contains(op) && !elsewhere.contains(&op.as_str()))
        .collect();
    assert!(missing.is_empty(), "without a case: {missing:?}");
}
