//! Runs one model and says what becomes of its gradients.

use std::collections::{BTreeMap, HashMap, HashSet};

use dendrite_autodiff::{Error, expr::Builder, gradients, lower_missing};
use dendrite_onnx::{Attributes, ElementType, Graph, Tensor, ValueId, WORKING_OPSET, upgrade::upgrade};
use dendrite_runtime::{Optimization, Session, SessionOptions, infer_shapes};
use prost::Message;

use crate::cases::{Case, DIRECTIONS, ELEMENTS, WEIGHT_STREAM, numbers};

/// Smaller derivatives are the noise of a difference.
const NONZERO: f64 = 1e-9;

/// What becomes of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Its gradients agree with the references, and they are not all zero.
    Verified,
    /// It is not differentiated, and the error says why.
    Refused,
    /// It has no float inputs or outputs, or its derivative is zero everywhere.
    Constant,
    /// The runtime does not run the model.
    NotRun,
    /// None of these.
    Wrong,
}

pub(crate) struct Finding {
    pub(crate) class: Class,
    /// For a verified model those inputs that are refused.
    pub(crate) reasons: Vec<String>,
    pub(crate) worst: f64,
}

impl Finding {
    fn new(class: Class, reason: impl Into<String>) -> Self {
        Finding { class, reasons: vec![reason.into()], worst: 0.0 }
    }

    fn wrong(reason: impl Into<String>) -> Self {
        Finding::new(Class::Wrong, reason)
    }
}

type Outputs = HashMap<String, Tensor>;

fn options() -> SessionOptions {
    SessionOptions { threads: 1, optimization: Optimization::All, ..Default::default() }
}

fn run(session: dendrite_runtime::Result<Session>, case: &Case) -> Result<Outputs, String> {
    let mut session = session.map_err(|e| e.to_string())?;
    if session.outputs().iter().all(|o| o.element_type.is_none()) {
        // Sequences alone: it loads, and there is nothing to read.
        return Ok(Outputs::new());
    }
    Ok(session.run(&case.feeds()).map_err(|e| e.to_string())?.into_iter().collect())
}

/// The reason of a refusal, without the names of nodes and values.
fn reason(error: &Error) -> String {
    let text = match error {
        Error::NotImplemented { op, .. } => format!("no gradient rule for {op}"),
        Error::Stop { reason, .. } | Error::Invalid { reason, .. } => reason.clone(),
        other => other.to_string(),
    };
    nameless(&text)
}

/// Long quotations are the names that an expanded model gives its values.
fn nameless(text: &str) -> String {
    let parts = text.split('\'').enumerate().map(|(i, part)| if i % 2 == 1 && part.len() > 20 { "..." } else { part });
    let text = parts.collect::<Vec<_>>().join("'");
    text.strip_prefix("node '' ").unwrap_or(&text).to_owned()
}

pub(crate) fn classify(case: &Case) -> Finding {
    if case.takes_sequences() {
        return without_running(case);
    }
    // Whether texts can be compared depends on the machine's locales.
    if !case.values.is_empty() && case.values.iter().all(|(_, t)| t.element_type() == ElementType::String) {
        return Finding { class: Class::Constant, reasons: Vec::new(), worst: 0.0 };
    }
    let original = run(Session::from_bytes(&case.model.encode_to_vec(), &options()), case);
    let upgraded = working_copy(case);
    let (outputs, graph) = match (original, upgraded) {
        (Err(reason), Err(_)) => return Finding::new(Class::NotRun, reason),
        (Ok(outputs), Err(reason)) => {
            if nothing_to_differentiate(case, &outputs) {
                return Finding { class: Class::Constant, reasons: Vec::new(), worst: 0.0 };
            }
            return Finding::new(Class::Refused, reason);
        }
        (original, Ok(graph)) => match original.or_else(|e| run_copy(&graph, case).map_err(|_| e)) {
            Ok(outputs) => (outputs, graph),
            Err(reason) => return Finding::new(Class::NotRun, reason),
        },
    };
    if nothing_to_differentiate(case, &outputs) {
        return Finding { class: Class::Constant, reasons: Vec::new(), worst: 0.0 };
    }
    differentiate(case, graph, &outputs)
}

/// Sequences and optional values cannot be fed: what is differentiated with respect to the tensors beside them has to be
/// refused.
fn without_running(case: &Case) -> Finding {
    if let Err(e) = Session::from_bytes(&case.model.encode_to_vec(), &options()) {
        return Finding::new(Class::NotRun, e.to_string());
    }
    let mut graph = match working_copy(case) {
        Ok(graph) => graph,
        Err(reason) => return Finding::new(Class::Refused, reason),
    };
    let is_float = |v: &ValueId| graph.value(*v).element_type.is_some_and(ElementType::is_float);
    let outputs: Vec<ValueId> = graph.outputs.iter().copied().filter(is_float).collect();
    let wrt: Vec<ValueId> = graph.inputs.iter().copied().filter(is_float).collect();
    if outputs.is_empty() || wrt.is_empty() {
        return Finding { class: Class::Constant, reasons: Vec::new(), worst: 0.0 };
    }
    let loss = Builder::scope(&mut graph, "total", |b| {
        let sum = |y: &ValueId| {
            let y = b.value(*y);
            y.sum(&(0..y.rank().unwrap_or(0)).collect::<Vec<_>>(), false)
        };
        b.sum(&outputs.iter().map(sum).collect::<Vec<_>>()).unwrap().id()
    });
    match with_gradients(&graph, loss, &wrt) {
        Ok((_, names)) if names.iter().all(Option::is_none) => Finding::wrong("it is taken for zero"),
        Ok(_) => Finding::wrong("it is differentiated and cannot be run"),
        Err(e) => Finding::new(Class::Refused, reason(&e)),
    }
}

