//! Gradient rules: for each operator and each of its inputs, the vector-Jacobian product as an expression.
//!
//! A rule sees one node and is asked for one input at a time, so nothing is built that nobody needs. A family file holds
//! a table of one-line rules and, below it, the few that need more. Rules of elementwise operators ignore broadcasting:
//! the engine sums their results to the input's shape.

mod activation;
mod averaging;
mod cache;
mod convolution;
mod cumulative;
mod einsum;
mod elementwise;
mod image;
mod indexing;
mod kernel;
mod linear;
mod lp_pooling;
mod matrix;
mod movement;
mod normalization;
mod pooling;
mod quantization;
mod reduction;
mod resize;
mod scatter;
mod spectral;
mod window;
mod zero;

use dendrite_onnx::{ElementType, Node, NodeId, Shape};

use crate::{
    control,
    error::{Error, Result},
    expr::{Builder, V},
    lowering,
};

/// What a rule answers.
#[derive(Clone, Copy)]
pub(crate) enum Answer<'b> {
    /// The gradient, of the input's shape.
    Exact(V<'b>),
    /// The gradient before the sum over broadcast axes.
    Unreduced(V<'b>),
    /// The output does not depend on this input continuously.
    Zero,
}

impl<'b> From<V<'b>> for Answer<'b> {
    fn from(v: V<'b>) -> Self {
        Answer::Exact(v)
    }
}

impl Answer<'_> {
    fn exact(self) -> Self {
        self
    }

    fn unreduced(self) -> Self {
        match self {
            Answer::Exact(v) => Answer::Unreduced(v),
            other => other,
        }
    }
}

/// The gradient of a node's input at a position.
pub(crate) type Rule = for<'b> fn(&Ctx<'b>, usize) -> Result<Answer<'b>>;

/// A family's table: operators of the standard domain with their rule.
type Table = &'static [(&'static [&'static str], Rule)];

/// `rules! { NAME, unreduced|exact, (context, dy, y); "Op" (inputs...) => [gradient of each input]; }`
macro_rules! rules {
    ($name:ident, $kind:ident, ($c:ident, $dy:ident, $y:ident);
     $($($op:literal)|+ ($($x:ident),*) => [$($gradient:expr),+ $(,)?];)*) => {
        pub(super) const $name: super::Table = &[$((&[$($op),+], {
            #[allow(unused_variables, unused_mut, unused_assignments)]
            fn rule<'b>($c: &super::Ctx<'b>, input: usize) -> crate::Result<super::Answer<'b>> {
                let ($dy, $y) = ($c.dy(0)?, $c.y(0)?);
                let mut position = 0;
                $(let $x = $c.x(position)?; position += 1;)*
                let mut position = 0;
                $(if position == input {
                    return Ok(super::Answer::from($gradient).$kind());
                }
                position += 1;)+
                Err($c.malformed(input))
            }
            rule
        })),*];
    };
}
use rules;

pub use quantization::is_quantised;
pub(crate) use quantization::{REMEDY, refusal};

const TABLES: &[Table] = &[
    elementwise::RULES,
    elementwise::VARIADIC,
    elementwise::TYPED,
    activation::RULES,
    activation::PARAMETRIC,
    linear::RULES,
    einsum::RULES,
    matrix::RULES,
    convolution::RULES,
    pooling::RULES,
    averaging::RULES,
    lp_pooling::RULES,
    movement::RULES,
    movement::FUNCTIONS,
    indexing::RULES,
    scatter::RULES,
    cache::RULES,
    reduction::RULES,
    cumulative::RULES,
    normalization::RULES,
    resize::RULES,
    image::RULES,
    spectral::RULES,
    quantization::RULES,
    zero::RULES,
];

/// Those of ONNX Runtime's own domain that are not lowered.
const CONTRIBUTED: &[Table] = &[matrix::CONTRIBUTED];

/// A family's tables by domain.
const DOMAINS: &[(&str, &[Table])] = &[("", TABLES), ("com.microsoft", CONTRIBUTED)];

