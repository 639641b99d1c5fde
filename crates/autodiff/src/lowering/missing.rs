//! Operators of the working opset for which the runtime has no kernel there: lowered they run and train all the same.

use dendrite_onnx::{Dim, Graph, Node, ValueId, proto::GraphProto};

use super::{TABLE, replace};
use crate::{error::Result, expr::V, rules::Ctx};

/// The standard operators of which ONNX Runtime 1.31.1 has kernels for earlier opsets alone.
const WITHOUT_KERNEL: [&str; 3] = ["GlobalLpPool", "MaxRoiPool", "RoiAlign"];

fn is_without_kernel(node: &Node) -> bool {
    WITHOUT_KERNEL.iter().any(|op| node.is(op))
}

/// Let a working copy run: replace the operators for which the runtime has no kernel at the working opset, those in sub-graphs
/// too. Types and ranks of what they read have to be recorded; the number of samples may change later.
pub fn lower_missing(graph: &mut Graph) -> Result<()> {
    for id in graph.node_ids() {
        let attributes = graph.node(id).attributes.as_slice().iter();
        let concerned = attributes.filter_map(|a| Some((a.name().to_owned(), a.g.clone().filter(holds_one)?)));
        for (name, proto) in concerned.collect::<Vec<_>>() {
            let mut body = Graph::from_body(&proto, graph)?;
            lower_missing(&mut body)?;
            graph.node_mut(id).attributes.set(&name, body.to_body()?);
        }
        if is_without_kernel(graph.node(id))
            && let Some((_, _, lowering)) =
                TABLE.iter().find(|(domain, op, _)| domain.is_empty() && graph.node(id).is(op))
        {
            let read: Vec<ValueId> = graph.node(id).inputs.iter().flatten().copied().collect();
            let known: Vec<_> =
                read.iter().map(|v| (*v, graph.value(*v).element_type, graph.value(*v).shape.clone())).collect();
            for (value, element_type, shape) in &known {
                let mut shape = shape.clone();
                shape.iter_mut().flat_map(|s| s.0.first_mut()).for_each(|samples| *samples = Dim::Unknown);
                graph.set_type(*value, *element_type, shape);
            }
            let before = graph.value_count();
            replace(graph, id, *lowering)?;
            // What the expression multiplies by or adds is no weight.
            let new = graph.values().filter(|(v, value)| v.index() >= before && value.constant.is_some());
            new.map(|(v, _)| v).collect::<Vec<_>>().into_iter().for_each(|v| graph.mark_made(v));
            known.into_iter().for_each(|(value, element_type, shape)| graph.set_type(value, element_type, shape));
        }
    }
    Ok(())
}

/// Whether a sub-graph or one of its own holds such an operator.
fn holds_one(graph: &GraphProto) -> bool {
    graph.node.iter().any(|node| {
        let here = matches!(node.domain(), "" | "ai.onnx") && WITHOUT_KERNEL.contains(&node.op_type());
        here || node.attribute.iter().filter_map(|a| a.g.as_ref()).any(holds_one)
    })
}

/// x * sigmoid(alpha * x)
pub(super) fn swish<'b>(c: &Ctx<'b>) -> Result<Vec<Option<V<'b>>>> {
    let x = c.x(0)?;
    Ok(vec![Some(x * (x * c.float("alpha", 1.0)).sigmoid())])
}

/// The p-norm over all spatial axes.
pub(super) fn global_lp_pool<'b>(c: &Ctx<'b>) -> Result<Vec<Option<V<'b>>>> {
    let x = c.x(0)?;
    let axes: Vec<usize> = (2..c.rank(x)?).collect();
    let y = match c.int("p", 2) {
        1 => x.reduce("ReduceL1", &axes, true),
        2 => x.reduce("ReduceL2", &axes, true),
        p => x.abs().pow(x.scalar(p as f64)).sum(&axes, true).pow(x.scalar(1.0 / p as f64)),
    };
    Ok(vec![Some(y)])
}
