//! A body with its gradient.

use std::collections::HashSet;

use dendrite_onnx::{Attributes, ElementType, Graph, Shape, ValueId, proto::GraphProto};

use crate::{
    engine::pull_back,
    error::{Error, Result},
    expr::{Builder, Size},
    rules::Ctx,
};

/// A copy of a body that is to compute gradients.
pub(super) struct Body {
    pub(super) graph: Graph,
    /// What begins the names of new values: unlike all outside, since a name of a body may not hide one around it.
    prefix: String,
}

impl Body {
    /// A copy of `proto`, a body of the node of `ctx`.
    pub(super) fn copy(ctx: &Ctx<'_>, proto: &GraphProto) -> Result<Self> {
        let first = ctx.node.outputs.iter().flatten().next();
        let name = first.map(|v| ctx.b.graph().name_of(*v).to_owned()).unwrap_or_default();
        let graph = Graph::from_body(proto, &ctx.b.graph())?;
        Ok(Body { graph, prefix: format!("inside/{name}") })
    }

    /// A name for a new value.
    pub(super) fn named(&self, role: &str) -> String {
        format!("{}/{role}", self.prefix)
    }

    /// A new input.
    pub(super) fn input(&mut self, role: &str, element_type: ElementType, shape: Option<Shape>) -> ValueId {
        let name = self.named(role);
        let id = self.graph.add_input(&name, element_type, Shape::default());
        self.graph.set_type(id, Some(element_type), shape);
        id
    }

    /// The floats that the body captures and of which `wanted` says yes: names outside and values here.
    pub(super) fn captured(&self, ctx: &Ctx<'_>, wanted: &dyn Fn(ValueId) -> bool) -> Vec<(ValueId, ValueId)> {
        let outer = ctx.b.graph();
        let float = |id: ValueId| outer.value(id).element_type.is_some_and(|t| t.is_float());
        let pairs = self.graph.captures().into_iter().filter_map(|inner| {
            let outside = outer.find(self.graph.name_of(inner))?;
            Some((outside, inner))
        });
        pairs.filter(|(outside, _)| wanted(*outside) && float(*outside)).collect()
    }

    /// Let the outputs be the derivatives of sum(seed * value) over `seeds` with respect to `wrt`, zeros included, each as a
    /// value of its own; the sum with the value of `plus` where there is one.
    pub(super) fn gradients(
        &mut self,
        ctx: &Ctx<'_>,
        seeds: &[(ValueId, ValueId)],
        wrt: &[(ValueId, Option<ValueId>)],
    ) -> Result<()> {
        let values: Vec<ValueId> = wrt.iter().map(|(v, _)| *v).collect();
        let found =
            pull_back(&mut self.graph, seeds, &values, &HashSet::new(), &self.prefix).map_err(|e| inside(ctx, e))?;
        let name = self.prefix.clone();
        self.graph.outputs = Builder::scope(&mut self.graph, &name, |b| {
            let mut outputs = Vec::new();
            for ((value, plus), gradient) in wrt.iter().zip(found) {
                let value = b.value(*value);
                let total = match (gradient.map(|g| b.value(g)), plus.map(|p| b.value(p))) {
                    (Some(gradient), Some(plus)) => gradient + plus,
                    (Some(one), None) | (None, Some(one)) => one,
                    (None, None) => {
                        let sizes = Size::all(value).ok_or_else(|| {
                            let inner = b.graph().name_of(value.id()).to_owned();
                            ctx.stop(
                                format!("the rank of '{inner}' in its body is not known"),
                                "run shape inference on the graph before differentiating it",
                            )
                        })?;
                        b.filled(value.element_type(), &sizes, 0.0)
                    }
                };
                // An output may be no input, no constant, and no value twice.
                let output =
                    b.graph_mut().op("Identity", &format!("{name}/gradient"), &[total.id()], Attributes::new());
                outputs.push(b.value(output).typed(value.element_type(), value.shape()).id());
            }
            Ok::<_, Error>(outputs)
        })?;
        self.graph.prune();
        Ok(())
    }
}

/// An error of a body, with the node it belongs to.
fn inside(ctx: &Ctx<'_>, error: Error) -> Error {
    let place = |node: String| format!("{} in {}", node, ctx.name());
    match error {
        Error::Stop { node, op, reason, remedy } => Error::Stop { node: place(node), op, reason, remedy },
        Error::NotImplemented { node, op, version } => Error::NotImplemented { node: place(node), op, version },
        other => other,
    }
}
