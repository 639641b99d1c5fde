//! A case's gradients against differences of what the runtime computes.

use std::collections::HashMap;

use dendrite_autodiff::{Error, expr::Builder};
use dendrite_onnx::{ElementType, Graph, Shape, Tensor, ValueId};
use dendrite_runtime::{Optimization, Session};

use crate::{
    case::{Array, Case, Known, forget},
    common::{session, with_gradients},
    draw::Draw,
};

/// Directions along which each input's derivative is taken.
const DIRECTIONS: usize = 3;

/// Operators that the runtime does not run at the working opset, with the last opset at which it does.
const LAST_KERNEL: &[(&str, i64)] = &[("GlobalLpPool", 21), ("MaxRoiPool", 21), ("RoiAlign", 21)];

/// What computing in a type allows.
struct Precision {
    /// Of gradients: relative to the derivative or 1.
    tolerance: f64,
    /// The longer of the two steps of a difference.
    step: f64,
    /// By how much the two may differ where the function is smooth.
    settled: f64,
}

const SINGLE: Precision = Precision { tolerance: 2e-3, step: 1.0 / 64.0, settled: 1e-3 };
const DOUBLE: Precision = Precision { tolerance: 1e-5, step: 1.0 / 512.0, settled: 1e-4 };

/// What becomes of a case.
pub(crate) enum Outcome {
    Agrees {
        /// The largest error of gradients that are computed in float64.
        double: Option<f64>,
        /// The same in float32.
        single: Option<f64>,
        /// Whether all derivatives are zero, as those of nothing are.
        zero: bool,
    },
    Refused(String),
    /// Differences of two steps are not alike.
    Kink,
    /// The runtime does not run it.
    NotRun(String),
    Wrong(String),
}

/// The runtime's own operator.
struct Forward<'a> {
    case: &'a Case,
    float: ElementType,
    session: Session,
    values: HashMap<String, Tensor>,
    /// The float outputs' weights in the loss.
    weights: HashMap<String, Vec<f64>>,
    precision: &'static Precision,
}

fn run(session: &mut Session, feeds: &[(String, Tensor)]) -> Result<HashMap<String, Tensor>, String> {
    let feeds: Vec<_> = feeds.iter().map(|(n, t)| (n.as_str(), t)).collect();
    Ok(session.run(&feeds).map_err(|e| e.to_string())?.into_iter().collect())
}

impl<'a> Forward<'a> {
    fn new(case: &'a Case, float: ElementType) -> Result<Self, String> {
        let mut graph = case.runnable(float);
        if let Some((_, last)) = LAST_KERNEL.iter().find(|(op, _)| *op == case.label) {
            graph.opsets.insert(String::new(), *last);
        }
        let mut session = session(&graph, Optimization::Off).map_err(|e| e.to_string())?;
        let values = run(&mut session, &case.feeds(float, None))?;
        let mut weights = HashMap::new();
        let mut precision = if float == ElementType::Double { &DOUBLE } else { &SINGLE };
        for (place, y) in graph.outputs.iter().enumerate().filter(|(place, _)| !case.unweighted.contains(place)) {
            let name = graph.name_of(*y);
            let value = &values[name];
            if value.element_type().is_float() {
                weights.insert(name.to_owned(), Draw::new("weights", place).away(&[value.len()], 0.1, 1.0).values);
                if value.element_type() != ElementType::Double {
                    precision = &SINGLE;
                }
            }
        }
        Ok(Forward { case, float, session, values, weights, precision })
    }

    /// In float64 where the runtime can.
    fn best(case: &'a Case) -> Result<Self, String> {
        let single = || Forward::new(case, ElementType::Float);
        if case.single { single() } else { Forward::new(case, ElementType::Double).or_else(|_| single()) }
    }

    fn total(&mut self, place: usize, input: &Array) -> Result<f64, String> {
        let values = run(&mut self.session, &self.case.feeds(self.float, Some((place, input))))?;
        let mut total = 0.0;
        for (name, weights) in &self.weights {
            let y = values[name].to_f64().unwrap_or_default();
            if y.len() != weights.len() {
                return Err(format!("{} values are {} near by", weights.len(), y.len()));
            }
            total += y.iter().zip(weights).map(|(y, w)| y * w).sum::<f64>();
        }
        Ok(total)
    }

    /// The derivative of the loss along a direction of an input by two central differences and Richardson's extrapolation;
    /// none where the two are not alike.
    fn along(&mut self, place: usize, input: &Array, direction: &[f64]) -> Result<Option<f64>, String> {
        let Precision { step, settled, .. } = *self.precision;
        let mut difference = |step: f64| -> Result<f64, String> {
            let ahead = self.total(place, &input.moved(direction, step))?;
            Ok((ahead - self.total(place, &input.moved(direction, -step))?) / (2.0 * step))
        };
        let (coarse, fine) = (difference(step)?, difference(step / 2.0)?);
        let alike = (coarse - fine).abs() <= settled * fine.abs().max(1.0);
        Ok(alike.then_some((4.0 * fine - coarse) / 3.0))
    }
}

/// Derivatives along directions of a differentiated input.
struct Slopes {
    directions: Vec<Vec<f64>>,
    expected: Vec<f64>,
}

/// Hold the gradients of a case to differences.
pub(crate) fn verify(case: &Case, known: Known, in_both_types: bool) -> Outcome {
    attempt(case, known, in_both_types).unwrap_or_else(|outcome| outcome)
}

