//! Whether two models compute the same: outputs of one against the other's, in one runtime or several.
//!
//! The reference is always the first model in ONNX Runtime. A difference is judged relative to the size of what is
//! compared: `|a - b| <= tolerance * max(1, max|b|)`.

use std::{collections::HashMap, str::FromStr};

use dendrite_onnx::{Dim, ElementType, Graph, Tensor, ValueId};
use dendrite_runtime::{Optimization, Session, SessionOptions};

use crate::failure::Failure;

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// ONNX Runtime.
    Ort,
    /// tract.
    #[cfg(feature = "tract")]
    Tract,
}

impl Runtime {
    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Runtime::Ort => "ort",
            #[cfg(feature = "tract")]
            Runtime::Tract => "tract",
        }
    }

    /// The tolerance unless another is asked for: runtimes differ in the order of their sums.
    pub(crate) fn tolerance(self) -> f64 {
        match self {
            Runtime::Ort => 1e-5,
            #[cfg(feature = "tract")]
            Runtime::Tract => 1e-4,
        }
    }
}

impl FromStr for Runtime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "ort" => Ok(Runtime::Ort),
            #[cfg(feature = "tract")]
            "tract" => Ok(Runtime::Tract),
            #[cfg(not(feature = "tract"))]
            "tract" => Err("this program was built without tract".to_owned()),
            _ => Err(format!("'{text}' is no runtime; say ort or tract")),
        }
    }
}

/// How far apart two tensors are.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(crate) struct Difference {
    /// The largest `|a - b|`; infinite where one is not a number and the other is.
    pub(crate) absolute: f64,
    /// The same divided by `max(1, max|b|)`.
    pub(crate) relative: f64,
}

/// The difference of two tensors; `None` where types or shapes differ. Tensors without numbers differ by 0 or 1.
pub(crate) fn difference(a: &Tensor, b: &Tensor) -> Option<Difference> {
    if a.shape() != b.shape() || a.element_type() != b.element_type() {
        return None;
    }
    let (Some(x), Some(y)) = (a.to_f64(), b.to_f64()) else {
        let absolute = f64::from(u8::from(a != b));
        return Some(Difference { absolute, relative: absolute });
    };
    let mut absolute = 0.0f64;
    let mut scale = 1.0f64;
    for (x, y) in x.into_iter().zip(y) {
        // Equal infinities and two values that are both no number are equal.
        let apart = if x == y || (x.is_nan() && y.is_nan()) { 0.0 } else { (x - y).abs() };
        absolute = absolute.max(if apart.is_nan() { f64::INFINITY } else { apart });
        if y.is_finite() {
            scale = scale.max(y.abs());
        }
    }
    Some(Difference { absolute, relative: absolute / scale })
}

/// One output of the second model in one runtime against the reference.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// The runtime of the second model.
    pub(crate) runtime: Runtime,
    /// The output.
    pub(crate) output: String,
    /// The difference; `None` where the output is missing or has another type or shape.
    pub(crate) difference: Option<Difference>,
    /// The tolerance it is held against.
    pub(crate) tolerance: f64,
    /// Whether the runtime computed something of it, rather than being given it.
    pub(crate) computed: bool,
}

impl Row {
    /// Whether the output is as it should be.
    pub(crate) fn passes(&self) -> bool {
        self.difference.is_some_and(|d| d.relative <= self.tolerance)
    }
}

/// The first value, in order of computation, at which two models part.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Divergence {
    /// The runtime of the second model.
    pub(crate) runtime: Runtime,
    /// The value.
    pub(crate) value: String,
    /// The operator that computes it in the second model.
    pub(crate) operator: String,
    /// How far apart it is.
    pub(crate) difference: Option<Difference>,
}

/// What a comparison found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Comparison {
    /// A row for each output and runtime.
    pub(crate) rows: Vec<Row>,
    /// Where a runtime's outputs part, if any does.
    pub(crate) divergences: Vec<Divergence>,
    /// What the user should know of how it was done.
    pub(crate) notes: Vec<String>,
}

impl Comparison {
    /// Whether every output is as it should be.
    pub(crate) fn passes(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(Row::passes)
    }
}

type Values = HashMap<String, Tensor>;

