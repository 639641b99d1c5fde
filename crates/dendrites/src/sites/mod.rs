//! Where dendrites can grow, and why they cannot elsewhere.

mod classify;
mod tied;

use std::collections::HashSet;

use dendrite_onnx::{Graph, NodeId, ValueId, batch::reachable};
use globset::Glob;

use self::classify::{absorb_followers, linear, recurrent};
use crate::{
    error::{Error, Result},
    set::Connection,
};

/// The operators that take dendrites.
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
    /// `LSTM`, `GRU` or `RNN`: the product of its input with its weights W, for all gates of all directions.
    Recurrent {
        /// Directions.
        directions: usize,
    },
}

impl SiteKind {
    /// The operator by which a dendrite of such a site reads the site's input.
    pub fn op(self) -> &'static str {
        match self {
            SiteKind::Conv => "Conv",
            SiteKind::ConvTranspose => "ConvTranspose",
            SiteKind::Gemm => "Gemm",
            SiteKind::MatMul | SiteKind::Recurrent { .. } => "MatMul",
        }
    }

    /// The role by which that operator is named.
    pub(crate) fn role(self) -> &'static str {
        match self {
            SiteKind::Conv | SiteKind::ConvTranspose => "conv",
            SiteKind::Gemm => "gemm",
            SiteKind::MatMul | SiteKind::Recurrent { .. } => "matmul",
        }
    }

    /// The linear operator of the standard domain, other than a recurrent one, that is a site of a kind.
    pub(crate) fn of_linear(op: &str) -> Option<Self> {
        let all = [SiteKind::Conv, SiteKind::ConvTranspose, SiteKind::Gemm, SiteKind::MatMul];
        all.into_iter().find(|kind| kind.op() == op)
    }

    /// Whether its dendrites join what the operation reads, so that the sum is made within it.
    pub fn is_recurrent(self) -> bool {
        matches!(self, SiteKind::Recurrent { .. })
    }

    /// Why such a site takes no dendrites by a connection, as a clause; `None` where it does.
    pub fn refuses(self, connection: Connection) -> Option<&'static str> {
        (self.is_recurrent() && connection == Connection::Neuron)
            .then_some("its gates are summed within the operator: it takes layer dendrites (--connect layer)")
    }

    /// Whether neurons are channels, with positions behind them.
    pub fn is_convolution(self) -> bool {
        matches!(self, SiteKind::Conv | SiteKind::ConvTranspose)
    }
}

/// A linear operation with weights and a neuron axis, its bias and normalisation counted in. Where several operations of a
/// graph share one weight, they are one site that is applied several times, and its dendrites are too.
#[derive(Debug, Clone)]
pub struct Site {
    /// The name of the output value of the first application: the site's identity, stable between the user's file and every
    /// working copy.
    pub name: String,
    /// The operator.
    pub kind: SiteKind,
    /// The operations, in topological order: one, or all that share the weight.
    pub applications: Vec<Application>,
    /// The shape of the weight operand; of a recurrent operator's, that of the matrix from its inputs to all gates.
    pub weight_shape: Vec<usize>,
    /// Whether the site adds a bias, of its own or by the node that follows, in any application.
    pub bias: bool,
    /// Neurons (output channels).
    pub channels: usize,
    /// `group` of a convolution, else 1.
    pub groups: usize,
    /// Whether a `Gemm` reads its weights transposed, neurons first.
    pub transposed: bool,
    /// The index of the first set that is added: more than 0 where sets of an earlier growth bear the names of this site.
    pub first_index: usize,
}

/// One operation of a site.
#[derive(Debug, Clone)]
pub struct Application {
    /// The name of the output value.
    pub name: String,
    /// The name of the operation's node; may be empty.
    pub node_name: String,
    /// The node of the linear operation.
    pub node: NodeId,
    /// What the operation reads, and a dendrite too. What earlier dendrites of a recurrent operator add to it is not part of it.
    pub input: ValueId,
    /// The weight operand, as the operation sees it but for earlier dendrites.
    pub weight: ValueId,
    /// The output to which dendrites are added: after the bias and a batch normalisation, where these follow.
    pub output: ValueId,
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
            SiteKind::Gemm | SiteKind::MatMul | SiteKind::Recurrent { .. } => self.weight_shape.len() - 1,
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

    /// Whether `glob` names the site by an output or a node.
    fn matches(&self, glob: &globset::GlobMatcher) -> bool {
        let hits = |a: &Application| glob.is_match(&a.name) || (!a.node_name.is_empty() && glob.is_match(&a.node_name));
        self.applications.iter().any(hits)
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

impl NotASite {
    fn new(graph: &Graph, id: NodeId, reason: String) -> Self {
        let node = graph.node(id);
        let name = if node.name.is_empty() {
            node.output(0).map(|v| graph.name_of(v).to_owned()).unwrap_or_default()
        } else {
            node.name.clone()
        };
        NotASite { node: id, name, op: node.op.clone(), reason }
    }
}

/// Every site of a graph in topological order of its first application, and every other linear or recurrent node with the
/// reason why it is none. Element types and shapes must be recorded on the values.
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
        let site = match (SiteKind::of_linear(&node.op), node.op.as_str()) {
            (Some(kind), _) => linear(graph, id, kind, &active),
            (_, "LSTM" | "GRU" | "RNN") => recurrent(graph, id, &active),
            (_, "Einsum") => Err("Einsum does not say which axis holds the neurons".to_owned()),
            (_, "ConvInteger" | "MatMulInteger" | "QLinearConv" | "QLinearMatMul") => {
                Err("quantised operators have no gradient".to_owned())
            }
            _ => continue,
        };
        match site {
            Ok(mut site) => {
                if !site.kind.is_recurrent() {
                    absorb_followers(graph, &mut site, &uses, &outputs);
                }
                sites.push(site);
            }
            Err(reason) => others.push(NotASite::new(graph, id, reason)),
        }
    }
    Ok((tied::joined(graph, sites, &mut others), others))
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
