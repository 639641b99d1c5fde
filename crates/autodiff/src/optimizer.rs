//! Optimizers as graphs: new parameters and moments from gradients.
//!
//! In small models the time goes into starting nodes, so there are few: factors that do not depend on the parameter are
//! computed once a step, constant ones are folded into the moments' scale, and small parameters are updated together as one
//! vector.

use dendrite_onnx::{ElementType, Graph, Shape, ValueId};

use crate::{
    error::{Error, Result},
    expr::{Builder, Size, V},
};

/// Parameters of up to this many elements are updated together: copying them costs less than starting their nodes. A step
/// of AdamW on twelve parameters together took 0.5 of the time of twelve alone at 64 elements each, 0.9 at 4,096 and 1.1 at
/// 16,384 (ONNX Runtime 1.31.1, two threads).
const SMALL: usize = 1 << 13;

/// How parameters follow gradients.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimizer {
    /// The update rule.
    pub algorithm: Algorithm,
    /// Scale the gradients of a step so that the norm of all together is at most this.
    pub clip_norm: Option<f64>,
}

/// An update rule. p is a parameter, g its gradient, t the step from 1 on.
#[derive(Debug, Clone, PartialEq)]
pub enum Algorithm {
    /// Adam with decoupled weight decay: p shrinks by lr * weight_decay * p.
    AdamW {
        /// Decay of the mean of g.
        beta1: f64,
        /// Decay of the mean of g^2.
        beta2: f64,
        /// Added to the root of the mean of g^2.
        epsilon: f64,
        /// Decay of p.
        weight_decay: f64,
    },
    /// Adam; weight decay is added to g.
    Adam {
        /// Decay of the mean of g.
        beta1: f64,
        /// Decay of the mean of g^2.
        beta2: f64,
        /// Added to the root of the mean of g^2.
        epsilon: f64,
        /// Added to g as weight_decay * p.
        weight_decay: f64,
    },
    /// Gradient descent: v = momentum * v + g, p = p - lr * v, or with Nesterov's look-ahead p = p - lr * (g + momentum * v).
    Sgd {
        /// Decay of v; 0 for plain descent without state.
        momentum: f64,
        /// Whether to look ahead.
        nesterov: bool,
        /// Added to g as weight_decay * p.
        weight_decay: f64,
    },
}

/// The values that [`attach`] adds to a graph.
#[derive(Debug, Clone)]
pub struct OptimizerValues {
    /// The learning rate: a new scalar float32 input.
    pub learning_rate: ValueId,
    /// The number of the step, from 1 on: a new scalar float32 input.
    pub step: ValueId,
    /// The moments, as input, output and shape: new inputs, to be filled with zeros before the first step. Their scale is
    /// the implementation's own (m / (1 - beta1), v / (1 - beta2)).
    pub state: Vec<(ValueId, ValueId, Shape)>,
    /// The new values of the parameters, in the order given.
    pub updated: Vec<ValueId>,
    /// The norm of all gradients together, before clipping: a scalar that is no number as soon as one of them is.
    pub gradient_norm: ValueId,
}

/// A parameter, or several as one vector, with its gradient.
struct Block<'b> {
    name: String,
    value: V<'b>,
    gradient: V<'b>,
    members: Vec<usize>,
}

/// Add one step of `optimizer` for float32 parameters of known shapes, given as (value, gradient).
pub fn attach(graph: &mut Graph, optimizer: &Optimizer, params: &[(ValueId, ValueId)]) -> Result<OptimizerValues> {
    for (param, _) in params {
        let value = graph.value(*param);
        if value.element_type != Some(ElementType::Float) || value.shape.as_ref().and_then(Shape::as_known).is_none() {
            return Err(Error::invalid(
                format!("parameter '{}' is not float32 of a known shape", value.name),
                "train a float32 copy of the parameter",
            ));
        }
    }
    let learning_rate = graph.add_input("learning_rate", ElementType::Float, Shape::default());
    let step = graph.add_input("step", ElementType::Float, Shape::default());
    Builder::scope(graph, "optimizer", |b| {
        let mut blocks = blocks(b, params);
        let gradient_norm = norm(b, &blocks);
        if let Some(limit) = optimizer.clip_norm {
            let factor =
                (gradient_norm.scalar(limit) / (gradient_norm + 1e-6)).binary("Min", gradient_norm.scalar(1.0));
            blocks.iter_mut().for_each(|block| block.gradient = block.gradient * factor);
        }
        let update = Update::new(&optimizer.algorithm, b.value(learning_rate), b.value(step));
        let mut state = Vec::new();
        let mut updated = vec![None; params.len()];
        for block in &blocks {
            b.rename(&format!("optimizer/{}", block.name));
            let new = update.apply(block, &mut state);
            for (place, value) in block.members.iter().zip(parts(b, block, new, params)) {
                updated[*place] = Some(value.id());
            }
        }
        Ok(OptimizerValues {
            learning_rate,
            step,
            state,
            updated: updated.into_iter().flatten().collect(),
            gradient_norm: gradient_norm.id(),
        })
    })
}

