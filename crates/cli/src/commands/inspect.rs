//! `dendrite inspect`: what is in a model.

use std::{collections::BTreeMap, path::PathBuf};

use dendrite_onnx::{
    Dim, ElementType, Graph, Model, NodeId, ValueId,
    ops::cost::{model_macs, model_parameters},
};
use dendrite_runtime::infer_shapes;
use dendrite_trainer::Network;
use dendrites::Connection;
use serde::Serialize;

use crate::{
    failure::{Failure, Outcome},
    growth::count,
    layers::{self, Format, HEADER, Layer, NUMBERS, Port, operator},
    output::{Output, bytes, grouped},
};

/// Show opset, inputs and outputs, parameters, work and memory of a model
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model
    model: PathBuf,
    /// List every node with the shape of its output and its share of parameters and work
    #[arg(long)]
    layers: bool,
    /// How --layers is written; all but text print the table alone
    #[arg(long, value_name = "FORMAT", default_value = "text", requires = "layers", conflicts_with = "json")]
    format: Format,
    /// List where dendrites can grow, and every other linear or recurrent node with the reason why not
    #[arg(long)]
    sites: bool,
    /// Give a symbolic dimension a size, for the cost of models that depend on one
    #[arg(long = "dim", value_name = "NAME=SIZE", value_parser = dimension)]
    dimensions: Vec<(String, usize)>,
}

fn dimension(text: &str) -> Result<(String, usize), String> {
    let (name, size) = text.split_once('=').ok_or_else(|| format!("'{text}' is not of the form NAME=SIZE"))?;
    Ok((name.to_owned(), count(size)?))
}

/// What is said of a model. Costs are for one sample.
#[derive(Serialize)]
struct Facts {
    model: PathBuf,
    bytes: usize,
    ir_version: i64,
    opset: BTreeMap<String, i64>,
    producer: String,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    nodes: usize,
    parameters: usize,
    macs: Option<u64>,
    weight_bytes: u64,
    /// The largest sum of values alive at once, weights aside.
    activation_bytes: Option<u64>,
    operators: BTreeMap<String, usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<Layer>>,
    #[serde(flatten)]
    growth: Option<GrowthFacts>,
}

/// Where dendrites can grow and where not.
#[derive(Serialize)]
struct GrowthFacts {
    sites: Vec<SiteFacts>,
    not_sites: Vec<NotASiteFacts>,
}

/// A place for dendrites.
#[derive(Serialize)]
struct SiteFacts {
    name: String,
    node: String,
    operator: String,
    /// How many operations share the weights, and the dendrites.
    applications: usize,
    /// Whether dendrites can be connected by neuron; by layer they always can.
    neuron_connection: bool,
    neurons: usize,
    /// Weights a neuron reads.
    fan_in: usize,
}

/// A linear or recurrent node that takes none.
#[derive(Serialize)]
struct NotASiteFacts {
    node: String,
    operator: String,
    reason: String,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    inspect(args, out).map_err(|failure| failure.of(&args.model))
}

fn inspect(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    let model = Model::open(&args.model)?;
    model.support()?;
    let mut graph = Graph::from_model(&model)?;
    resize(&mut graph, &args.dimensions)?;
    if let Err(e) = infer_shapes(&mut graph) {
        out.warn(format_args!("shapes are not known: {e}"));
    }
    let facts = collect(args, &model, &graph)?;
    match &facts.layers {
        _ if out.is_json() => out.object(facts)?,
        Some(layers) if args.format != Format::Text => print_layers(layers, &facts, args.format, out)?,
        _ => print(&facts, out)?,
    }
    Ok(Outcome::Success)
}

/// Put the sizes asked for in the place of symbols of the inputs.
fn resize(graph: &mut Graph, sizes: &[(String, usize)]) -> Result<(), Failure> {
    let mut used = vec![false; sizes.len()];
    for input in graph.inputs.clone() {
        let value = graph.value(input);
        let (element_type, Some(mut shape)) = (value.element_type, value.shape.clone()) else { continue };
        for dim in &mut shape.0 {
            let found = match dim {
                Dim::Symbol(symbol) => sizes.iter().position(|(name, _)| name == symbol),
                _ => None,
            };
            if let Some(i) = found {
                *dim = Dim::Known(sizes[i].1);
                used[i] = true;
            }
        }
        graph.set_type(input, element_type, Some(shape));
    }
    match used.iter().position(|used| !used) {
        Some(i) => {
            let mut names: Vec<&str> = graph.inputs.iter().flat_map(|v| symbols(graph, *v)).collect();
            names.dedup();
            let hint = if names.is_empty() {
                "every dimension of the inputs has its size: leave --dim out".to_owned()
            } else {
                format!("the names are {}", names.join(", "))
            };
            Err(Failure::new(format!("no input has a dimension called '{}'", sizes[i].0), Some(&hint)))
        }
        None => Ok(()),
    }
}

