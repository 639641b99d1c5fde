//! Plans: how many dendrites grow where, within a budget of parameters.

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result, listed},
    set::{Activation, Connection, DendriteSet},
    sites::{Site, names},
};

/// What grows in each cycle. Written by `dendrite plan` as TOML and read back by `grow --plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Plan {
    /// The connection of every set.
    pub connect: Connection,
    /// Cycles, at most.
    pub cycles: usize,
    /// The sites that grow.
    #[serde(rename = "site")]
    pub sites: Vec<PlannedSite>,
}

/// What grows at one site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PlannedSite {
    /// The site's output value.
    pub name: String,
    /// Dendrites a cycle: for each neuron (`neuron`), or for all of them together (`layer`).
    pub dendrites: usize,
}

/// What a plan is made from.
#[derive(Debug, Clone)]
pub struct Demand {
    /// The connection.
    pub connect: Connection,
    /// Cycles, at most.
    pub cycles: usize,
    /// `neuron`: sets a site and cycle. `layer`: dendrites a site and cycle, a fraction of its neurons if below 1.
    pub width: Option<f64>,
    /// Parameters that all cycles together may add.
    pub budget: Option<usize>,
}

impl Plan {
    /// Plan growth at those of `sites` that take dendrites by the connection asked for.
    pub fn new(sites: &[Site], demand: &Demand) -> Result<Self> {
        let Some(first) = sites.first() else { return Err(Error::NoneLeft) };
        let taking: Vec<Site> = sites.iter().filter(|s| s.kind.refuses(demand.connect).is_none()).cloned().collect();
        if let ([], Some(reason)) = (taking.as_slice(), first.kind.refuses(demand.connect)) {
            return Err(Error::Refused { site: first.name.clone(), reason });
        }
        let sites = taking.as_slice();
        match demand.connect {
            Connection::Neuron => Self::neuron(sites, demand),
            Connection::Layer => Self::layer(sites, demand),
        }
    }

    fn neuron(sites: &[Site], demand: &Demand) -> Result<Self> {
        let count = demand.width.map_or(1, |w| w.max(1.0) as usize);
        let mut plan = Plan {
            connect: Connection::Neuron,
            cycles: demand.cycles,
            sites: sites.iter().map(|s| PlannedSite { name: s.name.clone(), dendrites: count }).collect(),
        };
        if let Some(budget) = demand.budget {
            // Cheap sites first: they give most dendrites for the money. Then as many cycles as still fit.
            let mut by_cost: Vec<&Site> = sites.iter().collect();
            by_cost.sort_by_key(|s| (site_parameters(s, Connection::Neuron, count, 1), s.name.clone()));
            while plan.parameters(sites, 1) > budget {
                let Some(dearest) = by_cost.pop() else { break };
                plan.sites.retain(|s| s.name != dearest.name);
            }
            while plan.cycles > 1 && plan.parameters(sites, plan.cycles) > budget {
                plan.cycles -= 1;
            }
        }
        plan.checked(demand)
    }

    fn layer(sites: &[Site], demand: &Demand) -> Result<Self> {
        let rounded = |site: &Site, width: usize| width.next_multiple_of(site.groups.max(1)).max(1);
        let wanted = |site: &Site| match demand.width {
            Some(width) if width < 1.0 => (width * site.channels as f64).round() as usize,
            Some(width) => width as usize,
            None => site.channels.div_ceil(2),
        };
        let plan_of = |cycles: usize, width: &dyn Fn(&Site) -> usize| Plan {
            connect: Connection::Layer,
            cycles,
            sites: sites
                .iter()
                .map(|s| PlannedSite { name: s.name.clone(), dendrites: rounded(s, width(s)) })
                .collect(),
        };
        let plan = match (demand.budget, demand.width) {
            (None, _) => plan_of(demand.cycles, &wanted),
            (Some(budget), Some(_)) => {
                let mut plan = plan_of(demand.cycles, &wanted);
                while plan.cycles > 1 && plan.parameters(sites, plan.cycles) > budget {
                    plan.cycles -= 1;
                }
                plan
            }
            (Some(budget), None) => {
                // One cycle that spends the budget: few large steps grow better than many small ones. Every site gets the
                // same number of dendrites, as many as fit.
                let mut width = 1;
                while plan_of(1, &|_| width + 1).parameters(sites, 1) <= budget && width < budget {
                    width += 1;
                }
                plan_of(1, &|_| width)
            }
        };
        plan.checked(demand)
    }

