//! Puts fragments into a working copy and into a patch of the user's file.

use std::collections::HashSet;

use dendrite_onnx::{Graph, Model, Node, Patch, proto::NodeProto};

use crate::{
    error::{Error, Result},
    fragment::{Fragment, FragmentNode, Joint, Part, Reading, fragment},
    set::{DendriteSet, Weights},
    sites::{Application, Site},
};

/// Insert all sets into a working copy. The sites stay valid: their node and output keep their ids.
pub fn insert_into_graph(
    graph: &mut Graph,
    sites: &[Site],
    sets: &[DendriteSet],
    weights: &Weights,
    reading: Reading,
) -> Result<()> {
    for site in sites {
        if let Some(fragment) = fragment(graph, site, sets, weights, reading)? {
            check_names(site, &fragment, |name| graph.find(name).is_some())?;
            for (name, tensor) in &fragment.constants {
                graph.add_constant(name, tensor.clone());
            }
            for (application, part) in site.applications.iter().zip(&fragment.parts) {
                add_to_graph(graph, application, part);
            }
        }
    }
    Ok(())
}

/// A model that names a value like a dendrite's would be wired to it: that is an error.
fn check_names(site: &Site, fragment: &Fragment, taken: impl Fn(&str) -> bool) -> Result<()> {
    let constants = fragment.constants.iter().map(|(name, _)| name);
    match constants.chain(fragment.parts.iter().flat_map(Part::values)).find(|name| taken(name)) {
        None => Ok(()),
        Some(name) => {
            Err(Error::Set { site: site.name.clone(), reason: format!("the model already has a value '{name}'") })
        }
    }
}

fn add_to_graph(graph: &mut Graph, application: &Application, part: &Part) {
    if let Joint::Sum { main } = &part.joint {
        let (element_type, shape) = {
            let value = graph.value(application.output);
            (value.element_type, value.shape.clone())
        };
        let main = graph.add_value(main);
        graph.set_type(main, element_type, shape);
        if let Some(last) = graph.value(application.output).producer() {
            graph.set_output(last, 0, main);
        }
    }
    for node in &part.nodes {
        let inputs = node.inputs.iter().map(|name| graph.find(name)).collect();
        let output = graph.find(&node.output).unwrap_or_else(|| graph.add_value(&node.output));
        graph.push(Node {
            name: node.name.clone(),
            domain: String::new(),
            op: node.op.to_owned(),
            inputs,
            outputs: vec![Some(output)],
            attributes: node.attributes.clone(),
        });
    }
    if let Joint::Features { input, weight } = &part.joint {
        for (position, name) in [input, weight].into_iter().enumerate() {
            graph.set_input(application.node, position, graph.find(name));
        }
    }
}

/// Insert all sets into a patch of the user's file. `graph` is the working copy in which the sites were found.
pub fn insert_into_patch(
    patch: &mut Patch,
    model: &Model,
    graph: &Graph,
    sites: &[Site],
    sets: &[DendriteSet],
    weights: &Weights,
) -> Result<()> {
    let file = model.graph();
    let nodes = file.node.as_slice();
    let names: HashSet<&str> = nodes
        .iter()
        .flat_map(|n| n.output.iter().map(String::as_str))
        .chain(file.initializer.iter().map(|t| t.name()))
        .chain(file.input.iter().map(|i| i.name()))
        .collect();
    for site in sites {
        let Some(fragment) = fragment(graph, site, sets, weights, Reading::Direct)? else { continue };
        check_names(site, &fragment, |name| names.contains(name))?;
        for part in fragment.parts {
            let place = nodes.iter().enumerate().find_map(|(index, node)| {
                node.output.iter().position(|o| *o == part.output).map(|output| (index, output))
            });
            let Some((index, output)) = place else {
                let reason = format!("the file has no node with the output '{}'", part.output);
                return Err(Error::Set { site: site.name.clone(), reason });
            };
            let added = part.nodes.into_iter().map(written).collect();
            match part.joint {
                Joint::Sum { main } => {
                    patch.rename_node_output(index, output, &main);
                    patch.insert_nodes_after(index, added);
                }
                Joint::Features { input, weight } => {
                    patch.redirect_node_input(index, 0, &input).redirect_node_input(index, 1, &weight);
                    patch.insert_nodes_before(index, added);
                }
            }
        }
        for (name, tensor) in fragment.constants {
            patch.add_initializer(&name, tensor);
        }
    }
    Ok(())
}

fn written(node: FragmentNode) -> NodeProto {
    NodeProto {
        name: Some(node.name),
        op_type: Some(node.op.to_owned()),
        input: node.inputs,
        output: vec![node.output],
        attribute: node.attributes.as_slice().to_vec(),
        ..Default::default()
    }
}