fn working_copy(case: &Case) -> Result<Graph, String> {
    let mut graph = case.opened().and_then(|m| Graph::from_model(&m)).map_err(|e| e.to_string())?;
    upgrade(&mut graph, WORKING_OPSET).map_err(|e| nameless(&e.to_string()))?;
    lower_missing(&mut graph).map_err(|e| e.to_string())?;
    infer_shapes(&mut graph).map_err(|e| e.to_string())?;
    Ok(graph)
}

fn run_copy(graph: &Graph, case: &Case) -> Result<Outputs, String> {
    run(Session::from_graph(graph, &options()), case)
}

fn float_inputs(case: &Case) -> impl Iterator<Item = &(String, Tensor)> {
    case.values.iter().filter(|(_, t)| t.element_type().is_float() && !t.is_empty())
}

fn nothing_to_differentiate(case: &Case, outputs: &Outputs) -> bool {
    float_inputs(case).next().is_none() || !outputs.values().any(|t| t.element_type().is_float() && !t.is_empty())
}

/// Add the weighted sum of the float outputs, in float64 whatever they are.
fn weighted_sum(case: &Case, graph: &mut Graph, outputs: &Outputs) -> ValueId {
    let all = graph.outputs.clone();
    let loss = Builder::scope(graph, "total", |b| {
        let mut sums = Vec::new();
        for (i, y) in all.iter().enumerate() {
            let Some(found) = outputs.get(b.graph().name_of(*y)) else { continue };
            if !found.element_type().is_float() || case.unweighted.contains(&i) {
                continue;
            }
            let shape = found.shape();
            let weight = b.floats(ElementType::Double, shape, &numbers(found.len(), WEIGHT_STREAM + i as u64));
            let y = b.value(*y).typed(found.element_type(), Some(dendrite_onnx::Shape::known(shape)));
            let axes: Vec<usize> = (0..shape.len()).collect();
            sums.push((y.cast(ElementType::Double) * weight).sum(&axes, false));
        }
        b.sum(&sums).unwrap().id()
    });
    graph.outputs.push(loss);
    loss
}

/// The graph with the derivatives with respect to `wrt` as further outputs: their names, `None` for zero.
fn with_gradients(graph: &Graph, loss: ValueId, wrt: &[ValueId]) -> Result<(Graph, Vec<Option<String>>), Error> {
    let mut graph = graph.clone();
    let found = gradients(&mut graph, loss, wrt, &HashSet::new())?;
    let names = wrt.iter().zip(found).map(|(v, gradient)| {
        let element_type = graph.value(*v).element_type;
        // A gradient may be an input or a constant: an output needs a node.
        let out = graph.op("Identity", "result", &[gradient?], Attributes::new());
        graph.set_type(out, element_type, None);
        graph.outputs.push(out);
        Some(graph.name_of(out).to_owned())
    });
    let names = names.collect();
    Ok((graph, names))
}

/// What the script calls the total, of outputs of the runtime.
fn total_of(case: &Case, graph: &Graph, outputs: &Outputs) -> f64 {
    let mut total = 0.0;
    for (i, y) in graph.outputs.iter().enumerate().filter(|(i, _)| !case.unweighted.contains(i)) {
        let Some(y) = outputs.get(graph.name_of(*y)).filter(|y| y.element_type().is_float()) else { continue };
        let weights = numbers(y.len(), WEIGHT_STREAM + i as u64);
        total += y.to_f64().unwrap().iter().zip(weights).map(|(y, w)| y * w).sum::<f64>();
    }
    total
}