    fn checked(self, demand: &Demand) -> Result<Self> {
        if self.sites.is_empty() || self.cycles == 0 {
            let budget = demand.budget.unwrap_or(0);
            return Err(Error::Budget(format!("the budget of {budget} more parameters has no room for a dendrite")));
        }
        Ok(self)
    }

    /// Whether a plan that may come from a file can grow at `sites`.
    pub fn check(&self, sites: &[Site]) -> Result<()> {
        let fail = |reason: String| Err(Error::Plan(reason));
        if self.sites.is_empty() && self.cycles > 0 {
            return fail("the plan names no site".to_owned());
        }
        for (index, planned) in self.sites.iter().enumerate() {
            let name = &planned.name;
            let Some(site) = sites.iter().find(|s| s.name == *name) else {
                return fail(format!("the plan names site '{name}', the model has {}", listed(&names(sites))));
            };
            if let Some(reason) = site.kind.refuses(self.connect) {
                return Err(Error::Refused { site: name.clone(), reason });
            }
            if planned.dendrites == 0 {
                return fail(format!("the plan gives site '{name}' 0 dendrites"));
            }
            if self.sites.iter().take(index).any(|s| s.name == *name) {
                return fail(format!("the plan names site '{name}' twice"));
            }
        }
        Ok(())
    }

    /// Parameters that `cycles` cycles add.
    pub fn parameters(&self, sites: &[Site], cycles: usize) -> usize {
        self.sites
            .iter()
            .filter_map(|planned| Some((planned, sites.iter().find(|s| s.name == planned.name)?)))
            .map(|(planned, site)| site_parameters(site, self.connect, planned.dendrites, cycles))
            .sum()
    }

    /// The sets that the next cycle adds to `existing`.
    pub fn next_cycle(&self, sites: &[Site], existing: &[DendriteSet]) -> Result<Vec<DendriteSet>> {
        let mut new = Vec::new();
        for planned in &self.sites {
            let site = sites
                .iter()
                .find(|s| s.name == planned.name)
                .ok_or_else(|| Error::NoSite { pattern: planned.name.clone(), known: names(sites) })?;
            let first =
                existing.iter().filter(|s| s.site == site.name).map(|s| s.index + 1).max().unwrap_or(site.first_index);
            let (count, width) = match self.connect {
                Connection::Neuron => (planned.dendrites, site.channels),
                Connection::Layer => (1, planned.dendrites),
            };
            new.extend((0..count).map(|i| DendriteSet {
                site: site.name.clone(),
                index: first + i,
                connection: self.connect,
                activation: Activation::Relu,
                width,
            }));
        }
        Ok(new)
    }
}

/// Parameters that `cycles` cycles of `dendrites` add at one site.
fn site_parameters(site: &Site, connect: Connection, dendrites: usize, cycles: usize) -> usize {
    let set = |index: usize, width: usize| DendriteSet {
        site: site.name.clone(),
        index,
        connection: connect,
        activation: Activation::Relu,
        width,
    };
    match connect {
        Connection::Neuron => {
            let sets: Vec<DendriteSet> = (0..dendrites * cycles).map(|i| set(i, site.channels)).collect();
            sets.iter().map(|s| s.parameters(site, &sets)).sum()
        }
        Connection::Layer => set(0, dendrites).parameters(site, &[]) * cycles,
    }
}
