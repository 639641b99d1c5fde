//! The dendrite phase: the network is frozen, a pool of candidates at each site is trained to correlate with the site's
//! remaining error, and the best of each dendrite's candidates are kept.
//!
//! The network being frozen, a site's input and error are constants: they are computed once and reused over all epochs.

mod best;
mod data;
mod search;

use std::collections::HashSet;

use dendrites::{Activation, DendriteSet, Site, Weights};
use serde::Serialize;

use self::{data::Frozen, search::Search};
use crate::{error::Result, network::Growth, objective::Context, random::generator};

/// What one site's dendrite phase came to.
#[derive(Debug, Clone, Serialize)]
pub struct SiteReport {
    /// The site.
    pub site: String,
    /// Dendrites in the set.
    pub dendrites: usize,
    /// Parameters it adds.
    pub parameters: usize,
    /// The activation that won.
    pub activation: Activation,
    /// Mean over dendrites of the best candidate's |rho| (layer: norm of its correlations) before training.
    pub initial: f64,
    /// The same after training.
    pub trained: f64,
    /// Samples that were used.
    pub samples: usize,
}

/// Run the phase for `sets`, one new set a site, and return their tensors (the connection zero) with a report each.
pub fn dendrite_phase(
    context: Context,
    growth: &Growth,
    new: &[DendriteSet],
    place: [u64; 2],
) -> Result<(Vec<DendriteSet>, Weights, Vec<SiteReport>)> {
    let Context { network, options, .. } = context;
    let sites: Vec<&Site> = new.iter().filter_map(|set| network.site(&set.site)).collect();
    let frozen = Frozen::new(context, growth, &sites, place)?;
    let mut weights = growth.weights.clone();
    let mut sets = growth.sets.clone();
    let (mut reports, mut added) = (Vec::new(), Vec::new());
    for group in frozen.groups() {
        for (site, data) in frozen.data(group)? {
            // Sets of one site that are added together see each other: later ones read earlier ones.
            for (index, set) in new.iter().enumerate().filter(|(_, set)| set.site == site.name) {
                let mut search = Search::new(context, site, set, &sets, &weights, &data)?;
                let mut rng = generator(options.seed, &[2, place[0], place[1], index as u64]);
                let (set, tensors, report) = search.run(&mut rng)?;
                weights.extend(tensors);
                sets.push(set.clone());
                added.push(set);
                reports.push(report);
            }
        }
    }
    let names: HashSet<String> = growth.weights.keys().cloned().collect();
    weights.retain(|name, _| !names.contains(name));
    Ok((added, weights, reports))
}