/// The rule of an operator.
pub(crate) fn find(domain: &str, op: &str) -> Option<Rule> {
    let tables = DOMAINS.iter().filter(|(d, _)| *d == domain).flat_map(|(_, tables)| tables.iter());
    let mut entries = tables.flat_map(|t| t.iter());
    entries.find(|(names, _)| names.contains(&op)).map(|(_, rule)| *rule)
}

/// Whether the derivative of a node is zero with respect to every input.
pub(crate) fn is_flat(node: &Node) -> bool {
    is_flat_operator(&node.domain, &node.op)
}

fn is_flat_operator(domain: &str, op: &str) -> bool {
    domain.is_empty() && zero::RULES.iter().any(|(names, _)| names.contains(&op))
}

/// The operators that have a gradient rule, as (domain, operator) in alphabetical order.
pub fn supported() -> Vec<(&'static str, &'static str)> {
    let mut all = Vec::new();
    for (domain, tables) in DOMAINS {
        all.extend(tables.iter().flat_map(|t| t.iter()).flat_map(|(n, _)| n.iter().map(|n| (*domain, *n))));
    }
    all.extend(control::OPERATORS.map(|op| ("", op)));
    all.extend(lowering::operators());
    all.sort_unstable();
    all
}

/// Those of [`supported`] whose derivative is not zero with respect to every input.
pub fn differentiable() -> Vec<(&'static str, &'static str)> {
    supported().into_iter().filter(|(domain, op)| !is_flat_operator(domain, op)).collect()
}

/// What a rule sees: the node and the gradients of its outputs.
pub(crate) struct Ctx<'b> {
    pub(crate) b: &'b Builder,
    pub(crate) id: NodeId,
    pub(crate) node: Node,
    pub(crate) gradients: Vec<Option<V<'b>>>,
}

