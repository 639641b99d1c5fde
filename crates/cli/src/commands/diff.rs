//! `dendrite diff`: what changed from one file to another.

use std::path::PathBuf;

use dendrite_onnx::{
    Model,
    diff::{Constant, ConstantChange, Diff, Fact, NodeChange, NodeFacts, Storage, identical},
};
use dendrite_trainer::{checkpoint::sha256, export};
use dendrites::{Activation, Comparison, Connection, DendriteSet, Growth};
use serde_json::{Value, json};

use crate::{
    failure::{Failure, Outcome},
    output::{Output, grouped},
};

/// Rows of a kind that are listed unless `--verbose` asks for all.
const LISTED: usize = 20;

/// Weights that are listed one by one without being asked for.
const FEW_WEIGHTS: usize = 3;

/// The longest text of a value in a line.
const LONGEST: usize = 80;

/// Show what changed from one model to another
///
/// Dendrites are told as what was grown, a line a site, everything else as it is; with -v every weight. Nothing is run, so any
/// two files can be held against each other. Exit code 0: the same model, 1: they differ.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model before
    a: PathBuf,
    /// The model after
    b: PathBuf,
}

pub(crate) fn run(args: &Args, out: &Output) -> Result<Outcome, Failure> {
    let (a, b) = (Model::open(&args.a)?, Model::open(&args.b)?);
    let same_bytes = identical(&a, &b);
    let found = if same_bytes {
        Comparison { added: Vec::new(), removed: Vec::new(), rest: Diff::default(), suspects: Vec::new() }
    } else {
        // Which of the files an error is about is the one in which `check` finds it.
        let broken = |m: &Model| dendrite_onnx::check(m).iter().any(|f| f.severity == dendrite_onnx::Severity::Error);
        dendrites::compare(&a, &b)
            .map_err(|e| Failure::from(e).of(if broken(&a) && !broken(&b) { &args.a } else { &args.b }))?
    };
    let lineage = if same_bytes { None } else { Lineage::read(&a, &b, &found) };
    if out.is_json() {
        out.object(facts(args, &found, lineage.as_ref(), same_bytes))?;
    } else if same_bytes {
        out.line("the files are the same, byte for byte")?;
    } else if found.is_empty() {
        out.line("the files hold the same model, written in another form")?;
    } else {
        out.line(summary(args, &found))?;
        print(&found, lineage.as_ref(), out)?;
    }
    Ok(if found.is_empty() { Outcome::Success } else { Outcome::Negative })
}

/// What the second file says about how it was grown, and whether that is so.
struct Lineage {
    said: export::Descent,
    /// Whether the first file is the one it was grown from.
    from_a: bool,
    /// Whether the sets it speaks of are those that were found.
    sets_agree: bool,
}

impl Lineage {
    /// `None` where the second file says nothing, or no more than the first one does.
    fn read(a: &Model, b: &Model, found: &Comparison) -> Option<Self> {
        let said = export::descent(b).filter(|said| export::descent(a).as_ref() != Some(said))?;
        let order = |sets: Vec<&DendriteSet>| {
            let mut sets: Vec<DendriteSet> = sets.into_iter().cloned().collect();
            sets.sort_by(|a, b| (&a.site, a.index).cmp(&(&b.site, b.index)));
            sets
        };
        let sets_agree =
            order(said.sets.iter().collect()) == order(found.added.iter().flat_map(|g| &g.sets).collect());
        let from_a = said.parent == sha256(a.bytes());
        Some(Lineage { said, from_a, sets_agree })
    }

    fn text(&self) -> String {
        let origin = match self.said.parent.get(..12) {
            _ if self.from_a => "from this very file".to_owned(),
            Some(start) => format!("from another file (SHA-256 {}...)", short(start)),
            None => "from another file".to_owned(),
        };
        // What was grown on another file need not be what differs from this one.
        let sets = if self.from_a && !self.sets_agree { ", with other dendrites than are found" } else { "" };
        format!("it says it was grown {origin} by {}, seed {}{sets}", short(&self.said.method), self.said.seed)
    }
}

