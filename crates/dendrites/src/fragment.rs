//! The nodes that a site's dendrites consist of, by name: written once, inserted into a working copy and into the user's
//! file alike.
//!
//! Only operators whose form has not changed since opset 7 are used, so one fragment fits every file.

use dendrite_onnx::{Attributes, Graph, Tensor};

use crate::{
    error::Result,
    set::{Connection, DendriteSet, Weights, tensor},
    sites::{Site, SiteKind},
};

/// A node of a fragment.
#[derive(Debug, Clone)]
pub struct FragmentNode {
    /// The operator, of ai.onnx.
    pub op: &'static str,
    /// The node's name.
    pub name: String,
    /// Input values.
    pub inputs: Vec<String>,
    /// The output value.
    pub output: String,
    /// Attributes.
    pub attributes: Attributes,
}

/// What is inserted at one site.
#[derive(Debug, Clone)]
pub struct Fragment {
    /// The site's output: computed by the last node of the fragment from now on.
    pub output: String,
    /// The new name of what the site's last node computes.
    pub main: String,
    /// New constants.
    pub constants: Vec<(String, Tensor)>,
    /// The nodes in topological order.
    pub nodes: Vec<FragmentNode>,
}

/// How the dendrites of a fragment read the site's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Directly, as in a deployed model.
    Direct,
    /// Through an `Identity` (see [`stop_value`]), where a training graph can stop the error (perforation).
    Perforated,
}

/// The value behind which dendrites of a perforated site read their input.
pub fn stop_value(site: &str) -> String {
    format!("{site}/dendrites/input")
}

/// The fragment of the sets `sets` that belong to `site`; `None` if there are none. `graph` is the working copy in which
/// the site was found.
pub fn fragment(
    graph: &Graph,
    site: &Site,
    sets: &[DendriteSet],
    weights: &Weights,
    reading: Reading,
) -> Result<Option<Fragment>> {
    let own: Vec<&DendriteSet> = sets.iter().filter(|s| s.site == site.name).collect();
    if own.is_empty() {
        return Ok(None);
    }
    let output = graph.name_of(site.output).to_owned();
    let mut built = Fragment { main: format!("{output}/main"), output, constants: Vec::new(), nodes: Vec::new() };
    let mut input = graph.name_of(site.input).to_owned();
    if reading == Reading::Perforated {
        let stop = stop_value(&site.name);
        built.push("Identity", stop.clone(), &[&input], Attributes::new());
        input = stop;
    }
    let mut sum = built.main.clone();
    for (position, set) in own.iter().enumerate() {
        for (name, shape) in set.tensors(site, sets) {
            let tensor = tensor(weights, set, &name, &shape)?.clone();
            built.constants.push((name, tensor));
        }
        let activation = built.activations(graph, site, set, sets, &input);
        let contribution = built.connect(site, set, &activation);
        let last = position + 1 == own.len();
        let next = if last { built.output.clone() } else { set.path("sum") };
        built.push_named("Add", set.path("add"), next.clone(), &[&sum, &contribution], Attributes::new());
        sum = next;
    }
    Ok(Some(built))
}

impl Fragment {
    fn push(&mut self, op: &'static str, output: String, inputs: &[&str], attributes: Attributes) -> String {
        self.push_named(op, output.clone(), output, inputs, attributes)
    }

    fn push_named(
        &mut self,
        op: &'static str,
        name: String,
        output: String,
        inputs: &[&str],
        attributes: Attributes,
    ) -> String {
        let inputs = inputs.iter().map(|s| (*s).to_owned()).collect();
        self.nodes.push(FragmentNode { op, name, inputs, output: output.clone(), attributes });
        output
    }

    /// a_d = f(Op(x; W_d, b_d) + sum c_{d,e} a_e)
    fn activations(
        &mut self,
        graph: &Graph,
        site: &Site,
        set: &DendriteSet,
        sets: &[DendriteSet],
        input: &str,
    ) -> String {
        let attributes = graph.node(site.node).attributes.clone();
        let (weight, bias) = (set.path("weight"), set.path("bias"));
        let mut z = match site.kind {
            SiteKind::Conv | SiteKind::ConvTranspose => {
                let inputs: &[&str] = if site.bias { &[input, &weight, &bias] } else { &[input, &weight] };
                self.push(site.kind.op(), set.path("conv"), inputs, attributes)
            }
            SiteKind::Gemm => {
                // alpha and beta scale the site's own weights; a dendrite's are free.
                let transposed = Attributes::new().with("transB", i64::from(site.transposed));
                let inputs: &[&str] = if site.bias { &[input, &weight, &bias] } else { &[input, &weight] };
                self.push("Gemm", set.path("gemm"), inputs, transposed)
            }
            SiteKind::MatMul => {
                let product = self.push("MatMul", set.path("matmul"), &[input, &weight], Attributes::new());
                if site.bias {
                    self.push("Add", set.path("biased"), &[&product, &bias], Attributes::new())
                } else {
                    product
                }
            }
        };
        for from in set.cascade(sets) {
            let (weight, role) = (set.cascade_path(from), format!("from_{}", from.index));
            let earlier = from.path("activation");
            let scaled = self.push("Mul", set.path(&role), &[&earlier, &weight], Attributes::new());
            z = self.push("Add", set.path(&format!("{role}_sum")), &[&z, &scaled], Attributes::new());
        }
        self.push(set.activation.op(), set.path("activation"), &[&z], Attributes::new())
    }

    fn connect(&mut self, site: &Site, set: &DendriteSet, activation: &str) -> String {
        let connection = set.path("connection");
        let output = set.path("contribution");
        let op = match (set.connection, site.kind) {
            (Connection::Neuron, _) => "Mul",
            (Connection::Layer, kind) if kind.is_convolution() => "Conv",
            // One dendrite needs no sum over dendrites, and tract 0.23 fails on the product of two vectors where the batch
            // is fixed to one.
            (Connection::Layer, _) if set.width == 1 => "Mul",
            (Connection::Layer, _) => "MatMul",
        };
        self.push(op, output, &[activation, &connection], Attributes::new())
    }
}
