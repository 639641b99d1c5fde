//! Dendrites in a finished file, found again: the inverse of insertion.
//!
//! Names lead to what may be dendrites, structure decides. The sets that a site's names speak of are read off its tensors, the
//! fragment they would have been inserted as is built anew, and the file must hold exactly that: the same operators, inputs
//! and attributes, beside an operation of the same kind on the same input, and read by nobody else. Whatever is merely named
//! like a dendrite is not recognised.
//!
//! A grown model can be grown again, its dendrites too. So what is recognised is taken away, and what remains looked at anew,
//! until nothing more is found.

mod reader;
mod site;

use std::collections::{BTreeSet, HashMap};

use dendrite_onnx::{
    Model,
    diff::{Diff, Fact, View, diff},
    functions::inlined,
};

use self::reader::{Reader, split};
use crate::{
    error::Result,
    fragment::{EXTENDED_INPUT, EXTENDED_WEIGHT},
    set::DendriteSet,
};

/// A site with the dendrites that stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrownSite {
    /// The site: the name of its output.
    pub name: String,
    /// Its sets in the order in which they are added.
    pub sets: Vec<GrownSet>,
    /// Where it is applied.
    applications: Vec<Place>,
}

/// An operation of a grown site.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// Its output.
    name: String,
    /// What it was before the site grew.
    before: Before,
}

/// What stood in a grown site's place.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Before {
    /// A node computed the site's output, as one of its outputs.
    Output(usize, usize),
    /// A recurrent node read an input and weights.
    Inputs(usize, [String; 2]),
}

impl Place {
    fn node(&self) -> usize {
        match self.before {
            Before::Output(node, _) | Before::Inputs(node, _) => node,
        }
    }
}

/// A dendrite set in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrownSet {
    /// What it is.
    pub set: DendriteSet,
    /// Its parameters.
    pub parameters: usize,
    /// Its nodes, by position.
    nodes: Vec<usize>,
    /// Its tensors.
    constants: Vec<String>,
    /// The nodes that add it, one for each application of the site; at a recurrent operator none is.
    adds: Vec<usize>,
}

/// Every site of a model that carries dendrites; those that were grown last come first.
pub fn recognise(model: &Model) -> Result<Vec<GrownSite>> {
    let mut file = Reader::new(model);
    let mut grown: Vec<GrownSite> = Vec::new();
    let mut left: Vec<String> = file.candidates();
    loop {
        let mut found = Vec::new();
        // Applications that share their dendrites' tensors are one site.
        for (name, applications) in file.by_site(&left) {
            found.extend(file.site(&name, &applications)?);
        }
        if found.is_empty() {
            return Ok(grown);
        }
        for site in &found {
            file.take_away(site);
            left.retain(|name| site.applications.iter().all(|place| place.name != *name));
        }
        grown.extend(found);
    }
}

/// Dendrites at a site that one of two models has and the other does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// The site.
    pub site: String,
    /// The sets.
    pub sets: Vec<DendriteSet>,
    /// Their parameters.
    pub parameters: usize,
    /// Whether every connection is zero still, so that nothing that is computed depends on them.
    pub untrained: bool,
}

/// Two models compared, dendrites understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Dendrites that the second model has more, in the order of its nodes.
    pub added: Vec<Growth>,
    /// Dendrites that the first model has more.
    pub removed: Vec<Growth>,
    /// What else differs.
    pub rest: Diff,
    /// Sites to which nodes that are new in the second model belong by name, but not by how they are wired.
    pub suspects: Vec<String>,
}

impl Comparison {
    /// Whether the models are the same.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.rest.is_empty()
    }
}

/// What differs between two models, dendrites taken for what they are.
pub fn compare(a: &Model, b: &Model) -> Result<Comparison> {
    // Growing in functions puts them in the place of their calls: what else changed is told beside the same nodes.
    let functions = |model: &Model| model.proto().functions.len();
    let alone = (functions(a) == 0) != (functions(b) == 0);
    if alone && let (Ok(x), Ok(y)) = (inlined(a), inlined(b)) {
        let mut found = compare(&x, &y)?;
        let count = |model: &Model| Some(functions(model)).filter(|n| *n > 0).map(|n| n.to_string());
        let name = "functions, else in the place of their calls".to_owned();
        found.rest.other.push(Fact { name, before: count(a), after: count(b) });
        return Ok(found);
    }
    let (before, after) = (recognise(a)?, recognise(b)?);
    let (mut x, mut y) = (View::of(a), View::of(b));
    let removed = take_growth(a, &mut x, &before, &after)?;
    let added = take_growth(b, &mut y, &after, &before)?;
    let rest = diff(&x, &y)?;
    let suspects: BTreeSet<String> = rest
        .nodes
        .iter()
        .filter(|node| node.before.is_none())
        .filter_map(|node| Some(split(&node.output)?.0.to_owned()))
        .collect();
    Ok(Comparison { added, removed, rest, suspects: suspects.into_iter().collect() })
}

/// The dendrites of `own` that `other` has not, taken out of the view.
fn take_growth(model: &Model, view: &mut View, own: &[GrownSite], other: &[GrownSite]) -> Result<Vec<Growth>> {
    let others: HashMap<&str, &[GrownSet]> = other.iter().map(|s| (s.name.as_str(), s.sets.as_slice())).collect();
    let mut growth = Vec::new();
    for site in own {
        let theirs = others.get(site.name.as_str()).copied().unwrap_or_default();
        // Sets that both begin with may have other weights; from the first that is another set on, it is growth.
        let same = site.sets.iter().zip(theirs).take_while(|(a, b)| a.set == b.set).count();
        let more = &site.sets[same..];
        if more.is_empty() {
            continue;
        }
        for set in more {
            set.nodes.iter().for_each(|node| {
                view.hide_node(*node);
            });
            set.constants.iter().for_each(|name| {
                view.hide_constant(name);
            });
        }
        let last = same.checked_sub(1).and_then(|last| site.sets.get(last));
        for (index, place) in site.applications.iter().enumerate() {
            match (&place.before, last) {
                (Before::Output(node, output), None) => {
                    view.rename_output(*node, *output, &place.name);
                }
                (Before::Output(..), Some(last)) => {
                    last.adds.get(index).map(|add| view.rename_output(*add, 0, &place.name));
                }
                (Before::Inputs(node, names), None) => {
                    view.redirect_input(*node, 0, &names[0]).redirect_input(*node, 1, &names[1]);
                }
                (Before::Inputs(node, _), Some(last)) => {
                    let names = [EXTENDED_INPUT, EXTENDED_WEIGHT].map(|role| last.set.path_at(&place.name, role));
                    view.redirect_input(*node, 0, &names[0]).redirect_input(*node, 1, &names[1]);
                }
            }
        }
        let mut untrained = true;
        for set in more {
            untrained &= is_zero(model, &set.set.path("connection"))?;
        }
        let told = Growth {
            site: site.name.clone(),
            sets: more.iter().map(|s| s.set.clone()).collect(),
            parameters: more.iter().map(|s| s.parameters).sum(),
            untrained,
        };
        growth.push((site.applications.iter().map(Place::node).min(), told));
    }
    growth.sort_by_key(|(node, _)| *node);
    Ok(growth.into_iter().map(|(_, told)| told).collect())
}

fn is_zero(model: &Model, name: &str) -> Result<bool> {
    let tensor = model.graph().initializer.iter().find(|t| t.name() == name).map(|t| model.tensor(t)).transpose()?;
    Ok(tensor.and_then(|t| t.to_f32()).is_some_and(|values| values.iter().all(|v| *v == 0.0)))
}
