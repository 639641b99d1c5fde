//! The error at a site's neurons, where no value of the graph stands for them.

use dendrite_onnx::{Attributes, Dim, ElementType, Graph, Shape, Tensor, ValueId};

use crate::sites::{Application, Site, SiteKind};

/// The value whose derivative of the loss is the error at an application's neurons, channels on the axis that
/// [`Site::channel_axis`] says: its output, or, since a recurrent operator sums its gates within, a further input to every
/// gate that is added to `graph`, zero and of no consequence. `None` where the sizes of what the operator reads are not known.
pub fn neurons(graph: &mut Graph, site: &Site, application: &Application) -> Option<ValueId> {
    let SiteKind::Recurrent { directions } = site.kind else { return Some(application.output) };
    let (channels, gates) = (site.channels, site.channels / directions.max(1));
    let reads = [graph.node(application.node).input(0)?, graph.node(application.node).input(1)?];
    let mut sizes = known(graph, application.input)?;
    *sizes.last_mut()? = channels;
    let probe = graph.add_constant("probe", Tensor::filled(ElementType::Float, &sizes, 0.0));
    // Gate g of direction d reads element d * gates + g of the probe, and no other.
    let mut picks = vec![0.0f32; directions * gates * channels];
    (0..channels).for_each(|row| picks[row * channels + row] = 1.0);
    let picks = graph.add_constant("probe_weight", Tensor::from_f32(&[directions, gates, channels], &picks));
    for (position, (read, more)) in reads.into_iter().zip([probe, picks]).enumerate() {
        let mut shape = Shape::known(&known(graph, read)?);
        if let Some(last) = shape.0.last_mut() {
            *last = Dim::Known(last.known()? + channels);
        }
        let extended = graph.op("Concat", "probed", &[read, more], Attributes::new().with("axis", 2));
        graph.set_type(extended, Some(ElementType::Float), Some(shape));
        graph.set_input(application.node, position, Some(extended));
    }
    Some(probe)
}

fn known(graph: &Graph, value: ValueId) -> Option<Vec<usize>> {
    graph.value(value).shape.as_ref()?.as_known()
}