fn differentiate(case: &Case, mut graph: Graph, outputs: &Outputs) -> Finding {
    let total = total_of(case, &graph, outputs);
    if case.total.is_some_and(|expected| difference(&[total], &[expected]) > tolerance(case, outputs)) {
        return Finding::new(Class::NotRun, "the runtime computes other outputs than onnx");
    }
    let loss = weighted_sum(case, &mut graph, outputs);
    let total = graph.name_of(loss).to_owned();
    let inputs: Vec<&str> = float_inputs(case).map(|(n, _)| n.as_str()).collect();
    let wrt: Vec<ValueId> = inputs.iter().map(|n| graph.find(n).unwrap()).collect();
    let (mut judged, mut refused) = (Judged::default(), BTreeMap::new());
    match with_gradients(&graph, loss, &wrt) {
        Ok((built, names)) => {
            let names = inputs.iter().copied().zip(names).collect();
            if let Err(reason) = judged.compare(case, &built, &total, names, outputs) {
                return Finding::wrong(reason);
            }
        }
        Err(_) => {
            for (input, v) in inputs.iter().zip(&wrt) {
                match with_gradients(&graph, loss, &[*v]) {
                    Ok((built, mut names)) => {
                        let names = vec![(*input, names.remove(0))];
                        if let Err(reason) = judged.compare(case, &built, &total, names, outputs) {
                            return Finding::wrong(format!("{input}: {reason}"));
                        }
                    }
                    Err(e) => drop(refused.insert(*input, reason(&e))),
                }
            }
        }
    }
    // What is refused has to be zero where the rest is to count as verified.
    let zero = |input: &str| {
        let reference = case.references.get(input).and_then(Tensor::to_f64);
        reference.is_some_and(|r| r.iter().all(|v| v.abs() < NONZERO))
    };
    if refused.keys().any(|input| !zero(input)) || !judged.nonzero && !refused.is_empty() {
        let all = refused.len() == inputs.len();
        let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        refused.into_iter().for_each(|(input, reason)| by_reason.entry(reason).or_default().push(input));
        let only = |(reason, inputs): (String, Vec<&str>)| match all {
            true => reason,
            false => format!("only with respect to {}: {reason}", inputs.join(", ")),
        };
        let reasons = by_reason.into_iter().map(only).collect();
        return Finding { class: Class::Refused, reasons, worst: 0.0 };
    }
    if let Some(reason) = &case.none {
        return Finding::wrong(format!("nothing to compare with: {reason}"));
    }
    let known = |input: &&&str| case.references.contains_key(**input) || case.none_for.contains_key(**input);
    if let Some(input) = inputs.iter().find(|i| !known(i)) {
        return Finding::wrong(format!("the script says nothing of {input}"));
    }
    if case.references.is_empty() {
        return Finding::wrong("nothing to compare with");
    }
    let class = if judged.nonzero { Class::Verified } else { Class::Constant };
    let reasons = refused.into_iter().map(|(input, reason)| format!("with respect to {input}: {reason}")).collect();
    Finding { class, reasons, worst: judged.worst }
}

#[derive(Default)]
struct Judged {
    nonzero: bool,
    worst: f64,
}

impl Judged {
    /// Run a graph with gradients and hold them to the references.
    fn compare(
        &mut self,
        case: &Case,
        graph: &Graph,
        total: &str,
        gradients: Vec<(&str, Option<String>)>,
        outputs: &Outputs,
    ) -> Result<(), String> {
        let results = run_copy(graph, case)?;
        let tolerance = tolerance(case, outputs);
        if let Some(expected) = case.total {
            let actual = results[total].to_f64().unwrap()[0];
            if difference(&[actual], &[expected]) > tolerance {
                return Err(format!("the outputs sum to {actual}, not {expected}"));
            }
        }
        for (input, gradient) in gradients {
            let Some(expected) = case.references.get(input) else { continue };
            let expected = expected.to_f64().unwrap();
            let value = case.values.iter().find(|(n, _)| n == input).map(|(_, t)| t).unwrap();
            let actual = match &gradient {
                Some(name) => {
                    let gradient = &results[name];
                    if gradient.shape() != value.shape() || gradient.element_type() != value.element_type() {
                        return Err(format!("the gradient of {input} has another shape or type"));
                    }
                    gradient.to_f64().unwrap()
                }
                None => vec![0.0; value.len()],
            };
            let actual = if value.len() > ELEMENTS { along_directions(&actual) } else { actual };
            let error = difference(&actual, &expected);
            if error > tolerance {
                let zero = if gradient.is_none() { " (it is taken for zero)" } else { "" };
                return Err(format!("the gradient of {input} differs by {error:.1e}{zero}"));
            }
            self.worst = self.worst.max(error);
            self.nonzero |= expected.iter().any(|v| v.abs() >= NONZERO);
        }
        Ok(())
    }
}

fn along_directions(gradient: &[f64]) -> Vec<f64> {
    let directions = (0..DIRECTIONS as u64).map(|k| numbers(gradient.len(), k));
    directions.map(|d| d.iter().zip(gradient).map(|(d, g)| d * g).sum()).collect()
}

/// The largest difference, relative to max(1, max|expected|).
fn difference(actual: &[f64], expected: &[f64]) -> f64 {
    let scale = expected.iter().fold(1.0f64, |m, v| m.max(v.abs()));
    actual.iter().zip(expected).fold(0.0, |m, (a, e)| {
        let d = (a - e).abs() / scale;
        if d.is_nan() { f64::INFINITY } else { m.max(d) }
    })
}

/// What the coarsest type of the model's inputs and outputs allows; for the 16-bit types about ten units in the last place.
fn tolerance(case: &Case, outputs: &Outputs) -> f64 {
    let tensors = case.values.iter().map(|(_, t)| t).chain(outputs.values());
    tensors.fold(1e-5, |most: f64, t| {
        most.max(match t.element_type() {
            ElementType::Bfloat16 => 8e-2,
            ElementType::Float16 => 1e-2,
            ElementType::Float => 2e-3,
            _ => 0.0,
        })
    })
}