/// Compare `b` in each of `runtimes` with `a` in ONNX Runtime on the same inputs.
pub(crate) fn compare(
    a: &Graph,
    b: &Graph,
    inputs: &[(String, Tensor)],
    runtimes: &[Runtime],
    tolerance: Option<f64>,
    session: &SessionOptions,
) -> Result<Comparison, Failure> {
    if let Some(input) = b.inputs.iter().find(|i| !inputs.iter().any(|(name, _)| name == b.name_of(**i))) {
        let message = format!("input '{}' of the second model is no input of the first", b.name_of(*input));
        return Err(Failure::new(message, Some("only models of the same inputs can be compared")));
    }
    for input in &b.inputs {
        let name = b.name_of(*input);
        let shape = |graph: &Graph, id: &ValueId| graph.value(*id).shape.clone();
        let own = a.find(name).and_then(|id| shape(a, &id));
        if let (Some(own), Some(other)) = (own, shape(b, input))
            && (own.rank() != other.rank() || own.0.iter().zip(&other.0).any(|(x, y)| apart(x, y)))
        {
            let message = format!("input '{name}' of the second model takes {other}, that of the first {own}");
            return Err(Failure::new(message, Some("only models of the same inputs can be compared")));
        }
    }
    let reference = in_ort(a, inputs, &a.outputs, session)?;
    let mut result = Comparison::default();
    for runtime in runtimes {
        let tolerance = tolerance.unwrap_or(runtime.tolerance());
        let (outputs, given) = in_runtime(*runtime, b, inputs, &b.outputs, session, &mut result.notes)?;
        let from = result.rows.len();
        for output in &a.outputs {
            let name = a.name_of(*output);
            let pair = reference.get(name).zip(outputs.get(name));
            result.rows.push(Row {
                runtime: *runtime,
                output: name.to_owned(),
                difference: pair.and_then(|(a, b)| difference(b, a)),
                tolerance,
                computed: !given.iter().any(|g| g == name),
            });
        }
        if !result.rows[from..].iter().all(Row::passes) {
            result.divergences.extend(first_divergence(*runtime, a, b, inputs, tolerance, session)?);
        }
    }
    let extra = b.outputs.iter().map(|o| b.name_of(*o)).filter(|n| !reference.contains_key(*n));
    result.notes.extend(extra.map(|name| format!("output '{name}' is only in the second model")));
    Ok(result)
}

/// Whether no size is both dimensions'.
fn apart(a: &Dim, b: &Dim) -> bool {
    a.known().zip(b.known()).is_some_and(|(a, b)| a != b)
}

/// The first of the values both models have under the same name at which they part.
fn first_divergence(
    runtime: Runtime,
    a: &Graph,
    b: &Graph,
    inputs: &[(String, Tensor)],
    tolerance: f64,
    session: &SessionOptions,
) -> Result<Option<Divergence>, Failure> {
    // Fusions would take the values in between away.
    let session = SessionOptions { optimization: Optimization::Off, ..session.clone() };
    let mut common = Vec::new();
    for id in b.topological_order()? {
        for value in b.node(id).outputs.iter().flatten() {
            if let Some(own) = a.find(b.name_of(*value)).filter(|v| a.value(*v).producer().is_some()) {
                common.push((own, *value, &b.node(id).op));
            }
        }
    }
    let [of_a, of_b]: [Vec<ValueId>; 2] = [common.iter().map(|c| c.0).collect(), common.iter().map(|c| c.1).collect()];
    let ours = in_ort(a, inputs, &of_a, &session)?;
    let (theirs, _) = in_runtime(runtime, b, inputs, &of_b, &session, &mut Vec::new())?;
    for (_, value, operator) in common {
        let name = b.name_of(value);
        let Some((own, other)) = ours.get(name).zip(theirs.get(name)) else { continue };
        let difference = difference(other, own);
        if difference.is_none_or(|d| d.relative > tolerance) {
            return Ok(Some(Divergence { runtime, value: name.to_owned(), operator: operator.clone(), difference }));
        }
    }
    Ok(None)
}

fn in_ort(
    graph: &Graph,
    inputs: &[(String, Tensor)],
    fetches: &[ValueId],
    options: &SessionOptions,
) -> Result<Values, Failure> {
    let mut graph = graph.clone();
    for fetch in fetches {
        // Declarations of values in between may be missing or stale; the session knows better.
        graph.set_type(*fetch, None, None);
    }
    graph.outputs = fetches.to_vec();
    let mut session = Session::from_graph(&graph, options)?;
    let taken: Vec<(&str, &Tensor)> = inputs
        .iter()
        .filter(|(name, _)| session.inputs().iter().any(|p| p.name == *name))
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    Ok(session.run(&taken)?.into_iter().collect())
}

/// The values `fetches`, and the names of those that the runtime was given because it cannot compute them.
#[cfg_attr(not(feature = "tract"), allow(unused_variables, clippy::ptr_arg))]
fn in_runtime(
    runtime: Runtime,
    graph: &Graph,
    inputs: &[(String, Tensor)],
    fetches: &[ValueId],
    options: &SessionOptions,
    notes: &mut Vec<String>,
) -> Result<(Values, Vec<String>), Failure> {
    match runtime {
        Runtime::Ort => Ok((in_ort(graph, inputs, fetches, options)?, Vec::new())),
        #[cfg(feature = "tract")]
        Runtime::Tract => in_tract(graph, inputs, fetches, options, notes),
    }
}

