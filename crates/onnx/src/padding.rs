//! Padding written as a node of its own, as PyTorch models do that pad to TensorFlow's sizes.

use crate::graph::{Graph, Node, NodeId, ValueId};

/// Let every Conv pad for itself where a Pad of zeros along its spatial axes comes before it: the same numbers, without a
/// copy of the image and, in a training graph, of its gradient. A Pad that nothing reads any more is removed. Pads that the
/// graph computes stay.
pub fn absorb_padding(graph: &mut Graph) {
    for id in graph.node_ids() {
        let Some((from, pads)) = absorbed(graph, id) else { continue };
        graph.node_mut(id).attributes.set("pads", pads);
        graph.set_input(id, 0, Some(from));
    }
    graph.prune();
}

/// What a Conv reads before the padding, and its pads with it.
fn absorbed(graph: &Graph, id: NodeId) -> Option<(ValueId, Vec<i64>)> {
    let conv = graph.node(id);
    if !conv.is("Conv") {
        return None;
    }
    let pad = graph.node(graph.value(conv.input(0)?).producer()?);
    if !pad.is("Pad") || pad.attributes.str("mode", "constant") != "constant" || !pads_with_zero(graph, pad) {
        return None;
    }
    let from = pad.input(0)?;
    let rank = graph.rank(from)?;
    let before = spatial_pads(graph, pad, rank)?;
    let own = match conv.attributes.str("auto_pad", "NOTSET") {
        "NOTSET" => conv.attributes.ints("pads").map_or_else(|| vec![0; before.len()], <[i64]>::to_vec),
        _ => return None,
    };
    (own.len() == before.len()).then(|| (from, before.iter().zip(own).map(|(a, b)| a + b).collect()))
}

fn pads_with_zero(graph: &Graph, pad: &Node) -> bool {
    let Some(value) = pad.input(2) else { return true };
    let number = graph.constant(value).and_then(crate::Tensor::to_f64);
    number.is_some_and(|n| n.first().is_some_and(|n| *n == 0.0))
}

/// The pads of the spatial axes, all beginnings before all ends, if they are known and there are no others.
fn spatial_pads(graph: &Graph, pad: &Node, rank: usize) -> Option<Vec<i64>> {
    let ints = |v: ValueId| graph.constant(v)?.to_i64();
    let pads = ints(pad.input(1)?)?;
    let axes = match pad.input(3) {
        Some(axes) => ints(axes)?,
        None => (0..rank as i64).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return None;
    }
    let mut all = vec![0; 2 * rank];
    for (i, axis) in axes.iter().enumerate() {
        let axis = usize::try_from(if *axis < 0 { axis + rank as i64 } else { *axis }).ok().filter(|a| *a < rank)?;
        (all[axis], all[axis + rank]) = (pads[i], pads[axes.len() + i]);
    }
    let (begin, end) = all.split_at(rank);
    let others = begin.iter().take(2).chain(end.iter().take(2)).any(|p| *p != 0);
    if others || all.iter().any(|p| *p < 0) {
        return None;
    }
    Some(begin.iter().chain(end).copied().enumerate().filter(|(i, _)| i % rank >= 2).map(|(_, p)| p).collect())
}

#[cfg(test)]
mod tests {
    use super::absorb_padding;
    use crate::{Attributes, ElementType, Graph, Tensor, shape::Shape};

    fn padded_conv(pads: &[i64], value: f32, mode: &str) -> Graph {
        let mut graph = Graph::new("padded", 21);
        let x = graph.add_input("x", ElementType::Float, Shape::known(&[1, 2, 5, 5]));
        let pads = graph.add_constant("pads", Tensor::int64s(pads));
        let value = graph.add_constant("value", Tensor::scalar(ElementType::Float, f64::from(value)));
        let w = graph.add_constant("w", Tensor::filled(ElementType::Float, &[2, 2, 3, 3], 1.0));
        let padded = graph.op("Pad", "padded", &[x, pads, value], Attributes::new().with("mode", mode));
        let attributes = Attributes::new().with("pads", vec![0i64, 1, 1, 0]);
        let y = graph.op("Conv", "y", &[padded, w], attributes);
        graph.outputs = vec![y];
        graph
    }

    fn pads_of_conv(mut graph: Graph) -> (usize, Vec<i64>) {
        absorb_padding(&mut graph);
        let conv =
            graph.nodes().find(|(_, n)| n.is("Conv")).map(|(_, n)| n.attributes.ints("pads").unwrap_or(&[]).to_vec());
        (graph.nodes().count(), conv.unwrap_or_default())
    }

    #[test]
    fn zeros_along_spatial_axes_are_absorbed() {
        assert_eq!(pads_of_conv(padded_conv(&[0, 0, 1, 2, 0, 0, 3, 4], 0.0, "constant")), (1, vec![1, 3, 4, 4]));
    }

    #[test]
    fn everything_else_stays() {
        let own = vec![0, 1, 1, 0];
        for (pads, value, mode) in [
            ([0, 0, 1, 2, 0, 0, 3, 4], 1.0, "constant"),
            ([0, 0, 1, 2, 0, 0, 3, 4], 0.0, "edge"),
            ([0, 1, 1, 2, 0, 0, 3, 4], 0.0, "constant"),
            ([0, 0, -1, 2, 0, 0, 3, 4], 0.0, "constant"),
        ] {
            assert_eq!(pads_of_conv(padded_conv(&pads, value, mode)), (2, own.clone()));
        }
    }
}
