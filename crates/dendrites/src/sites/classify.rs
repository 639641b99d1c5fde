//! Whether a node is a site, and how far the site reaches.

use std::collections::HashSet;

use dendrite_onnx::{ElementType, Graph, NodeId, ValueId};

use crate::{
    fragment::{EXTENDED_INPUT, EXTENDED_WEIGHT},
    sites::{Application, Site, SiteKind},
};

/// What a node reads and computes as a site, and the shape of its weights; else the reason why it is none.
fn operands(
    graph: &Graph,
    id: NodeId,
    active: &HashSet<ValueId>,
) -> std::result::Result<(Application, Vec<usize>), String> {
    if let Some(function) = graph.function_of(id).filter(|_| graph.is_foreign(id)) {
        return Err(format!(
            "it stands in the function '{function}', and functions of the model have another opset than the model itself; \
             inline functions first to grow it \
             (onnx.inliner.inline_local_functions)"
        ));
    }
    let node = graph.node(id);
    let output = node.outputs.iter().flatten().next().copied();
    let (Some(input), Some(weight), Some(output)) = (node.input(0), node.input(1), output) else {
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
    let shape = graph.value(weight).shape.as_ref().and_then(|s| s.as_known());
    let shape = shape.ok_or_else(|| "the shape of its weights is unknown".to_owned())?;
    if shape.contains(&0) {
        return Err("its weights are empty".to_owned());
    }
    let (name, node_name) = (graph.name_of(output).to_owned(), node.name.clone());
    Ok((Application { name, node_name, node: id, input, weight, output }, shape))
}

/// The site that a linear node is, of one application, without what follows it; else the reason why it is none.
pub(super) fn linear(
    graph: &Graph,
    id: NodeId,
    kind: SiteKind,
    active: &HashSet<ValueId>,
) -> std::result::Result<Site, String> {
    let node = graph.node(id);
    let (application, weight_shape) = operands(graph, id, active)?;
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
        SiteKind::MatMul | SiteKind::Recurrent { .. } => match weight_shape.as_slice() {
            [_, b] => (*b, false),
            _ => return Err(bad_rank()),
        },
    };
    if channels == 0 {
        return Err("its weights are empty".to_owned());
    }
    Ok(Site {
        name: application.name.clone(),
        kind,
        applications: vec![application],
        weight_shape,
        bias,
        channels,
        groups,
        transposed: kind == SiteKind::Gemm && node.attributes.int("transB", 0) != 0,
        first_index: 0,
    })
}

/// The site that a recurrent node is; else the reason why it is none.
pub(super) fn recurrent(graph: &Graph, id: NodeId, active: &HashSet<ValueId>) -> std::result::Result<Site, String> {
    let (mut application, shape) = operands(graph, id, active)?;
    let [directions, gates, _] = shape[..] else {
        return Err(format!("weights of rank {} are not supported", shape.len()));
    };
    // Dendrites of an earlier growth are among what the operator reads; new ones read what those do.
    let mut last = usize::MAX;
    while let (Some((index, input)), Some((same, weight))) = (
        extended(graph, application.input, &application.name, EXTENDED_INPUT),
        extended(graph, application.weight, &application.name, EXTENDED_WEIGHT),
    ) {
        if index != same || index >= last {
            break;
        }
        (application.input, application.weight, last) = (input, weight, index);
    }
    let inputs = graph.value(application.weight).shape.as_ref().and_then(|shape| shape.dim(2)?.known());
    let inputs = inputs.ok_or_else(|| "the shape of its weights is unknown".to_owned())?;
    let channels = directions * gates;
    Ok(Site {
        name: application.name.clone(),
        kind: SiteKind::Recurrent { directions },
        bias: graph.node(id).input(3).is_some(),
        first_index: first_free(graph, &application.name),
        applications: vec![application],
        weight_shape: vec![inputs, channels],
        channels,
        groups: 1,
        transposed: false,
    })
}

/// The index of the dendrites with which a value was extended for the recurrent operator of `output`, and what it was before.
fn extended(graph: &Graph, value: ValueId, output: &str, role: &str) -> Option<(usize, ValueId)> {
    let path = graph.name_of(value).strip_prefix(output)?.strip_prefix("/dendrite_")?;
    let (index, named) = path.split_once('/')?;
    let node = graph.node(graph.value(value).producer()?);
    let joins = named == role && node.is("Concat") && node.inputs.len() == 2;
    Some((index.parse().ok().filter(|_| joins)?, node.input(0)?))
}

/// The first index of a dendrite set whose names, and those of all later ones, the graph does not have yet. Dendrites of a
/// recurrent operator leave its output the name that it has, and so the next ones bear the same.
fn first_free(graph: &Graph, output: &str) -> usize {
    let prefix = format!("{output}/dendrite_");
    let taken =
        graph.values().filter_map(|(_, value)| value.name.strip_prefix(&prefix)?.split('/').next()?.parse().ok());
    taken.max().map_or(0, |index: usize| index.saturating_add(1))
}

/// Move the site's output past the bias and the batch normalisation that belong to it. Adding dendrites after them keeps
/// the patterns that runtimes fuse (MatMul + Add, Conv + BatchNormalization) intact, and so the last bits of the output.
pub(super) fn absorb_followers(
    graph: &Graph,
    site: &mut Site,
    uses: &[Vec<(NodeId, usize)>],
    outputs: &HashSet<ValueId>,
) {
    let Some(mut output) = site.applications.first().map(|a| a.output) else { return };
    for _ in 0..2 {
        if outputs.contains(&output) {
            break;
        }
        let [(next, position)] = uses[output.index()].as_slice() else { break };
        let node = graph.node(*next);
        let follows = if node.is("Add") && *position < 2 {
            node.input(1 - position).is_some_and(|other| is_channel_vector(graph, other, site, output))
        } else {
            site.kind.is_convolution() && node.is("BatchNormalization") && *position == 0
        };
        let (true, Some(behind)) = (follows, node.output(0)) else { break };
        if graph.rank(behind) != graph.rank(output) {
            break;
        }
        site.bias = true;
        output = behind;
    }
    site.name = graph.name_of(output).to_owned();
    for application in &mut site.applications {
        (application.output, application.name) = (output, site.name.clone());
    }
}

/// Whether a constant has one element a neuron, on the neuron axis of `output`.
fn is_channel_vector(graph: &Graph, value: ValueId, site: &Site, output: ValueId) -> bool {
    let (Some(tensor), Some(rank)) = (graph.constant(value), graph.rank(output)) else { return false };
    if tensor.len() != site.channels || tensor.shape().len() > rank {
        return false;
    }
    let axis = if site.channel_axis() < 0 { rank as i64 - 1 } else { site.channel_axis() };
    let offset = (rank - tensor.shape().len()) as i64;
    usize::try_from(axis - offset).is_ok_and(|i| tensor.shape().get(i) == Some(&site.channels))
}
