//! Where dendrites can grow, and why they cannot elsewhere.

use std::collections::HashSet;

use dendrite_onnx::{Dim, ElementType, Graph, Node, NodeId, ValueId, batch::reachable};
use globset::Glob;

use crate::error::{Error, Result};

/// The linear operators that take dendrites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SiteKind {
    /// `Conv` of 1 to 3 spatial dimensions, grouped and depthwise ones included.
    Conv,
    /// `ConvTranspose` of 1 to 3 spatial dimensions, grouped ones included.
    ConvTranspose,
    /// `Gemm` with constant weights.
    Gemm,
    /// `MatMul` with a constant second operand.
    MatMul,
}

impl SiteKind {
    /// The operator of the standard domain that is a site of a kind.
    pub fn of_op(op: &str) -> Option<Self> {
        let all = [SiteKind::Conv, SiteKind::ConvTranspose, SiteKind::Gemm, SiteKind::MatMul];
        all.into_iter().find(|kind| kind.op() == op)
    }

    /// The operator by which a dendrite of such a site reads the site's input.
    pub fn op(self) -> &'static str {
        match self {
            SiteKind::Conv => "Conv",
            SiteKind::ConvTranspose => "ConvTranspose",
            SiteKind::Gemm => "Gemm",
            SiteKind::MatMul => "MatMul",
        }
    }

    /// Whether neurons are channels, with positions behind them.
    pub fn is_convolution(self) -> bool {
        matches!(self, SiteKind::Conv | SiteKind::ConvTranspose)
    }
}

/// A linear operation with weights and a neuron axis, its bias and normalisation counted in.
#[derive(Debug, Clone)]
pub struct Site {
    /// The name of the output value: the site's identity, stable between the user's file and every working copy.
    pub name: String,
    /// The name of the operation's node; may be empty.
    pub node_name: String,
    /// The operator.
    pub kind: SiteKind,
    /// The node of the linear operation.
    pub node: NodeId,
    /// What the operation reads, and a dendrite too.
    pub input: ValueId,
    /// The weight operand, as the operation sees it.
    pub weight: ValueId,
    /// The shape of the weight operand.
    pub weight_shape: Vec<usize>,
    /// Whether the site adds a bias, of its own or by the node that follows.
    pub bias: bool,
    /// The output to which dendrites are added: after the bias and a batch normalisation, where these follow.
    pub output: ValueId,
    /// Neurons (output channels).
    pub channels: usize,
    /// `group` of a convolution, else 1.
    pub groups: usize,
    /// Whether a `Gemm` reads its weights transposed, neurons first.
    pub transposed: bool,
}

impl Site {
    /// The axis of the neurons in the output: 1 for convolutions, the last otherwise.
    pub fn channel_axis(&self) -> i64 {
        if self.kind.is_convolution() { 1 } else { -1 }
    }

    /// The axis of the weight operand that counts neurons; those of a group in a grouped `ConvTranspose`, whose groups
    /// divide the axis before.
    pub fn weight_axis(&self) -> usize {
        match self.kind {
            SiteKind::Conv => 0,
            SiteKind::ConvTranspose => 1,
            SiteKind::Gemm if self.transposed => 0,
            SiteKind::Gemm | SiteKind::MatMul => self.weight_shape.len() - 1,
        }
    }

    /// The shape of the weight operand with `width` neurons in place of the site's.
    pub fn weight_shape_of(&self, width: usize) -> Vec<usize> {
        let mut shape = self.weight_shape.clone();
        let groups = if self.kind == SiteKind::ConvTranspose { self.groups.max(1) } else { 1 };
        shape[self.weight_axis()] = width / groups;
        shape
    }

    /// Weights that one neuron of the operation reads: inputs times kernel.
    pub fn fan_in(&self) -> usize {
        self.weight_shape.iter().product::<usize>() / self.channels.max(1)
    }

    /// Whether `pattern` names the site by its output or its node.
    fn matches(&self, glob: &globset::GlobMatcher) -> bool {
        glob.is_match(&self.name) || (!self.node_name.is_empty() && glob.is_match(&self.node_name))
    }
}

/// Why a linear or recurrent node is not a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotASite {
    /// The node.
    pub node: NodeId,
    /// Its name, or its first output where it has none.
    pub name: String,
    /// Its operator.
    pub op: String,
    /// The reason, as a clause: "its weights are computed".
    pub reason: String,
}