/// The names of an input's symbolic dimensions.
fn symbols(graph: &Graph, input: ValueId) -> impl Iterator<Item = &str> {
    let dims = graph.value(input).shape.iter().flat_map(|shape| &shape.0);
    dims.filter_map(|dim| match dim {
        Dim::Symbol(name) => Some(name.as_str()),
        _ => None,
    })
}

fn collect(args: &Args, model: &Model, graph: &Graph) -> Result<Facts, Failure> {
    let proto = model.proto();
    let port = |id: &ValueId| Port::of(graph, *id);
    let mut operators = BTreeMap::new();
    for (_, node) in graph.nodes() {
        *operators.entry(operator(&node.domain, &node.op)).or_insert(0) += 1;
    }
    let order = graph.topological_order()?;
    let layers = args.layers.then(|| Layer::all(graph, &order));
    let growth = args.sites.then(|| list_sites(model)).transpose()?;
    let opset = graph.opsets.iter().map(|(domain, version)| {
        (if domain.is_empty() { "ai.onnx".to_owned() } else { domain.clone() }, *version)
    });
    // Those in sub-graphs and functions too.
    let mut weight_bytes = 0;
    model.visit_tensors(&mut |tensor| {
        let count = tensor.dims.iter().map(|n| usize::try_from(*n).unwrap_or(0)).product();
        let element_type = ElementType::from_code(tensor.data_type());
        weight_bytes += element_type.and_then(|t| t.byte_len(count)).unwrap_or(0) as u64;
    });
    Ok(Facts {
        model: args.model.clone(),
        bytes: model.bytes().len(),
        ir_version: model.ir_version(),
        opset: opset.collect(),
        producer: format!("{} {}", proto.producer_name(), proto.producer_version()).trim().to_owned(),
        inputs: graph.inputs.iter().map(port).collect(),
        outputs: graph.outputs.iter().map(port).collect(),
        nodes: graph.nodes().count(),
        parameters: model_parameters(graph),
        macs: model_macs(graph),
        weight_bytes,
        activation_bytes: activation_bytes(graph, &order),
        operators,
        layers,
        growth,
    })
}

/// The sites of the model as it would be trained, and the nodes that are none.
fn list_sites(model: &Model) -> Result<GrowthFacts, Failure> {
    let network = Network::prepare(model, None)?;
    let sites = network.sites.iter().map(|s| SiteFacts {
        name: s.name.clone(),
        node: s.applications.first().map(|a| a.node_name.clone()).unwrap_or_default(),
        operator: s.applications.first().map(|a| network.graph.node(a.node).op.clone()).unwrap_or_default(),
        applications: s.applications.len(),
        neuron_connection: s.kind.refuses(Connection::Neuron).is_none(),
        neurons: s.channels,
        fan_in: s.fan_in(),
    });
    let others = network.not_sites.iter().map(|n| NotASiteFacts {
        node: n.name.clone(),
        operator: n.op.clone(),
        reason: n.reason.clone(),
    });
    Ok(GrowthFacts { sites: sites.collect(), not_sites: others.collect() })
}

/// The most bytes of inputs and computed values that are alive at once when nodes run in `order` and a value dies with its
/// last reader, for one sample; `None` where a size is not known.
fn activation_bytes(graph: &Graph, order: &[NodeId]) -> Option<u64> {
    let batch: Vec<&Dim> = graph.inputs.iter().filter_map(|i| graph.value(*i).shape.as_ref()?.0.first()).collect();
    let size = |id: ValueId| -> Option<u64> {
        let value = graph.value(id);
        let dims = value.shape.as_ref()?.0.iter().map(|d| match d {
            Dim::Known(n) => Some(*n),
            symbol @ Dim::Symbol(_) if batch.contains(&symbol) => Some(1),
            _ => None,
        });
        let count = dims.into_iter().try_fold(1usize, |n, d| n.checked_mul(d?))?;
        Some(value.element_type?.byte_len(count)? as u64)
    };
    let mut last = vec![0; graph.value_count()];
    for (position, id) in order.iter().enumerate() {
        graph.reads(graph.node(*id)).iter().for_each(|v| last[v.index()] = position);
    }
    graph.outputs.iter().for_each(|v| last[v.index()] = order.len());
    let mut alive: u64 = graph.inputs.iter().map(|v| size(*v)).sum::<Option<u64>>()?;
    let mut most = alive;
    for (position, id) in order.iter().enumerate() {
        let node = graph.node(*id);
        for output in node.outputs.iter().flatten() {
            alive = alive.checked_add(size(*output)?)?;
        }
        most = most.max(alive);
        let mut done = graph.reads(node);
        done.extend(node.outputs.iter().flatten());
        done.sort();
        done.dedup();
        for value in done {
            if last[value.index()] <= position && graph.constant(value).is_none() {
                alive = alive.saturating_sub(size(value)?);
            }
        }
    }
    Some(most)
}