fn attempt(case: &Case, known: Known, in_both_types: bool) -> Result<Outcome, Outcome> {
    let mut forward = Forward::best(case).map_err(Outcome::NotRun)?;
    let mut slopes = Vec::new();
    for (place, input) in case.trained() {
        let mut r = Draw::new("directions", place);
        let count = if input.values.is_empty() { 0 } else { DIRECTIONS };
        let directions: Vec<Vec<f64>> = (0..count).map(|_| r.direction(input.values.len())).collect();
        let mut expected = Vec::new();
        for direction in &directions {
            let slope = forward.along(place, input, direction).map_err(Outcome::NotRun)?;
            expected.push(slope.ok_or(Outcome::Kink)?);
        }
        slopes.push(Slopes { directions, expected });
    }
    let zero = slopes.iter().flat_map(|s| &s.expected).all(|slope| slope.abs() < 1e-3);
    let held = |float: ElementType, precision: &Precision| -> Result<f64, Outcome> {
        let error = errors(&forward, float, known, &slopes)?;
        if error <= precision.tolerance {
            return Ok(error);
        }
        Err(Outcome::Wrong(format!("in {float} the gradient differs by {error:.1e}")))
    };
    let mut double = match forward.float {
        ElementType::Double => match held(ElementType::Double, forward.precision) {
            Ok(error) => Some(error),
            // What a gradient is made of may have no kernel in float64 although the operator has.
            Err(Outcome::NotRun(_)) => None,
            Err(other) => return Err(other),
        },
        _ => None,
    };
    let mut single = if double.is_none() || in_both_types {
        let runs = |outcome| match outcome {
            Outcome::NotRun(reason) => Outcome::Wrong(format!("the gradient does not run: {reason}")),
            other => other,
        };
        Some(held(ElementType::Float, &SINGLE).map_err(runs)?)
    } else {
        None
    };
    // An output may be of float32 in any case.
    if forward.precision.tolerance == SINGLE.tolerance {
        single = single.or(double.take());
    }
    Ok(Outcome::Agrees { double, single, zero })
}

/// Add the weighted sum of the outputs, in float64.
fn loss(graph: &mut Graph, forward: &Forward<'_>) -> ValueId {
    let outputs = graph.outputs.clone();
    Builder::scope(graph, "loss", |b| {
        let mut sums = Vec::new();
        for y in outputs {
            let name = b.graph().name_of(y).to_owned();
            let Some(weights) = forward.weights.get(&name) else { continue };
            let y = b.value(y);
            let shape = forward.values[&name].shape();
            let weights = b.floats(ElementType::Double, shape, weights);
            sums.push((y.cast(ElementType::Double) * weights).sum(&(0..shape.len()).collect::<Vec<_>>(), false));
        }
        b.sum(&sums).unwrap().id()
    })
}

/// The largest error of the gradients that are computed in `float`.
fn errors(forward: &Forward<'_>, float: ElementType, known: Known, slopes: &[Slopes]) -> Result<f64, Outcome> {
    let case = forward.case;
    let mut graph = case.graph(float);
    for y in graph.outputs.clone() {
        let value = &forward.values[graph.name_of(y)];
        let same = case.output_type.is_none() && value.element_type() == forward.float;
        let element_type = if same { float } else { value.element_type() };
        graph.set_type(y, Some(element_type), Some(Shape::known(value.shape())));
    }
    let outputs: Vec<String> = graph.outputs.iter().map(|y| graph.name_of(*y).to_owned()).collect();
    forget(&mut graph, known);
    let trained = case.trained();
    let wrt: Vec<ValueId> = trained.iter().map(|(place, _)| graph.find(&format!("x{place}")).unwrap()).collect();
    let loss = loss(&mut graph, forward);
    let names = match with_gradients(&mut graph, loss, &wrt) {
        Ok(names) => names,
        Err(Error::Stop { reason, .. }) => return Err(Outcome::Refused(reason)),
        Err(other) => return Err(Outcome::Wrong(other.to_string())),
    };
    // The type of a gradient is that of its input.
    for name in names.iter().flatten() {
        let id = graph.find(name).unwrap();
        graph.set_type(id, Some(float), None);
    }
    let loaded = session(&graph, Optimization::All).map_err(|e| e.to_string());
    let results = loaded.and_then(|mut s| run(&mut s, &case.feeds(float, None))).map_err(Outcome::NotRun)?;
    for name in outputs {
        let (ours, theirs) = (&results[&name], &forward.values[&name]);
        if ours.shape() != theirs.shape() {
            return Err(Outcome::Wrong(format!("a result of shape {:?}, not {:?}", ours.shape(), theirs.shape())));
        }
        let (ours, theirs) = (ours.to_f64().unwrap_or_default(), theirs.to_f64().unwrap_or_default());
        let scale = theirs.iter().fold(1.0f64, |m, v| m.max(v.abs()));
        let worst = ours.iter().zip(theirs).fold(0.0f64, |m, (a, b)| m.max((a - b).abs() / scale));
        if worst > 1e-5 {
            return Err(Outcome::Wrong(format!("in {float} the results differ by {worst:.1e}")));
        }
    }
    let mut worst = 0.0f64;
    for (((place, input), name), slopes) in trained.iter().zip(names).zip(slopes) {
        let gradient = match name {
            Some(name) => {
                let gradient = &results[&name];
                if gradient.shape() != input.shape || gradient.element_type() != float {
                    let (shape, found) = (gradient.shape(), gradient.element_type());
                    return Err(Outcome::Wrong(format!("input {place} has a gradient {found}{shape:?}")));
                }
                gradient.to_f64().unwrap()
            }
            None => vec![0.0; input.values.len()],
        };
        for (direction, expected) in slopes.directions.iter().zip(&slopes.expected) {
            let found: f64 = gradient.iter().zip(direction).map(|(g, d)| g * d).sum();
            let error = (found - expected).abs() / expected.abs().max(1.0);
            worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
            if worst == f64::INFINITY {
                return Ok(worst);
            }
        }
    }
    Ok(worst)
}