/// The first line: what the second file is, seen from the first.
fn summary(args: &Args, found: &Comparison) -> String {
    let rest = &found.rest;
    let plural = |n: usize, one: &str, more: &str| format!("{} {}", grouped(n as u64), if n == 1 { one } else { more });
    let at = |growth: &[Growth]| {
        let parameters: usize = growth.iter().map(|g| g.parameters).sum();
        format!("dendrites at {} ({} parameters)", plural(growth.len(), "site", "sites"), grouped(parameters as u64))
    };
    let mut parts = Vec::new();
    parts.extend((!found.added.is_empty()).then(|| at(&found.added)));
    let weights = rest.changed_weights().count();
    if weights > 0 {
        parts.push(format!("{} of {} weights changed", grouped(weights as u64), grouped(rest.weights as u64)));
    }
    let without = (!found.removed.is_empty()).then(|| format!("without {}", at(&found.removed)));
    let constants = rest.constants.len() - weights;
    let metadata = rest.metadata.iter().filter(|m| !export::is_own_metadata(&m.name)).count();
    let others = [
        (rest.format.len(), "change of format", "changes of format"),
        (metadata, "change of metadata", "changes of metadata"),
        (rest.inputs.len(), "input", "inputs"),
        (rest.outputs.len(), "output", "outputs"),
        (rest.nodes.len(), "node", "nodes"),
        (constants, "other constant", "other constants"),
        (rest.other.len(), "other change", "other changes"),
    ];
    let (a, b) = (args.a.display(), args.b.display());
    // Growth and training explain what is in `parts`; whatever else differs makes it another model.
    if others.iter().all(|(n, ..)| *n == 0) {
        let with = (!parts.is_empty()).then(|| format!("with {}", parts.join(", ")));
        return match (without, with) {
            (None, None) => format!("{b} is {a} but for its lineage"),
            (without, with) => {
                format!("{b} is {a} {}", without.into_iter().chain(with).collect::<Vec<_>>().join(", "))
            }
        };
    }
    parts.splice(0..0, without);
    parts.extend(others.iter().filter(|(n, ..)| *n > 0).map(|(n, one, more)| plural(*n, one, more)));
    format!("{b} differs from {a}: {}", parts.join(", "))
}

/// What is printed below the summary: lines with the kind of thing in front.
fn print(found: &Comparison, lineage: Option<&Lineage>, out: &Output) -> Result<(), Failure> {
    let rest = &found.rest;
    let show = |label: &str, lines: Vec<String>| -> Result<(), Failure> {
        let shown = if out.is_verbose() { lines.len() } else { LISTED };
        for line in lines.iter().take(shown) {
            out.line(format_args!("{} {line}", out.strong(&format!("{label:<11}"))))?;
        }
        match lines.len().saturating_sub(shown) {
            0 => Ok(()),
            more => out.line(format_args!("{:<11} ... and {more} more; -v lists them", "")),
        }
    };
    show("lineage", lineage.iter().map(|l| l.text()).collect())?;
    show("dendrites", found.added.iter().map(|g| format!("{} {}", out.good("+"), growth_text(g))).collect())?;
    show("dendrites", found.removed.iter().map(|g| format!("{} {}", out.bad("-"), growth_text(g))).collect())?;
    let suspect = |site: &String| format!("? {}: nodes named like dendrites that are wired otherwise", short(site));
    show("dendrites", found.suspects.iter().map(suspect).collect())?;
    let facts = |facts: &[Fact]| facts.iter().map(|f| fact_text(f, out)).collect::<Vec<_>>();
    show("format", facts(&rest.format))?;
    let own = lineage.is_some();
    let metadata: Vec<Fact> =
        rest.metadata.iter().filter(|m| !(own && export::is_own_metadata(&m.name))).cloned().collect();
    show("metadata", facts(&metadata))?;
    show("input", facts(&rest.inputs))?;
    show("output", facts(&rest.outputs))?;
    show("node", rest.nodes.iter().flat_map(|n| node_text(n, out)).collect())?;
    show("constant", rest.constants.iter().filter(|c| !c.is_weight()).map(|c| constant_text(c, out)).collect())?;
    show("other", facts(&rest.other))?;
    weights(rest, out)
}

fn growth_text(growth: &Growth) -> String {
    let mut activations: Vec<Activation> = Vec::new();
    for set in &growth.sets {
        if !activations.contains(&set.activation) {
            activations.push(set.activation);
        }
    }
    let names: Vec<String> = activations.iter().map(|a| a.op().to_lowercase()).collect();
    let of = |connection: Connection| growth.sets.iter().filter(move |s| s.connection == connection);
    let (each, shared) = (of(Connection::Neuron).count(), of(Connection::Layer).map(|s| s.width).sum::<usize>());
    let dendrites = |n: usize| format!("{} {}", grouped(n as u64), if n == 1 { "dendrite" } else { "dendrites" });
    let mut kinds = Vec::new();
    kinds.extend((each > 0).then(|| format!("{} a neuron", dendrites(each))));
    kinds.extend((shared > 0).then(|| format!("{} for the layer", dendrites(shared))));
    let untrained = if growth.untrained { ", untrained" } else { "" };
    let parameters = grouped(growth.parameters as u64);
    let site = short(&growth.site);
    format!("{site}: {} ({}), {parameters} parameters{untrained}", kinds.join(" and "), names.join(", "))
}