fn print(facts: &Facts, out: &Output) -> Result<(), Failure> {
    let opsets: Vec<String> = facts.opset.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
    let unknown = || "depends on symbols, give them sizes with --dim".to_owned();
    let mut rows = vec![
        ("model", format!("{} ({})", facts.model.display(), bytes(facts.bytes as u64))),
        ("producer", if facts.producer.is_empty() { "unknown".to_owned() } else { facts.producer.clone() }),
        ("format", format!("IR {}, opset {}", facts.ir_version, opsets.join(", "))),
        ("nodes", grouped(facts.nodes as u64)),
        ("parameters", format!("{} ({})", grouped(facts.parameters as u64), bytes(facts.weight_bytes))),
        ("MACs", facts.macs.map_or_else(unknown, |n| format!("{} a sample", grouped(n)))),
        ("activations", facts.activation_bytes.map_or_else(unknown, |n| format!("{} a sample at most", bytes(n)))),
    ];
    let port = |p: &Port| {
        let shape = p.shape.as_deref().unwrap_or("of unknown rank");
        format!("{} {}{}", p.name, p.element_type.as_deref().unwrap_or("not a tensor "), shape)
    };
    rows.extend(facts.inputs.iter().map(|p| ("input", port(p))));
    rows.extend(facts.outputs.iter().map(|p| ("output", port(p))));
    let mut operators: Vec<_> = facts.operators.iter().collect();
    operators.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let operators: Vec<String> = operators.iter().map(|(op, count)| format!("{op} {count}")).collect();
    rows.push(("operators", operators.join(", ")));
    for (name, text) in rows {
        out.line(format_args!("{} {text}", out.strong(&format!("{name:<11}"))))?;
    }
    print_sites(facts, out)?;
    let Some(layers) = &facts.layers else { return Ok(()) };
    out.line("")?;
    print_layers(layers, facts, Format::Text, out)
}

/// The table of layers, and what has to be known to read it.
fn print_layers(layers: &[Layer], facts: &Facts, format: Format, out: &Output) -> Result<(), Failure> {
    let rows = layers::rows(layers, facts.parameters, facts.macs, format);
    match format {
        Format::Text => out.table(&HEADER, &(NUMBERS..HEADER.len()).collect::<Vec<_>>(), &rows)?,
        other => out.line(layers::written(&rows, other))?,
    }
    if layers.iter().map(|layer| layer.parameters).sum::<usize>() != facts.parameters {
        out.note("weights that several layers share count at each of them, and once in the total");
    }
    if facts.macs.is_none() {
        out.note("MACs depend on symbols, give them sizes with --dim");
    }
    Ok(())
}

fn print_sites(facts: &Facts, out: &Output) -> Result<(), Failure> {
    let Some(growth) = &facts.growth else { return Ok(()) };
    if !growth.sites.is_empty() {
        let rows: Vec<Vec<String>> = growth
            .sites
            .iter()
            .map(|s| {
                let (neurons, fan_in) = (grouped(s.neurons as u64), grouped(s.fan_in as u64));
                let mut operator = s.operator.clone();
                if s.applications > 1 {
                    operator += &format!(", {} times", s.applications);
                }
                if !s.neuron_connection {
                    operator += ", layer dendrites alone";
                }
                vec![s.name.clone(), s.node.clone(), operator, neurons, fan_in]
            })
            .collect();
        out.line("")?;
        out.table(&["site", "node", "operator", "neurons", "weights a neuron"], &[3, 4], &rows)?;
    }
    if !growth.not_sites.is_empty() {
        let rows: Vec<Vec<String>> =
            growth.not_sites.iter().map(|n| vec![n.node.clone(), n.operator.clone(), n.reason.clone()]).collect();
        out.line("")?;
        out.table(&["not a site", "operator", "because"], &[], &rows)?;
    }
    Ok(())
}
