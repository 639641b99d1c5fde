//! The nodes that a site's dendrites consist of, by name: written once, inserted into a working copy and into the user's
//! file alike.
//!
//! Only operators whose form has not changed since opset 7 are used, so one fragment fits every file.

use dendrite_onnx::{Attributes, Graph, Tensor};

use crate::{
    error::{Error, Result},
    set::{Connection, DendriteSet, Weights, tensor},
    sites::{Application, Site, SiteKind},
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
    /// New constants, which all applications of the site share.
    pub constants: Vec<(String, Tensor)>,
    /// The nodes at each application of the site, in the order of the applications.
    pub parts: Vec<Part>,
}

/// The roles of the values that a recurrent operator reads in place of its input and its weights.
pub(crate) const EXTENDED_INPUT: &str = "extended_input";
pub(crate) const EXTENDED_WEIGHT: &str = "extended_weight";

/// What is inserted at one application of a site.
#[derive(Debug, Clone)]
pub struct Part {
    /// The application's output.
    pub output: String,
    /// How the nodes meet the operation.
    pub joint: Joint,
    /// The nodes in topological order.
    pub nodes: Vec<FragmentNode>,
}

/// How dendrites meet the operation that they belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joint {
    /// They are added to its result.
    Sum {
        /// The new name of what the application's last node computes; its output is what the last node of the part computes.
        main: String,
    },
    /// They are features that it reads beside its own. Where V a is to be added to W x within an operator, W x + V a is the
    /// product of [W V] with x and a, one below the other. With V zero ONNX Runtime computes the same to the bit where it
    /// packs the weights beforehand, which optimisation at any level lets it; without, a longer sum may be cut into other
    /// blocks and move the last bits (2e-6 seen).
    Features {
        /// What the operation reads in place of its input.
        input: String,
        /// What it reads in place of its weights.
        weight: String,
    },
}

/// How the dendrites of a fragment read the site's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Directly, as in a deployed model.
    Direct,
    /// Through an `Identity` (see [`stop_value`]), where a training graph can stop the error (perforation).
    Perforated,
}

/// The value behind which dendrites of a perforated site read their input where its output is `output`.
pub fn stop_value(output: &str) -> String {
    format!("{output}/dendrites/input")
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
    let mut constants = Vec::new();
    for set in &own {
        if let Some(reason) = site.kind.refuses(set.connection) {
            return Err(Error::Refused { site: site.name.clone(), reason });
        }
        for (name, shape) in set.tensors(site, sets) {
            let tensor = tensor(weights, set, &name, &shape)?.clone();
            constants.push((name, tensor));
        }
    }
    let parts = site.applications.iter().map(|application| Part::new(graph, site, application, &own, sets, reading));
    Ok(Some(Fragment { constants, parts: parts.collect() }))
}

impl Part {
    fn new(
        graph: &Graph,
        site: &Site,
        application: &Application,
        own: &[&DendriteSet],
        sets: &[DendriteSet],
        reading: Reading,
    ) -> Self {
        let output = application.name.clone();
        let main = format!("{output}/main");
        let mut part = Part { joint: Joint::Sum { main: main.clone() }, output, nodes: Vec::new() };
        let mut input = graph.name_of(application.input).to_owned();
        if reading == Reading::Perforated {
            let stop = stop_value(&part.output);
            part.push("Identity", stop.clone(), &[&input], Attributes::new());
            input = stop;
        }
        let attributes = &graph.node(application.node).attributes;
        let activations = |part: &mut Part, set| part.activations(site, attributes, set, sets, &input);
        if site.kind.is_recurrent() {
            let reads = |index| graph.node(application.node).input(index).map(|v| graph.name_of(v).to_owned());
            let mut features = [reads(0).unwrap_or_default(), reads(1).unwrap_or_default()];
            for set in own {
                let activation = activations(&mut part, set);
                let more = [activation, set.path("connection")];
                let roles = [EXTENDED_INPUT, EXTENDED_WEIGHT];
                for ((feature, more), role) in features.iter_mut().zip(more).zip(roles) {
                    let along = Attributes::new().with("axis", 2);
                    *feature = part.push("Concat", part.path(set, role), &[feature, &more], along);
                }
            }
            let [input, weight] = features;
            part.joint = Joint::Features { input, weight };
            return part;
        }
        let mut sum = main;
        for (position, set) in own.iter().enumerate() {
            let activation = activations(&mut part, set);
            let contribution = part.connect(site, set, &activation);
            let last = position + 1 == own.len();
            let next = if last { part.output.clone() } else { part.path(set, "sum") };
            let name = part.path(set, "add");
            part.push_named("Add", name, next.clone(), &[&sum, &contribution], Attributes::new());
            sum = next;
        }
        part
    }

    /// The values that it brings, its output excepted.
    pub fn values(&self) -> impl Iterator<Item = &String> {
        let outputs = self.nodes.iter().map(|node| &node.output).filter(|output| **output != self.output);
        let main = match &self.joint {
            Joint::Sum { main } => Some(main),
            Joint::Features { .. } => None,
        };
        main.into_iter().chain(outputs)
    }

    /// The name of a node or value of this part.
    fn path(&self, set: &DendriteSet, role: &str) -> String {
        set.path_at(&self.output, role)
    }

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
        site: &Site,
        attributes: &Attributes,
        set: &DendriteSet,
        sets: &[DendriteSet],
        input: &str,
    ) -> String {
        let (weight, bias) = (set.path("weight"), set.path("bias"));
        let mut z = match site.kind {
            SiteKind::Conv | SiteKind::ConvTranspose => {
                let inputs: &[&str] = if site.bias { &[input, &weight, &bias] } else { &[input, &weight] };
                self.push(site.kind.op(), self.path(set, site.kind.role()), inputs, attributes.clone())
            }
            SiteKind::Gemm => {
                // alpha and beta scale the site's own weights; a dendrite's are free.
                let transposed = Attributes::new().with("transB", i64::from(site.transposed));
                let inputs: &[&str] = if site.bias { &[input, &weight, &bias] } else { &[input, &weight] };
                self.push("Gemm", self.path(set, site.kind.role()), inputs, transposed)
            }
            SiteKind::MatMul | SiteKind::Recurrent { .. } => {
                let product =
                    self.push("MatMul", self.path(set, site.kind.role()), &[input, &weight], Attributes::new());
                if site.bias {
                    self.push("Add", self.path(set, "biased"), &[&product, &bias], Attributes::new())
                } else {
                    product
                }
            }
        };
        for from in set.cascade(sets) {
            let (weight, role) = (set.cascade_path(from), format!("from_{}", from.index));
            let earlier = self.path(from, "activation");
            let scaled = self.push("Mul", self.path(set, &role), &[&earlier, &weight], Attributes::new());
            z = self.push("Add", self.path(set, &format!("{role}_sum")), &[&z, &scaled], Attributes::new());
        }
        self.push(set.activation.op(), self.path(set, "activation"), &[&z], Attributes::new())
    }

    fn connect(&mut self, site: &Site, set: &DendriteSet, activation: &str) -> String {
        let connection = set.path("connection");
        let output = self.path(set, "contribution");
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
