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

/// What a dendrite phase asks after every epoch of candidates, given the epochs done and those of the phase: whether to give up.
pub type Watch<'w> = dyn FnMut(usize, usize) -> bool + 'w;

/// The sets that a dendrite phase chose, their tensors (the connection zero), and a report each.
pub type Chosen = (Vec<DendriteSet>, Weights, Vec<SiteReport>);

/// Run the phase for the sets `new`; `None` where `watch` gave it up.
pub fn dendrite_phase(
    context: Context,
    growth: &Growth,
    new: &[DendriteSet],
    place: [u64; 2],
    watch: &mut Watch,
) -> Result<Option<Chosen>> {
    let Context { network, options, .. } = context;
    let sites: Vec<&Site> = new.iter().filter_map(|set| network.site(&set.site)).collect();
    let frozen = Frozen::new(context, growth, &sites, place)?;
    let mut weights = growth.weights.clone();
    let mut sets = growth.sets.clone();
    let (mut reports, mut added) = (Vec::new(), Vec::new());
    // A set takes one pass over its data at least.
    let total = new.len() * options.candidate_epochs().max(1);
    let mut done = 0;
    let mut watch = || {
        done += 1;
        watch(done, total)
    };
    for group in frozen.groups() {
        for (site, data) in frozen.data(group)? {
            // Sets of one site that are added together see each other: later ones read earlier ones.
            for (index, set) in new.iter().enumerate().filter(|(_, set)| set.site == site.name) {
                let mut search = Search::new(context, site, set, &sets, &weights, &data)?;
                let mut rng = generator(options.seed, &[2, place[0], place[1], index as u64]);
                let Some((set, tensors, report)) = search.run(&mut rng, &mut watch)? else { return Ok(None) };
                weights.extend(tensors);
                sets.push(set.clone());
                added.push(set);
                reports.push(report);
            }
        }
    }
    let names: HashSet<String> = growth.weights.keys().cloned().collect();
    weights.retain(|name, _| !names.contains(name));
    Ok(Some((added, weights, reports)))
}
