//! Operations that share one weight: one site that is applied several times.

use dendrite_onnx::{Attributes, Graph, Tensor, ValueId};

use crate::{
    sites::{NotASite, Site},
    trainable::moves_elements,
};

/// How an operation comes by its weights: the value that holds them, and what moves their elements on the way.
struct View<'g> {
    source: ValueId,
    moves: Vec<Move<'g>>,
}

/// An operator that moves elements.
#[derive(PartialEq)]
struct Move<'g> {
    op: &'g str,
    attributes: &'g Attributes,
    /// Its further inputs: sizes and axes.
    operands: Vec<Operand<'g>>,
}

#[derive(PartialEq)]
enum Operand<'g> {
    Constant(&'g Tensor),
    Computed(ValueId),
    Absent,
}

impl<'g> View<'g> {
    fn of(graph: &'g Graph, value: ValueId) -> Self {
        let mut view = View { source: value, moves: Vec::new() };
        while let Some(node) = graph.value(view.source).producer().map(|id| graph.node(id)) {
            let (true, Some(moved)) = (moves_elements(node), node.input(0)) else { break };
            let operand = |value: &Option<ValueId>| match value {
                Some(value) => graph.constant(*value).map_or(Operand::Computed(*value), Operand::Constant),
                None => Operand::Absent,
            };
            // What an Identity is called makes no other view.
            if !node.is("Identity") {
                let operands = node.inputs.iter().skip(1).map(operand).collect();
                view.moves.push(Move { op: &node.op, attributes: &node.attributes, operands });
            }
            view.source = moved;
        }
        view
    }
}

/// Sites of one application each, those that share their weights put together. Where one dendrite cannot serve all operations
/// that do, none of them is a site.
pub(super) fn joined(graph: &Graph, sites: Vec<Site>, others: &mut Vec<NotASite>) -> Vec<Site> {
    let mut groups: Vec<(View, Vec<Site>)> = Vec::new();
    for site in sites {
        let Some(view) = site.applications.first().map(|a| View::of(graph, a.weight)) else { continue };
        match groups.iter_mut().find(|(known, _)| known.source == view.source) {
            Some((_, group)) => group.push(site),
            None => groups.push((view, vec![site])),
        }
    }
    let mut joined = Vec::new();
    for (view, group) in groups {
        let several = group.len();
        match misfit(graph, &view, &group) {
            None => joined.extend(group.into_iter().reduce(|mut first, more| {
                first.bias |= more.bias;
                first.first_index = first.first_index.max(more.first_index);
                first.applications.extend(more.applications);
                first
            })),
            Some(misfit) => others.extend(group.iter().flat_map(|site| &site.applications).map(|a| {
                NotASite::new(graph, a.node, format!("its weights are shared by {several} operations {misfit}"))
            })),
        }
    }
    joined
}

/// What keeps operations that share their weights from sharing dendrites, as the end of a clause.
fn misfit(graph: &Graph, view: &View, group: &[Site]) -> Option<&'static str> {
    let first = group.first()?;
    let differs = |other: &Site| {
        let application = other.applications.first()?;
        let op = |site: &Site| site.applications.first().map(|a| graph.node(a.node).op.as_str());
        if first.kind != other.kind || op(first) != op(other) {
            return Some("of different kinds");
        }
        let moves = View::of(graph, application.weight).moves;
        let same = moves == view.moves && first.transposed == other.transposed && first.groups == other.groups;
        (!same).then_some("that read them in different forms")
    };
    group.iter().skip(1).find_map(differs)
}