/// Every site of a graph in topological order, and every other linear or recurrent node with the reason why it is none.
/// Element types and shapes must be recorded on the values.
pub fn find_sites(graph: &Graph) -> Result<(Vec<Site>, Vec<NotASite>)> {
    let active = reachable(graph, &graph.inputs);
    let uses = graph.uses();
    let outputs: HashSet<ValueId> = graph.outputs.iter().copied().collect();
    let (mut sites, mut others) = (Vec::new(), Vec::new());
    for id in graph.topological_order()? {
        let node = graph.node(id);
        if !node.domain.is_empty() {
            continue;
        }
        let kind = match (SiteKind::of_op(&node.op), node.op.as_str()) {
            (Some(kind), _) => Ok(kind),
            (_, "LSTM" | "GRU" | "RNN") => Err("recurrent operators do not take dendrites yet"),
            (_, "Einsum") => Err("Einsum does not say which axis holds the neurons"),
            (_, "ConvInteger" | "MatMulInteger" | "QLinearConv" | "QLinearMatMul") => {
                Err("quantised operators have no gradient")
            }
            _ => continue,
        };
        let site = kind.map_err(str::to_owned).and_then(|kind| classify(graph, id, node, kind, &active));
        match site {
            Ok(mut site) => {
                absorb_followers(graph, &mut site, &uses, &outputs);
                site.name = graph.name_of(site.output).to_owned();
                sites.push(site);
            }
            Err(reason) => {
                others.push(NotASite { node: id, name: display_name(graph, node), op: node.op.clone(), reason })
            }
        }
    }
    reject_tied(&mut sites, &mut others, graph);
    Ok((sites, others))
}

/// The sites that `include` selects (all, if empty) and `exclude` does not. A pattern without a match is an error.
pub fn select(sites: &[Site], include: &[String], exclude: &[String]) -> Result<Vec<Site>> {
    let compile = |pattern: &String| -> Result<globset::GlobMatcher> {
        let glob = Glob::new(pattern)
            .map_err(|e| Error::Pattern { pattern: pattern.clone(), reason: e.to_string() })?
            .compile_matcher();
        if sites.iter().any(|s| s.name == *pattern || s.matches(&glob)) {
            Ok(glob)
        } else {
            Err(Error::NoSite { pattern: pattern.clone(), known: names(sites) })
        }
    };
    let include_globs = include.iter().map(compile).collect::<Result<Vec<_>>>()?;
    let exclude_globs = exclude.iter().map(compile).collect::<Result<Vec<_>>>()?;
    let hit = |site: &Site, names: &[String], globs: &[globset::GlobMatcher]| {
        names.contains(&site.name) || globs.iter().any(|g| site.matches(g))
    };
    Ok(sites
        .iter()
        .filter(|s| include.is_empty() || hit(s, include, &include_globs))
        .filter(|s| !hit(s, exclude, &exclude_globs))
        .cloned()
        .collect())
}

/// The names of `sites`.
pub(crate) fn names(sites: &[Site]) -> Vec<String> {
    sites.iter().map(|s| s.name.clone()).collect()
}

fn display_name(graph: &Graph, node: &Node) -> String {
    if node.name.is_empty() {
        node.output(0).map(|v| graph.name_of(v).to_owned()).unwrap_or_default()
    } else {
        node.name.clone()
    }
}

