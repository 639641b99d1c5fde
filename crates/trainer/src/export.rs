//! The result as a file: the user's model, edited.

use std::{borrow::Cow, collections::HashSet, path::Path};

use dendrite_data::Samples;
use dendrite_onnx::{Model, Patch, Tensor, file, functions::inlined, proto::GraphProto};
use dendrite_runtime::Session;
use dendrites::{DendriteSet, Site, insert::insert_into_patch};
use serde::{Deserialize, Serialize};

use crate::{
    axes::{self, SampleAxis},
    error::{Error, Result},
    feed,
    network::{Batching, Growth, Network},
};

/// The prefix of all metadata this tool writes.
const METADATA: &str = "onnx-dendrite";

/// What the file's metadata say about how it came to be.
#[derive(Debug, Clone, Serialize)]
pub struct Lineage<'a> {
    /// The method.
    pub method: &'a str,
    /// The seed.
    pub seed: u64,
    /// SHA-256 of the input model.
    pub parent: &'a str,
    /// The sets that were added.
    pub sets: &'a [DendriteSet],
}

/// A [`Lineage`] as it is read back from a file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Descent {
    /// The method.
    pub method: String,
    /// The seed.
    pub seed: u64,
    /// SHA-256 of the model that was grown.
    pub parent: String,
    /// The sets that were added.
    pub sets: Vec<DendriteSet>,
}

/// What the metadata of a file say about how it was grown last; `None` where they say nothing that can be read.
pub fn descent(model: &Model) -> Option<Descent> {
    let key = lineage_key();
    let entry = model.proto().metadata_props.iter().rev().find(|e| e.key() == key)?;
    serde_json::from_str(entry.value()).ok()
}

/// The key of the lineage in a file's metadata.
pub fn lineage_key() -> String {
    format!("{METADATA}.lineage")
}

/// Whether a key of a file's metadata is one that this tool writes.
pub fn is_own_metadata(key: &str) -> bool {
    key.strip_prefix(METADATA).is_some_and(|rest| rest.starts_with('.'))
}

/// How the user's file becomes another.
#[derive(Debug, Clone)]
pub struct Edit<'a> {
    /// The user's file; where dendrites stand in functions, with these in the place of their calls.
    pub base: Cow<'a, Model>,
    /// What changes in it.
    pub patch: Patch,
}

impl<'a> Edit<'a> {
    /// The file as it is.
    pub fn none(model: &'a Model) -> Self {
        Edit { base: Cow::Borrowed(model), patch: Patch::new() }
    }

    /// Write the edited model and its data files.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        Ok(file::write(&self.base, &self.patch, path)?)
    }

    /// The bytes of the edited model file.
    pub fn apply(&self) -> Result<Vec<u8>> {
        Ok(self.patch.apply(&self.base)?)
    }
}

/// The edit that turns the user's file into the grown model.
pub fn edit<'a>(model: &'a Model, network: &Network, growth: &Growth, lineage: Option<&Lineage>) -> Result<Edit<'a>> {
    let sites: Vec<&str> = growth.sets.iter().map(|set| set.site.as_str()).collect();
    let base = base(model, network, &sites)?;
    let patch = patch(&base, network, growth, lineage)?;
    Ok(Edit { base, patch })
}

/// The file into which dendrites at `sites` can be put.
pub(crate) fn base<'a>(model: &'a Model, network: &Network, sites: &[&str]) -> Result<Cow<'a, Model>> {
    let applications = sites.iter().filter_map(|site| network.site(site)).flat_map(|site| &site.applications);
    let mut in_functions =
        applications.filter(|application| network.graph.function_of(application.node).is_some()).peekable();
    if in_functions.peek().is_none() {
        return Ok(Cow::Borrowed(model));
    }
    let base = inlined(model)?;
    let outputs: HashSet<&String> = base.graph().node.iter().flat_map(|node| &node.output).collect();
    match in_functions.find(|application| !outputs.contains(&application.name)) {
        None => Ok(base),
        Some(application) => Err(Error::Option {
            reason: format!("the function around '{}' cannot be put in the place of its call", application.name),
            hint: "inline the model's functions first (onnx.inliner.inline_local_functions)".to_owned(),
        }),
    }
}

fn patch(model: &Model, network: &Network, growth: &Growth, lineage: Option<&Lineage>) -> Result<Patch> {
    let mut patch = Patch::new();
    let own: Vec<String> = growth
        .sets
        .iter()
        .filter_map(|set| Some(set.tensors(network.site(&set.site)?, &growth.sets)))
        .flatten()
        .map(|(name, _)| name)
        .collect();
    let source = model.proto().graph.as_ref();
    for (name, tensor) in growth.weights.iter().filter(|(name, _)| !own.contains(name)) {
        let id = network.graph.find(name);
        let unchanged = id.and_then(|id| network.graph.constant(id)) == Some(tensor);
        if unchanged {
            continue;
        }
        if let Some(place) = id.and_then(|id| network.graph.place_of(id)) {
            patch.replace_in_body(place, tensor.clone());
        } else if source.is_some_and(|g| is_initializer(g, name)) {
            patch.replace_initializer(name, tensor.clone());
        } else {
            patch.replace_constant(name, tensor.clone());
        }
    }
    // In the file a site that reads an input reads it as it is.
    let own = |site: &Site| {
        let mut site = site.clone();
        for application in &mut site.applications {
            application.input = axes::of_file(&network.graph, application.input);
        }
        site
    };
    let sites: Vec<Site> = network.sites.iter().map(own).collect();
    insert_into_patch(&mut patch, model, &network.graph, &sites, &growth.sets, &growth.weights)?;
    if let Some(lineage) = lineage {
        patch.set_metadata(&format!("{METADATA}.version"), env!("CARGO_PKG_VERSION"));
        let text = serde_json::to_string(lineage).unwrap_or_default();
        patch.set_metadata(&lineage_key(), &text);
    }
    Ok(patch)
}

