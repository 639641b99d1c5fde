//! What is wrong with a model: every finding with its place and, where there is one, its remedy.
//!
//! What cannot be decoded at all (truncation, text that is not UTF-8, excessive nesting) is an error of
//! [`Model::open`](crate::Model::open) instead. Shapes and types that follow from computation are the runtime's to check.

mod scope;
mod values;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    path::PathBuf,
};

use crate::{
    error::Error,
    external,
    model::Model,
    proto::{FunctionProto, ModelProto, TensorProto},
};

/// How many findings are listed; a file full of errors has no more to say.
const MAX_FINDINGS: usize = 1000;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The model is valid, but something about it is odd or will be ignored.
    Warning,
    /// The model is not valid, or not supported.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where it is: `graph 'main', node 3 'conv1' (Conv)`.
    pub place: String,
    /// What it is.
    pub message: String,
    /// What the user can do, where something is known.
    pub hint: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, self.place, self.message)
    }
}

/// Every finding in a model (the first thousand), errors before warnings. A valid model has none of severity error.
pub fn check(model: &Model) -> Vec<Finding> {
    let mut checker = Checker { model, findings: Vec::new() };
    checker.versions();
    checker.metadata();
    checker.unknown();
    checker.functions();
    let imports = imports(&model.proto().opset_import);
    scope::main_graph(&mut checker, &imports);
    checker.shared_bytes();
    let mut findings = checker.findings;
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity)); // stable: the order of the file within a severity
    findings
}

/// Opset versions by domain, the standard one under its empty name.
type Imports = HashMap<String, i64>;

fn imports(opsets: &[crate::proto::OperatorSetIdProto]) -> Imports {
    opsets.iter().map(|o| (domain(o.domain()).to_owned(), o.version())).collect()
}

/// The standard domain has two spellings.
fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

struct Checker<'a> {
    model: &'a Model,
    findings: Vec<Finding>,
}

impl<'a> Checker<'a> {
    fn error(&mut self, place: &str, message: impl Into<String>, hint: &str) {
        self.find(Severity::Error, place, message.into(), hint);
    }

    fn warn(&mut self, place: &str, message: impl Into<String>, hint: &str) {
        self.find(Severity::Warning, place, message.into(), hint);
    }

    fn find(&mut self, severity: Severity, place: &str, message: String, hint: &str) {
        if self.findings.len() < MAX_FINDINGS {
            let hint = (!hint.is_empty()).then(|| hint.to_owned());
            self.findings.push(Finding { severity, place: place.to_owned(), message, hint });
        }
    }