/// tract takes over where it can: what the nodes it lacks compute comes from ONNX Runtime.
#[cfg(feature = "tract")]
fn in_tract(
    graph: &Graph,
    inputs: &[(String, Tensor)],
    fetches: &[ValueId],
    options: &SessionOptions,
    notes: &mut Vec<String>,
) -> Result<(Values, Vec<String>), Failure> {
    let cut = dendrite_tract::supported_cut(graph);
    let given: Values = if cut.fed.is_empty() {
        Values::new()
    } else {
        for (missing, value) in cut.missing.iter().zip(&cut.fed) {
            notes.push(format!(
                "tract has no {}: it starts at '{}', which ONNX Runtime computes",
                missing.op,
                graph.name_of(*value)
            ));
        }
        in_ort(graph, inputs, &cut.fed, options)?
    };
    // An input need not be given where only nodes read it that do not run.
    let feeds: Vec<(&str, &Tensor)> = inputs
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .filter(|(name, _)| graph.find(name).is_some())
        .chain(given.iter().map(|(name, tensor)| (name.as_str(), tensor)))
        .collect();
    let computed: Vec<ValueId> = fetches.iter().copied().filter(|f| !given.contains_key(graph.name_of(*f))).collect();
    let mut values: Values = dendrite_tract::run_graph(graph, &feeds, &computed)?.into_iter().collect();
    let names = given.keys().cloned().collect();
    values.extend(given);
    Ok((values, names))
}

/// Inputs of made-up contents for a graph: floats between -1 and 1, integers and bools 0 or 1. A symbolic first axis gets
/// `batch` entries, other symbols 16.
pub(crate) fn random_inputs(graph: &Graph, batch: usize, seed: u64) -> Result<Vec<(String, Tensor)>, Failure> {
    const OTHER: usize = 16;
    let mut state = seed;
    let mut next = || {
        // SplitMix64: a few lines that give the same numbers everywhere.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut inputs = Vec::new();
    for input in &graph.inputs {
        let value = graph.value(*input);
        let fail = |reason: &str| {
            let message = format!("input '{}': {reason}", value.name);
            Failure::new(message, Some("give inputs with --data"))
        };
        let (Some(ty), Some(shape)) = (value.element_type, &value.shape) else {
            return Err(fail("type or shape is not known, so none can be made up"));
        };
        let size = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Known(n) => *n,
            _ if axis == 0 => batch,
            _ => OTHER,
        };
        let shape: Vec<usize> = shape.0.iter().enumerate().map(size).collect();
        let count = dendrite_onnx::tensor::element_count(&shape).ok_or_else(|| fail("the shape overflows"))?;
        let tensor = match ty {
            ElementType::Float | ElementType::Double | ElementType::Float16 | ElementType::Bfloat16 => {
                let bytes: Vec<u8> = (0..count)
                    .flat_map(|_| {
                        let unit = (next() >> 11) as f64 / (1u64 << 53) as f64;
                        Tensor::scalar(ty, 2.0 * unit - 1.0).bytes().to_vec()
                    })
                    .collect();
                Tensor::new(ty, shape, bytes)?
            }
            ElementType::String => return Err(fail("strings cannot be made up")),
            _ => {
                let bytes = (0..count).flat_map(|_| Tensor::scalar(ty, (next() & 1) as f64).bytes().to_vec());
                Tensor::new(ty, shape, bytes.collect::<Vec<u8>>())?
            }
        };
        inputs.push((value.name.clone(), tensor));
    }
    Ok(inputs)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_to_the_reference() {
        let a = Tensor::from_f32(&[3], &[1.0, 10_066.5, f32::NAN]);
        let b = Tensor::from_f32(&[3], &[1.0, 10_066.0, f32::NAN]);
        let d = difference(&a, &b).unwrap();
        assert_eq!(d.absolute, 0.5);
        assert!((d.relative - 0.5 / 10_066.0).abs() < 1e-12);
        assert_eq!(difference(&a, &Tensor::from_f32(&[1, 3], &[0.0; 3])), None);
        let broken = Tensor::from_f32(&[3], &[f32::NAN, 10_066.0, 1.0]);
        assert_eq!(difference(&broken, &b).unwrap().relative, f64::INFINITY);
        let infinite = Tensor::from_f32(&[1], &[f32::INFINITY]);
        assert_eq!(difference(&infinite, &infinite).unwrap().absolute, 0.0);
        let labels = Tensor::from_i64(&[2], &[3, 4]);
        assert_eq!(difference(&labels, &Tensor::from_i64(&[2], &[3, 5])).unwrap().absolute, 1.0);
    }
}