fn sign(before: bool, after: bool, out: &Output) -> String {
    match (before, after) {
        (false, _) => out.good("+"),
        (true, false) => out.bad("-"),
        (true, true) => "~".to_owned(),
    }
}

fn fact_text(fact: &Fact, out: &Output) -> String {
    let sign = sign(fact.before.is_some(), fact.after.is_some(), out);
    format!("{sign} {}: {}", short(&fact.name), change_text(fact.before.as_deref(), fact.after.as_deref()))
}

fn change_text(before: Option<&str>, after: Option<&str>) -> String {
    match (before, after) {
        (Some(before), Some(after)) => format!("{} -> {}", short(before), short(after)),
        (before, after) => short(before.or(after).unwrap_or_default()),
    }
}

/// A text in one line that is not too long; control characters do not reach the terminal.
fn short(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST + 1).collect();
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// A node in a line, and a line for everything of it that changed.
fn node_text(change: &NodeChange, out: &Output) -> Vec<String> {
    let sign = sign(change.before.is_some(), change.after.is_some(), out);
    let node = |facts: &NodeFacts| match facts.name.as_str() {
        "" => facts.operator.clone(),
        name => format!("{} {}", facts.operator, short(name)),
    };
    let (before, after) = (change.before.as_ref(), change.after.as_ref());
    let what = match (before.map(node), after.map(node)) {
        (Some(before), Some(after)) if before != after => format!("{before} -> {after}"),
        (before, after) => before.or(after).unwrap_or_default(),
    };
    let mut lines = vec![format!("{sign} {}: {what}", short(&change.output))];
    let nothing = "nothing";
    lines.extend(change.inputs.iter().map(|i| {
        let [before, after] = [&i.before, &i.after].map(|v| v.as_deref().map_or(nothing.to_owned(), short));
        format!("    input {}: {before} -> {after}", i.index)
    }));
    lines.extend(change.attributes.iter().map(|a| format!("    {}", fact_text(a, out))));
    lines.extend(change.outputs.iter().map(|(a, b)| format!("    outputs: {} -> {}", a.join(", "), b.join(", "))));
    lines
}

fn constant_type(constant: &Constant) -> String {
    let element = constant.element_type.map_or("unknown", |t| t.name());
    format!("{element}{:?}", constant.shape)
}

fn storage(constant: &Constant) -> &'static str {
    match constant.storage {
        Storage::Initializer => "initializer",
        Storage::InitializerAndInput => "initializer and input",
        Storage::Node => "Constant node",
    }
}

fn constant_text(change: &ConstantChange, out: &Output) -> String {
    let sign = sign(change.before.is_some(), change.after.is_some(), out);
    let text = match (&change.before, &change.after) {
        (Some(a), Some(b)) => {
            let mut parts = Vec::new();
            if (a.element_type, &a.shape) != (b.element_type, &b.shape) {
                parts.push(format!("{} -> {}", constant_type(a), constant_type(b)));
            } else {
                parts.push(constant_type(a));
            }
            if a.storage != b.storage {
                parts.push(format!("{} -> {}", storage(a), storage(b)));
            }
            parts.extend(change.values.as_ref().map(|values| match values.changed {
                Some(n) => format!("{} of {} elements changed", grouped(n as u64), grouped(values.elements as u64)),
                None => "other values".to_owned(),
            }));
            parts.join(", ")
        }
        (a, b) => {
            a.as_ref().or(b.as_ref()).map(|c| format!("{} ({})", constant_type(c), storage(c))).unwrap_or_default()
        }
    };
    format!("{sign} {}: {text}", short(&change.name))
}