    fn proto(&self) -> &'a ModelProto {
        self.model.proto()
    }

    fn versions(&mut self) {
        if let Err(error) = self.model.support() {
            let hint = error.hint().unwrap_or_default().to_owned();
            self.error("model", error.to_string(), &hint);
        }
        let mut seen = HashMap::new();
        for opset in &self.proto().opset_import {
            let name = domain(opset.domain());
            let place = format!("opset import '{}'", opset.domain());
            match seen.insert(name, opset.version()) {
                Some(other) if other != opset.version() => {
                    let message = format!("imported as version {other} and as {}", opset.version());
                    self.error(&place, message, "import each domain once");
                }
                Some(_) => self.warn(&place, "imported twice", "import each domain once"),
                None => {}
            }
            if opset.version() < 1 {
                self.error(&place, format!("version {} does not exist", opset.version()), "");
            }
        }
    }

    fn metadata(&mut self) {
        let mut seen = HashSet::new();
        for entry in &self.proto().metadata_props {
            let place = format!("metadata '{}'", entry.key());
            if !seen.insert(entry.key()) {
                self.warn(&place, "the key occurs more than once", "readers differ in which value they take");
            }
        }
    }

    fn unknown(&mut self) {
        let model = self.model;
        for field in model.unknown_fields() {
            let message = format!("field {} ({} bytes) is not known to ONNX", field.number, field.length);
            self.warn(&field.place, message, "it is ignored, and kept where the model is edited");
        }
    }

    fn functions(&mut self) {
        let functions = &self.proto().functions;
        let key = |f: &FunctionProto| (domain(f.domain()).to_owned(), f.name().to_owned(), f.overload().to_owned());
        let mut index = HashMap::new();
        for (i, function) in functions.iter().enumerate() {
            let place = function_place(function);
            if function.name().is_empty() {
                self.error(&format!("function {i}"), "it has no name", "");
            }
            if index.insert(key(function), i).is_some() {
                self.error(&place, "it is defined more than once", "");
            }
            scope::function(self, function, &place);
        }
        // Calls among functions must not go in circles: remove functions that call none that is left until none changes.
        let mut callers = vec![Vec::new(); functions.len()];
        let mut calls = vec![0usize; functions.len()];
        for (i, function) in functions.iter().enumerate() {
            let callees: HashSet<usize> = function
                .node
                .iter()
                .filter_map(|n| {
                    let key = (domain(n.domain()).to_owned(), n.op_type().to_owned(), n.overload().to_owned());
                    index.get(&key).copied()
                })
                .collect();
            if let Some(slot) = calls.get_mut(i) {
                *slot = callees.len();
            }
            for callee in callees {
                if let Some(list) = callers.get_mut(callee) {
                    list.push(i);
                }
            }
        }
        for i in circular(&mut calls, &callers) {
            if let Some(function) = functions.get(i) {
                self.error(&function_place(function), "it calls itself, directly or through others", "");
            }
        }
    }

    /// A tensor's message agrees with its bytes.
    fn tensor(&mut self, tensor: &TensorProto, place: &str) {
        let fields = [
            tensor.raw_data.is_some() && !external::is_external(tensor),
            !tensor.float_data.is_empty(),
            !tensor.int32_data.is_empty(),
            !tensor.string_data.is_empty(),
            !tensor.int64_data.is_empty(),
            !tensor.double_data.is_empty(),
            !tensor.uint64_data.is_empty(),
            external::is_external(tensor),
        ];
        if fields.iter().filter(|f| **f).count() > 1 {
            self.error(place, "its elements are stored in more than one field", "keep one of them");
        }
        if tensor.segment.is_some() {
            self.error(place, "it is a segment of a tensor", "store the tensor whole");
        }
        match self.model.tensor(tensor) {
            Ok(_) => {}
            Err(Error::Tensor { reason, .. }) => self.error(place, reason, ""),
            Err(Error::External { location, reason, hint, .. }) => {
                self.error(place, format!("external data '{location}': {reason}"), &hint);
            }
            Err(error) => self.error(place, error.to_string(), error.hint().unwrap_or_default()),
        }
    }

    /// External tensors that share some, but not all, of their bytes.
    fn shared_bytes(&mut self) {
        let mut files: BTreeMap<PathBuf, Vec<(u64, u64, &str)>> = BTreeMap::new();
        let model = self.model;
        model.visit_tensors(&mut |tensor| {
            if external::is_external(tensor)
                && let (Ok(reference), Ok(contents)) = (external::reference(tensor), model.tensor(tensor))
            {
                let range = (reference.offset, reference.offset + contents.bytes().len() as u64, tensor.name());
                files.entry(reference.location).or_default().push(range);
            }
        });
        for (location, mut ranges) in files {
            ranges.sort_unstable();
            let mut reach: Option<(u64, u64, &str)> = None;
            for range in ranges {
                if let Some(before) = reach
                    && range.0 < before.1
                    && (range.0, range.1) != (before.0, before.1)
                {
                    let message = format!("it shares bytes of {} with tensor '{}'", location.display(), before.2);
                    self.warn(&format!("tensor '{}'", range.2), message, "the file may be damaged; export it again");
                }
                if reach.is_none_or(|before| range.1 > before.1) {
                    reach = Some(range);
                }
            }
        }
    }
}

fn function_place(function: &FunctionProto) -> String {
    match function.domain() {
        "" => format!("function '{}'", function.name()),
        domain => format!("function '{domain}.{}'", function.name()),
    }
}

/// The things that wait for each other. `waits` counts for each what it waits for, `waiting` lists what waits for it.
fn circular(waits: &mut [usize], waiting: &[Vec<usize>]) -> Vec<usize> {
    let mut ready: Vec<usize> = (0..waits.len()).filter(|i| waits.get(*i) == Some(&0)).collect();
    while let Some(done) = ready.pop() {
        for other in waiting.get(done).into_iter().flatten() {
            if let Some(count) = waits.get_mut(*other) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    ready.push(*other);
                }
            }
        }
    }
    // What is left is on a circle or waits for one. Drop, from the ends, what nothing that is left waits for.
    let mut left: HashSet<usize> = (0..waits.len()).filter(|i| waits.get(*i).is_some_and(|n| *n > 0)).collect();
    let mut sources: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut wanted: HashMap<usize, usize> = left.iter().map(|i| (*i, 0)).collect();
    for (i, others) in waiting.iter().enumerate().filter(|(i, _)| left.contains(i)) {
        for other in others.iter().filter(|o| left.contains(o)) {
            sources.entry(*other).or_default().push(i);
            *wanted.entry(i).or_default() += 1;
        }
    }
    let mut ends: Vec<usize> = wanted.iter().filter(|(_, n)| **n == 0).map(|(i, _)| *i).collect();
    while let Some(end) = ends.pop() {
        left.remove(&end);
        for source in sources.remove(&end).unwrap_or_default() {
            let count = wanted.entry(source).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                ends.push(source);
            }
        }
    }
    let mut circle: Vec<usize> = left.into_iter().collect();
    circle.sort_unstable();
    circle
}