/// Small parameters as one vector, the others alone.
fn blocks<'b>(b: &'b Builder, params: &[(ValueId, ValueId)]) -> Vec<Block<'b>> {
    let small = |v: ValueId| b.value(v).known_count().is_some_and(|n| n <= SMALL);
    let together: Vec<usize> = (0..params.len()).filter(|i| small(params[*i].0)).collect();
    let mut blocks: Vec<Block<'b>> = Vec::new();
    if together.len() > 1 {
        let join = |ids: Vec<ValueId>| b.concat(&ids.into_iter().map(|v| b.value(v).flat()).collect::<Vec<_>>(), 0);
        blocks.push(Block {
            name: "small".to_owned(),
            value: join(together.iter().map(|i| params[*i].0).collect()),
            gradient: join(together.iter().map(|i| params[*i].1).collect()),
            members: together.clone(),
        });
    }
    for (i, (param, gradient)) in params.iter().enumerate() {
        if together.len() < 2 || !together.contains(&i) {
            let name = b.graph().name_of(*param).to_owned();
            blocks.push(Block { name, value: b.value(*param), gradient: b.value(*gradient), members: vec![i] });
        }
    }
    blocks
}

/// The parameters that a block's new value is made of.
fn parts<'b>(b: &'b Builder, block: &Block<'b>, new: V<'b>, params: &[(ValueId, ValueId)]) -> Vec<V<'b>> {
    if block.members.len() == 1 {
        return vec![new];
    }
    let owners: Vec<V<'b>> = block.members.iter().map(|i| b.value(params[*i].0)).collect();
    let sizes: Vec<usize> = owners.iter().map(|v| v.known_count().unwrap_or(0)).collect();
    let pieces = b.split(new, &sizes).into_iter().zip(owners);
    pieces.map(|(piece, owner)| Size::all(owner).map_or(piece, |sizes| piece.reshape(&sizes))).collect()
}

fn norm<'b>(b: &'b Builder, blocks: &[Block<'b>]) -> V<'b> {
    let squares: Vec<V<'b>> = blocks
        .iter()
        .map(|block| {
            let axes: Vec<usize> = (0..block.gradient.rank().unwrap_or(0)).collect();
            if axes.is_empty() {
                block.gradient * block.gradient
            } else {
                block.gradient.reduce("ReduceSumSquare", &axes, false)
            }
        })
        .collect();
    b.sum(&squares).unwrap_or(b.scalar(ElementType::Float, 0.0)).sqrt()
}

/// An update rule with its factors of this step.
enum Update<'b> {
    Adam { beta1: f64, beta2: f64, rate: V<'b>, epsilon: V<'b>, decay: Option<V<'b>>, coupled: f64 },
    Sgd { rate: V<'b>, momentum: f64, nesterov: bool, coupled: f64 },
}

impl<'b> Update<'b> {
    fn new(algorithm: &Algorithm, rate: V<'b>, step: V<'b>) -> Self {
        match *algorithm {
            Algorithm::AdamW { beta1, beta2, epsilon, weight_decay } => {
                let decay = (weight_decay != 0.0).then(|| 1.0 - rate * weight_decay);
                Self::adam(rate, step, beta1, beta2, epsilon, decay, 0.0)
            }
            Algorithm::Adam { beta1, beta2, epsilon, weight_decay } => {
                Self::adam(rate, step, beta1, beta2, epsilon, None, weight_decay)
            }
            Algorithm::Sgd { momentum, nesterov, weight_decay } => {
                Update::Sgd { rate, momentum, nesterov, coupled: weight_decay }
            }
        }
    }

    /// The moments are kept without their factors 1 - beta: m = beta1 m + g, v = beta2 v + g^2. Then with the bias
    /// corrections the step is lr * m' / (sqrt(v') + epsilon) = rate * m / (sqrt(v) + epsilon'), where
    /// s = sqrt((1 - beta2^t) / (1 - beta2)), rate = lr * s * (1 - beta1) / (1 - beta1^t) and epsilon' = epsilon * s.
    fn adam(
        rate: V<'b>,
        step: V<'b>,
        beta1: f64,
        beta2: f64,
        epsilon: f64,
        decay: Option<V<'b>>,
        coupled: f64,
    ) -> Self {
        // 1 - beta^t loses most digits of a float32 in the first steps.
        let t = step.cast(ElementType::Double);
        let corrected = |beta: f64| (1.0 - (t * beta.ln()).exp()) / (1.0 - beta);
        let s = corrected(beta2).sqrt();
        let rate = rate * (s / corrected(beta1)).cast(ElementType::Float);
        Update::Adam { beta1, beta2, rate, epsilon: (s * epsilon).cast(ElementType::Float), decay, coupled }
    }

    fn apply(&self, block: &Block<'b>, state: &mut Vec<(ValueId, ValueId, Shape)>) -> V<'b> {
        let b = block.value.builder();
        let p = block.value;
        let shape = p.shape().unwrap_or_default();
        let mut moment = |role: &str, next: &dyn Fn(V<'b>) -> V<'b>| -> V<'b> {
            let name = format!("optimizer/{role}/{}", block.name);
            let old = b.input(&name, &shape);
            let new = next(old);
            state.push((old.id(), new.id(), shape.clone()));
            new
        };
        let decayed = |coupled: f64| if coupled == 0.0 { block.gradient } else { block.gradient + p * coupled };
        match *self {
            Update::Adam { beta1, beta2, rate, epsilon, decay, coupled } => {
                let g = decayed(coupled);
                let m = moment("m", &|m| m * beta1 + g);
                let v = moment("v", &|v| v * beta2 + g * g);
                let p = decay.map_or(p, |decay| p * decay);
                p - m / (v.sqrt() + epsilon) * rate
            }
            Update::Sgd { rate, momentum: 0.0, coupled, .. } => p - decayed(coupled) * rate,
            Update::Sgd { rate, momentum, nesterov, coupled } => {
                let g = decayed(coupled);
                let v = moment("v", &|v| v * momentum + g);
                p - if nesterov { g + v * momentum } else { v } * rate
            }
        }
    }
}
