//! A site's frozen data: its input x and its error E over the training samples.

use std::collections::HashSet;

use dendrite_autodiff::gradients;
use dendrite_onnx::{ElementType, Tensor, ValueId};
use dendrite_runtime::{Loop, Session};
use dendrites::{Site, candidates::SiteBatch, fragment::Reading};
use rand::seq::SliceRandom;

use crate::{
    error::{Error, Result},
    evaluate::{batch_shape, write_rows},
    network::{Growth, Network},
    objective::Context,
    random::generator,
};

/// Bytes that one site's input and error may take in memory; beyond, a random part of the samples serves.
const CACHE_BYTES: usize = 1 << 30;

/// One site's frozen data.
pub(super) struct SiteData {
    pub(super) input: Tensor,
    pub(super) error: Tensor,
}

/// x and E of every site over the training samples, E scaled to unit size.
pub(super) fn site_data(
    context: Context,
    growth: &Growth,
    sites: &[&Site],
    place: [u64; 2],
) -> Result<Vec<(String, SiteData)>> {
    let Context { network, objective, samples, options, session } = context;
    let batch = options.batch_for(samples.len());
    let mut graph = network.grown(growth, Reading::Direct)?;
    let shapes: Vec<(String, Vec<usize>)> =
        samples.fields().iter().map(|(name, array)| (name.clone(), batch_shape(array, batch))).collect();
    Network::bind_shapes(&mut graph, &shapes)?;
    let target = samples.target().ok_or_else(|| samples.error("it holds no target".to_owned(), "say --target"))?;
    let values = objective.attach(&mut graph, network.prediction)?;
    let mut names: Vec<String> = sites.iter().map(|s| s.name.clone()).collect();
    names.dedup();
    let unique: Vec<&Site> = names.iter().filter_map(|n| network.site(n)).collect();
    let wrt: Vec<ValueId> = unique.iter().map(|s| s.output).collect();
    let found = gradients(&mut graph, values.mean, &wrt, &HashSet::new())?;
    let mut fetches = Vec::new();
    let mut outputs = Vec::new();
    for (index, (site, gradient)) in unique.iter().zip(found).enumerate() {
        let gradient = gradient.ok_or_else(|| Error::Option {
            reason: format!("the loss does not depend on site '{}'", site.name),
            hint: "leave it out with --exclude".to_owned(),
        })?;
        for (role, value) in [("input", site.input), ("error", gradient)] {
            let shape = graph.value(value).shape.as_ref().and_then(|s| s.as_known());
            let shape = match (shape, role) {
                (Some(shape), _) => shape,
                (None, "error") => known_shape(&graph, site.output, &site.name)?,
                (None, _) => known_shape(&graph, value, &site.name)?,
            };
            let named = graph.op("Identity", &format!("site_{index}/{role}"), &[value], Default::default());
            outputs.push(named);
            fetches.push((graph.name_of(named).to_owned(), ElementType::Float, shape));
        }
    }
    graph.outputs = outputs;
    graph.prune();
    let (target_name, weight) = (graph.name_of(values.target).to_owned(), graph.name_of(values.weight).to_owned());
    let mut feeds: Vec<(String, ElementType, Vec<usize>)> = samples
        .fields()
        .iter()
        .map(|(name, array)| (name.clone(), array.element_type(), batch_shape(array, batch)))
        .collect();
    feeds.push((target_name.clone(), target.element_type(), batch_shape(target, batch)));
    feeds.push((weight.clone(), ElementType::Float, vec![batch]));

    let per_sample: usize =
        fetches.iter().map(|(_, _, shape)| shape.iter().product::<usize>() * 4 / batch).max().unwrap_or(1) * 2;
    let mut order: Vec<usize> = (0..samples.len()).collect();
    let fitting = (CACHE_BYTES / per_sample.max(1)).max(batch);
    if fitting < order.len() {
        order.shuffle(&mut generator(options.seed, &[3, place[0], place[1]]));
        order.truncate(fitting);
        order.sort_unstable();
    }
    let mut pass = Loop::new(Session::from_graph(&graph, session)?, Vec::new(), &feeds, &fetches)?;
    let mut columns: Vec<Vec<f32>> = vec![Vec::new(); fetches.len()];
    let (mut buffer, mut read) = (Vec::new(), Vec::new());
    for rows in order.chunks(batch) {
        let mut indices = rows.to_vec();
        indices.resize(batch, rows[0]);
        for (name, array) in samples.fields() {
            write_rows(&mut pass, name, array, &indices, &mut buffer)?;
        }
        write_rows(&mut pass, &target_name, target, &indices, &mut buffer)?;
        let weights: Vec<f32> = (0..batch).map(|i| if i < rows.len() { 1.0 } else { 0.0 }).collect();
        pass.write_f32(&weight, &weights)?;
        pass.step()?;
        for ((name, _, shape), column) in fetches.iter().zip(&mut columns) {
            pass.read_f32(name, &mut read)?;
            let width = shape.iter().product::<usize>() / batch;
            // The loss is a mean over the batch's samples; errors are wanted per sample.
            let scale = if name.ends_with("/error") { rows.len() as f32 } else { 1.0 };
            column.extend(read.iter().take(width * rows.len()).map(|v| v * scale));
        }
    }
    let mut columns = columns.into_iter().zip(&fetches);
    let mut data = Vec::new();
    for site in unique {
        let (Some((x, (_, _, x_shape))), Some((mut e, (_, _, e_shape)))) = (columns.next(), columns.next()) else {
            break;
        };
        scale_errors(&mut e);
        let with_rows = |shape: &[usize]| -> Vec<usize> {
            std::iter::once(order.len()).chain(shape.iter().skip(1).copied()).collect()
        };
        data.push((
            site.name.clone(),
            SiteData {
                input: Tensor::from_f32(&with_rows(x_shape), &x),
                error: Tensor::from_f32(&with_rows(e_shape), &e),
            },
        ));
    }
    Ok(data)
}

