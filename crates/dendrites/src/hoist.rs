//! Weights that sub-graphs hold, brought out into the main graph of the working copy.
//!
//! Exporters put the weights of a recurrence into the body that reads them. There nothing could be trained: the main graph
//! would not know them. Brought out they are constants like those that a body captures, with the same rules for what is a weight,
//! and the graph remembers where the file has them.

use dendrite_autodiff::CONTROL_FLOW;
use dendrite_onnx::{
    ElementType, Graph, Node, Result,
    bodies::{Place, Step, steps},
};

use crate::operands;

/// Bring the weights that the bodies of `graph` hold, and those in bodies of bodies, out into it. What is handed to a
/// model-local function is brought out as well: which operand it is shows when the call is replaced.
pub fn hoist(graph: &mut Graph) -> Result<()> {
    let mut places = Vec::new();
    for (_, node) in graph.nodes() {
        search(graph, graph, node, &[], &mut places);
    }
    // A weight of two readers is one.
    places.sort();
    places.dedup();
    places.iter().try_for_each(|place| graph.hoist(place).map(drop))
}

/// The weights in the bodies of `node` of `outer`, to which `way` leads from `graph`.
fn search(graph: &Graph, outer: &Graph, node: &Node, way: &[Step], places: &mut Vec<Place>) {
    if !CONTROL_FLOW.iter().any(|op| node.is(op)) {
        return;
    }
    for (step, proto) in steps(outer, node) {
        let Ok(body) = Graph::from_body(proto, outer) else { continue };
        let way: Vec<Step> = way.iter().cloned().chain([step]).collect();
        for (reader, position, value) in operands::read(&body) {
            let Some(tensor) = body.constant(value) else { continue };
            let called = graph.functions.iter().any(|f| f.domain() == reader.domain && f.name() == reader.op);
            let trains = called || operands::is_weight(&reader, position, tensor);
            if trains && tensor.element_type() == ElementType::Float {
                places.push(Place::new(&way, body.name_of(value)));
            }
        }
        for (_, inner) in body.nodes() {
            search(graph, &body, inner, &way, places);
        }
    }
}