impl<'b> Ctx<'b> {
    /// Input `index`, which the operator requires.
    pub(crate) fn x(&self, index: usize) -> Result<V<'b>> {
        self.opt(index).ok_or_else(|| self.malformed(index))
    }

    /// Optional input `index`.
    pub(crate) fn opt(&self, index: usize) -> Option<V<'b>> {
        self.node.input(index).map(|v| self.b.value(v))
    }

    /// Output `index`, which the operator always has.
    pub(crate) fn y(&self, index: usize) -> Result<V<'b>> {
        let output = self.node.output(index).map(|v| self.b.value(v));
        output.ok_or_else(|| self.stop(format!("output {index} is missing"), "name the output in the model"))
    }

    /// Output `index`, which the node is made to compute.
    fn extra_output(&self, index: usize, element_type: ElementType, shape: Option<Shape>) -> V<'b> {
        self.b.output(self.id, index, element_type, shape)
    }

    /// The gradient of output `index`.
    pub(crate) fn dy(&self, index: usize) -> Result<V<'b>> {
        match self.gradients.get(index).copied().flatten() {
            Some(v) => Ok(v),
            None => self.zeros_like(self.y(index)?),
        }
    }

    /// The gradient of output `index`, unless it is zero.
    pub(crate) fn opt_dy(&self, index: usize) -> Option<V<'b>> {
        self.gradients.get(index).copied().flatten()
    }

    /// The zero gradient of a value. That of a quantised number is a float.
    pub(crate) fn zeros_like(&self, v: V<'b>) -> Result<V<'b>> {
        let sizes = crate::expr::Size::all(v).ok_or_else(|| self.no_rank(v))?;
        let element_type = if v.element_type().is_float() { v.element_type() } else { ElementType::Float };
        Ok(self.b.filled(element_type, &sizes, 0.0))
    }

    /// The rank of a value, without which the rule cannot answer.
    pub(crate) fn rank(&self, v: V<'b>) -> Result<usize> {
        v.rank().ok_or_else(|| self.no_rank(v))
    }

    /// The sizes of the axes of `v` from `from` on, which must be known.
    pub(crate) fn known_dims(&self, v: V<'b>, from: usize) -> Result<Vec<usize>> {
        let shape = v.shape().ok_or_else(|| self.no_rank(v))?;
        let dims = shape.0.iter().skip(from).map(|d| d.known()).collect::<Option<Vec<_>>>();
        dims.ok_or_else(|| {
            let name = self.b.graph().name_of(v.id()).to_owned();
            self.stop(
                format!("the gradient needs the sizes of '{name}', known only as {shape}"),
                "fix the model's input sizes, all but the batch",
            )
        })
    }

    /// The numbers in input `index`, which must be constant.
    fn constant_ints(&self, index: usize) -> Result<Vec<i64>> {
        let v = self.x(index)?;
        v.as_ints().ok_or_else(|| {
            let name = self.b.graph().name_of(v.id()).to_owned();
            self.stop(
                format!("the gradient needs '{name}' (input {index}) to be a constant"),
                "simplify the model so that the value becomes a constant",
            )
        })
    }

    fn constant_floats(&self, index: usize) -> Result<Vec<f32>> {
        let v = self.x(index)?;
        v.tensor().and_then(|t| t.to_f32()).ok_or_else(|| {
            let name = self.b.graph().name_of(v.id()).to_owned();
            self.stop(
                format!("the gradient needs '{name}' (input {index}) to be a constant"),
                "simplify the model so that the value becomes a constant",
            )
        })
    }

    /// Integer attribute `name`.
    pub(crate) fn int(&self, name: &str, default: i64) -> i64 {
        self.node.attributes.int(name, default)
    }

    /// Float attribute `name`.
    pub(crate) fn float(&self, name: &str, default: f64) -> f64 {
        self.node.attributes.opt_float(name).map_or(default, f64::from)
    }

    /// Attribute `name` as an axis counted from the front of `rank` axes.
    fn axis(&self, name: &str, default: i64, rank: usize) -> Result<usize> {
        self.front_axis(self.int(name, default), rank)
    }

    /// An axis counted from the front of `rank` axes.
    pub(crate) fn front_axis(&self, axis: i64, rank: usize) -> Result<usize> {
        let front = if axis < 0 { axis + rank as i64 } else { axis };
        match usize::try_from(front) {
            Ok(a) if a < rank.max(1) => Ok(a),
            _ => {
                Err(self
                    .stop(format!("axis {axis} of {rank} axes"), "`dendrite check` lists every finding in the file"))
            }
        }
    }

    /// This node with other inputs and attributes, as an expression of the given shape.
    fn again(&self, inputs: &[Option<V<'b>>], element_type: ElementType, shape: Option<Shape>) -> V<'b> {
        let inputs: Vec<_> = inputs.iter().map(|v| v.map(V::id)).collect();
        self.b.node_with_gaps(&self.node.op, &inputs, self.node.attributes.clone(), element_type, shape)
    }

    pub(crate) fn name(&self) -> String {
        node_name(self.b, &self.node)
    }

    /// The rule cannot answer for this node.
    pub(crate) fn stop(&self, reason: impl Into<String>, remedy: impl Into<String>) -> Error {
        Error::Stop { node: self.name(), op: self.node.op.clone(), reason: reason.into(), remedy: remedy.into() }
    }

    pub(crate) fn malformed(&self, input: usize) -> Error {
        self.stop(
            format!("input {input} is missing, or cannot be differentiated"),
            "`dendrite check` lists every finding in the file",
        )
    }

    pub(crate) fn no_rank(&self, v: V<'b>) -> Error {
        let name = self.b.graph().name_of(v.id()).to_owned();
        self.stop(
            format!("the rank of '{name}' is not known"),
            "run shape inference on the graph before differentiating it",
        )
    }
}

/// A node's name, or its first output where it has none.
pub(crate) fn node_name(b: &Builder, node: &Node) -> String {
    if !node.name.is_empty() {
        return node.name.clone();
    }
    node.outputs.iter().flatten().next().map(|v| b.graph().name_of(*v).to_owned()).unwrap_or_default()
}