fn known_shape(graph: &dendrite_onnx::Graph, value: ValueId, site: &str) -> Result<Vec<usize>> {
    graph.value(value).shape.as_ref().and_then(|s| s.as_known()).ok_or_else(|| Error::Option {
        reason: format!("the shape of value '{}' at site '{site}' is unknown", graph.name_of(value)),
        hint: "leave the site out with --exclude".to_owned(),
    })
}

/// Bring errors to unit size: their scale depends on the loss, correlations do not.
fn scale_errors(errors: &mut [f32]) {
    let square: f64 = errors.iter().map(|e| f64::from(*e) * f64::from(*e)).sum::<f64>() / errors.len().max(1) as f64;
    let scale = 1.0 / square.sqrt().max(1e-30);
    errors.iter_mut().for_each(|e| *e = (f64::from(*e) * scale) as f32);
}

/// The inputs of a candidate graph.
pub(super) fn site_feeds(shapes: &SiteBatch, batch: usize) -> Vec<(String, ElementType, Vec<usize>)> {
    vec![
        ("x".to_owned(), ElementType::Float, shapes.input.clone()),
        ("error".to_owned(), ElementType::Float, shapes.error.clone()),
        ("weight".to_owned(), ElementType::Float, vec![batch]),
    ]
}

/// Write samples of a site into a pass; a batch that is not full is filled up with weight zero.
pub(super) fn write_site_batch(
    pass: &mut Loop,
    data: &SiteData,
    rows: &[usize],
    batch: usize,
    buffer: &mut Vec<u8>,
) -> Result<()> {
    let mut indices = rows.to_vec();
    indices.resize(batch, rows[0]);
    write_rows(pass, "x", &data.input, &indices, buffer)?;
    write_rows(pass, "error", &data.error, &indices, buffer)?;
    let weights: Vec<f32> = (0..batch).map(|i| if i < rows.len() { 1.0 } else { 0.0 }).collect();
    pass.write_f32("weight", &weights)?;
    Ok(())
}