fn classify(
    graph: &Graph,
    id: NodeId,
    node: &Node,
    kind: SiteKind,
    active: &HashSet<ValueId>,
) -> std::result::Result<Site, String> {
    let (Some(input), Some(weight), Some(output)) = (node.input(0), node.input(1), node.output(0)) else {
        return Err("it lacks an input or an output".to_owned());
    };
    match (active.contains(&input), active.contains(&weight)) {
        (true, true) => return Err("both operands are computed: it has no weights".to_owned()),
        (false, true) => return Err("its weights are the first operand, so its neurons lie on another axis".to_owned()),
        (false, false) => return Err("it does not depend on an input of the model".to_owned()),
        (true, false) => {}
    }
    match graph.value(weight).element_type {
        Some(ElementType::Float) => {}
        Some(other) => return Err(format!("its weights are {other}, only float32 is trained")),
        None => return Err("the type of its weights is unknown".to_owned()),
    }
    let weight_shape = graph
        .value(weight)
        .shape
        .as_ref()
        .and_then(|s| s.as_known())
        .ok_or_else(|| "the shape of its weights is unknown".to_owned())?;
    let bad_rank = || format!("weights of rank {} are not supported", weight_shape.len());
    let groups = usize::try_from(node.attributes.int("group", 1)).unwrap_or(1);
    let (channels, bias) = match kind {
        SiteKind::Conv | SiteKind::ConvTranspose => {
            if !(3..=5).contains(&weight_shape.len()) {
                return Err(bad_rank());
            }
            let channels =
                if kind == SiteKind::Conv { weight_shape[0] } else { weight_shape[1].saturating_mul(groups) };
            (channels, node.input(2).is_some())
        }
        SiteKind::Gemm => {
            if node.attributes.int("transA", 0) != 0 {
                return Err("its input is transposed (transA)".to_owned());
            }
            let transposed = node.attributes.int("transB", 0) != 0;
            match weight_shape.as_slice() {
                [a, b] => (if transposed { *a } else { *b }, node.input(2).is_some()),
                _ => return Err(bad_rank()),
            }
        }
        SiteKind::MatMul => match weight_shape.as_slice() {
            [_, b] => (*b, false),
            _ => return Err(bad_rank()),
        },
    };
    if channels == 0 || weight_shape.contains(&0) {
        return Err("its weights are empty".to_owned());
    }
    Ok(Site {
        name: String::new(),
        node_name: node.name.clone(),
        kind,
        node: id,
        input,
        weight,
        weight_shape,
        bias,
        output,
        channels,
        groups,
        transposed: kind == SiteKind::Gemm && node.attributes.int("transB", 0) != 0,
    })
}

/// Move the site's output past the bias and the batch normalisation that belong to it. Adding dendrites after them keeps
/// the patterns that runtimes fuse (MatMul + Add, Conv + BatchNormalization) intact, and so the last bits of the output.
fn absorb_followers(graph: &Graph, site: &mut Site, uses: &[Vec<(NodeId, usize)>], outputs: &HashSet<ValueId>) {
    for _ in 0..2 {
        if outputs.contains(&site.output) {
            return;
        }
        let [(next, position)] = uses[site.output.index()].as_slice() else { return };
        let node = graph.node(*next);
        let follows = if node.is("Add") && *position < 2 {
            node.input(1 - position).is_some_and(|other| is_channel_vector(graph, other, site))
        } else {
            site.kind.is_convolution() && node.is("BatchNormalization") && *position == 0
        };
        let (true, Some(output)) = (follows, node.output(0)) else { return };
        if graph.rank(output) != graph.rank(site.output) {
            return;
        }
        site.bias = true;
        site.output = output;
    }
}

/// Whether a constant has one element a neuron, on the neuron axis.
fn is_channel_vector(graph: &Graph, value: ValueId, site: &Site) -> bool {
    let (Some(tensor), Some(rank)) = (graph.constant(value), graph.rank(site.output)) else { return false };
    if tensor.len() != site.channels || tensor.shape().len() > rank {
        return false;
    }
    let axis = if site.channel_axis() < 0 { rank as i64 - 1 } else { site.channel_axis() };
    let offset = (rank - tensor.shape().len()) as i64;
    usize::try_from(axis - offset).is_ok_and(|i| tensor.shape().get(i) == Some(&site.channels))
}

/// A weight that several operations share would need one dendrite shared in the same way.
fn reject_tied(sites: &mut Vec<Site>, others: &mut Vec<NotASite>, graph: &Graph) {
    let count = |weight: ValueId| sites.iter().filter(|s| s.weight == weight).count();
    let tied: Vec<(NodeId, usize)> = sites.iter().map(|s| (s.node, count(s.weight))).filter(|(_, n)| *n > 1).collect();
    for (id, n) in tied {
        let node = graph.node(id);
        let reason = format!("its weights are shared by {n} operations");
        others.push(NotASite { node: id, name: display_name(graph, node), op: node.op.clone(), reason });
        sites.retain(|s| s.node != id);
    }
}

/// The number of positions a neuron has for one sample (the product of the non-batch, non-neuron dimensions), if known.
pub fn positions(graph: &Graph, site: &Site) -> Option<usize> {
    let shape = graph.value(site.output).shape.as_ref()?;
    let axis = if site.channel_axis() < 0 { shape.rank() - 1 } else { 1 };
    shape.0.iter().enumerate().filter(|(i, _)| *i != 0 && *i != axis).map(|(_, d)| Dim::known(d)).product()
}