/// The weights that have other values: as a whole, and one by one where they are few or it was asked for.
fn weights(rest: &Diff, out: &Output) -> Result<(), Failure> {
    let changed: Vec<&ConstantChange> = rest.changed_weights().collect();
    if changed.is_empty() {
        return Ok(());
    }
    let (n, all) = (grouped(changed.len() as u64), grouped(rest.weights as u64));
    let by = match median(rest) {
        Some(median) if changed.len() > 1 => format!(", by {} of their size in the median", significant(median)),
        _ => String::new(),
    };
    let listed = changed.len() <= FEW_WEIGHTS || out.is_verbose();
    let more = if listed { "" } else { "; -v lists them" };
    out.line(format_args!("{} {n} of {all} changed{by}{more}", out.strong(&format!("{:<11}", "weights"))))?;
    if !listed {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = changed
        .iter()
        .filter_map(|change| {
            let (what, values) = (change.after.as_ref()?, change.values.as_ref()?);
            let elements = values.elements as u64;
            let share = values.changed.map_or("-".to_owned(), |n| share(n as u64, elements));
            let size = values.relative.map_or("-".to_owned(), significant);
            Some(vec![short(&change.name), constant_type(what), grouped(elements), share, size])
        })
        .collect();
    out.line("")?;
    out.table(&["weight", "type", "elements", "changed", "by of its size"], &[2, 3, 4], &rows)
}

/// The relative change that half of the changed weights exceed. A weight that was zero changed by more than any other.
fn median(rest: &Diff) -> Option<f64> {
    let relative = |c: &ConstantChange| c.values.as_ref().map(|v| v.relative.unwrap_or(f64::INFINITY));
    let mut sizes: Vec<f64> = rest.changed_weights().filter_map(relative).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.get(sizes.len().saturating_sub(1) / 2).copied().filter(|m| m.is_finite())
}

/// A number to two digits.
fn significant(n: f64) -> String {
    if n == 0.0 || (1e-3..1e3).contains(&n) {
        let digits = if n >= 10.0 || n == 0.0 { 0 } else { (1.0 - n.log10().floor()) as usize };
        format!("{n:.digits$}")
    } else {
        format!("{n:.1e}")
    }
}

/// A share in percent that is 0 or 100 only where it is exactly that.
fn share(n: u64, of: u64) -> String {
    let percent = 100.0 * n as f64 / of.max(1) as f64;
    match percent.round() as u64 {
        100 if n < of => ">99 %".to_owned(),
        0 if n > 0 => "<1 %".to_owned(),
        rounded => format!("{rounded} %"),
    }
}

// ---- JSON ---------------------------------------------------------------------------------------------------------------

fn facts(args: &Args, found: &Comparison, lineage: Option<&Lineage>, same_bytes: bool) -> Value {
    let rest = &found.rest;
    let list = |facts: &[Fact]| -> Vec<Value> {
        let fact = |f: &Fact| json!({ "name": f.name, "before": f.before, "after": f.after });
        facts.iter().map(fact).collect()
    };
    let growth = |growth: &[Growth]| -> Vec<Value> {
        let one = |g: &Growth| {
            json!({ "site": g.site, "sets": g.sets, "parameters": g.parameters, "untrained": g.untrained })
        };
        growth.iter().map(one).collect()
    };
    json!({
        "a": args.a,
        "b": args.b,
        "equal": found.is_empty(),
        "identical": same_bytes,
        "dendrites": { "added": growth(&found.added), "removed": growth(&found.removed), "suspects": found.suspects },
        "lineage": lineage.map(|l| json!({
            "method": l.said.method, "seed": l.said.seed, "parent": l.said.parent,
            "parent_is_a": l.from_a, "sets_agree": l.sets_agree,
        })),
        "format": list(&rest.format),
        "metadata": list(&rest.metadata),
        "inputs": list(&rest.inputs),
        "outputs": list(&rest.outputs),
        "nodes": rest.nodes.iter().map(|n| node_facts(n, &list(&n.attributes))).collect::<Vec<_>>(),
        "weights": {
            "compared": rest.weights,
            "changed": rest.changed_weights().count(),
            "median_relative_change": median(rest),
        },
        "constants": rest.constants.iter().map(constant_facts).collect::<Vec<_>>(),
        "other": list(&rest.other),
    })
}

fn node_facts(change: &NodeChange, attributes: &[Value]) -> Value {
    let node = |facts: &Option<NodeFacts>| {
        facts.as_ref().map(|facts| json!({ "operator": facts.operator, "name": facts.name }))
    };
    let input = |i: &dendrite_onnx::diff::InputChange| json!({ "index": i.index, "before": i.before, "after": i.after });
    json!({
        "output": change.output,
        "before": node(&change.before),
        "after": node(&change.after),
        "inputs": change.inputs.iter().map(input).collect::<Vec<_>>(),
        "attributes": attributes,
        "outputs": change.outputs.as_ref().map(|(before, after)| json!({ "before": before, "after": after })),
    })
}

fn constant_facts(change: &ConstantChange) -> Value {
    let constant = |c: &Option<Constant>| {
        c.as_ref().map(|c| {
            json!({ "storage": storage(c), "element_type": c.element_type.map(|t| t.name()), "shape": c.shape })
        })
    };
    json!({
        "name": change.name,
        "before": constant(&change.before),
        "after": constant(&change.after),
        "values": change.values.as_ref().map(|v| json!({
            "elements": v.elements, "changed": v.changed, "relative_change": v.relative,
        })),
    })
}