fn is_initializer(graph: &GraphProto, name: &str) -> bool {
    graph.initializer.iter().any(|t| t.name() == name)
}

/// Samples on which an exported file is compared with the evaluation session.
const PARITY_SAMPLES: usize = 32;

/// Outputs of a file for the first samples, in the form the file takes them: all at once, or one batch of its fixed size at
/// a time. Returns the values of output `output`, rows concatenated.
pub fn run_file(
    session: &mut Session,
    network: &Network,
    samples: &Samples,
    output: &str,
) -> Result<(usize, Vec<f32>)> {
    let rows = samples.len().min(PARITY_SAMPLES.max(network.fixed_batch.unwrap_or(1)));
    let step = network.fixed_batch.unwrap_or(rows).max(1);
    let mut values = Vec::new();
    for start in (0..rows).step_by(step) {
        // A fixed batch is filled up with its first row; what is computed for the filling is dropped below.
        let indices: Vec<usize> = (start..start + step).map(|i| if i < samples.len() { i } else { start }).collect();
        let feeds = model_rows(network, samples, &indices)?;
        let feeds: Vec<(&str, &Tensor)> = feeds.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let outputs = session.run(&feeds)?;
        let found = outputs.iter().find(|(name, _)| name == output).map(|(_, tensor)| tensor);
        let found = match network.output_samples {
            SampleAxis::At(axis) => found.map(|tensor| axes::out_of_file(tensor, axis)).transpose()?,
            SampleAxis::Missing => found.cloned(),
        };
        values.extend(found.and_then(|tensor| tensor.to_f32()).ok_or_else(|| Error::Option {
            reason: format!("the exported model has no float output '{output}'"),
            hint: "report this".to_owned(),
        })?);
    }
    Ok((rows.div_ceil(step.max(1)) * step, values))
}

/// Inputs of the file for its first samples: as many as its fixed batch, or a few.
pub fn first_rows(network: &Network, samples: &Samples) -> Result<Vec<(String, Tensor)>> {
    let rows = network.fixed_batch.unwrap_or(PARITY_SAMPLES.min(samples.len()));
    // A fixed batch is filled up with the first row.
    let indices: Vec<usize> = (0..rows).map(|i| if i < samples.len() { i } else { 0 }).collect();
    model_rows(network, samples, &indices)
}

/// Some rows of what the model itself reads, as its file takes them.
fn model_rows(network: &Network, samples: &Samples, indices: &[usize]) -> Result<Vec<(String, Tensor)>> {
    let targets: Vec<&str> = samples.fields().iter().filter(|f| f.target).map(|f| f.name.as_str()).collect();
    let mut rows = feed::rows(samples, indices)?;
    rows.retain(|(name, _)| !targets.contains(&name.as_str()));
    for (name, tensor) in &mut rows {
        // A row is a whole input.
        if network.batching == Batching::Whole
            && let Some(whole) = tensor.shape().split_first().and_then(|(_, rest)| tensor.reshaped(rest))
        {
            *tensor = whole;
        }
        if let Some((_, axis)) = network.turned_inputs.iter().find(|(turned, _)| turned == name) {
            *tensor = axes::into_file(tensor, *axis)?;
        }
    }
    Ok(rows)
}

/// The largest relative difference, |a - b| / max(1, max |b|), between a file's output and what the evaluation session
/// predicted for the same samples, each of `shape`.
pub fn parity(
    file: &mut Session,
    network: &Network,
    samples: &Samples,
    predictions: &[f32],
    shape: &[usize],
) -> Result<f64> {
    let (rows, values) = run_file(file, network, samples, &network.output)?;
    let width = shape.iter().product::<usize>().max(1);
    // Elements of an output are those of a prediction; rows that only fill a fixed batch are left out.
    let real = samples.len().min(rows);
    let expected: Vec<f32> =
        predictions.chunks_exact(width).take(real).flat_map(|row| network.link.apply(row, shape)).collect();
    let values = if values.len() == rows * width { &values[..real * width] } else { &values[..] };
    Ok(relative_difference(values, &expected))
}

/// |a - b| / max(1, max |b|), at its largest; infinite for different lengths or NaN.
pub fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let scale = b.iter().fold(1.0f64, |m, v| m.max(f64::from(v.abs())));
    a.iter().zip(b).fold(0.0f64, |worst, (a, b)| {
        let difference = f64::from((a - b).abs()) / scale;
        if difference.is_nan() { f64::INFINITY } else { worst.max(difference) }
    })
}
