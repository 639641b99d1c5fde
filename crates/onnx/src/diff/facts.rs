//! What a file says in words and numbers, by name.

use std::collections::{BTreeMap, HashSet};

use crate::{
    diff::Fact,
    graph::read_shape,
    model::Model,
    proto::{
        GraphProto, ModelProto, StringStringEntryProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto::Value,
    },
    tensor::ElementType,
};

/// The entries of two lists by name, where they differ; in order of the first list, then of the second.
pub(super) fn by_name(before: Vec<(String, String)>, after: Vec<(String, String)>) -> Vec<Fact> {
    let find = |list: &[(String, String)]| -> BTreeMap<String, String> { list.iter().cloned().collect() };
    let (old, new) = (find(&before), find(&after));
    let mut seen = HashSet::new();
    let names = before.into_iter().chain(after).map(|(name, _)| name);
    names
        .filter(|name| seen.insert(name.clone()))
        .filter(|name| old.get(name) != new.get(name))
        .map(|name| Fact { before: old.get(&name).cloned(), after: new.get(&name).cloned(), name })
        .collect()
}

pub(super) fn format(a: &Model, b: &Model) -> Vec<Fact> {
    let facts = |model: &Model| {
        let proto = model.proto();
        let mut facts: Vec<(String, String)> = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            facts.extend(value.filter(|v| !v.is_empty()).map(|value| (name.to_owned(), value)));
        };
        add("IR version", proto.ir_version.map(|v| v.to_string()));
        for opset in &proto.opset_import {
            let domain = if opset.domain().is_empty() { "ai.onnx" } else { opset.domain() };
            add(&format!("opset {domain}"), Some(opset.version().to_string()));
        }
        add("producer", proto.producer_name.clone());
        add("producer version", proto.producer_version.clone());
        add("domain", proto.domain.clone());
        add("model version", proto.model_version.map(|v| v.to_string()));
        add("graph name", proto.graph.as_ref().and_then(|g| g.name.clone()));
        facts
    };
    by_name(facts(a), facts(b))
}

pub(super) fn metadata(a: &Model, b: &Model) -> Vec<Fact> {
    let entries = |list: &[StringStringEntryProto], prefix: &str| -> Vec<(String, String)> {
        list.iter().map(|e| (format!("{prefix}{}", e.key()), e.value().to_owned())).collect()
    };
    let all = |model: &Model| {
        let mut all = entries(&model.proto().metadata_props, "");
        all.extend(entries(&model.graph().metadata_props, "graph: "));
        all
    };
    by_name(all(a), all(b))
}

pub(super) fn inputs(a: &Model, b: &Model) -> Vec<Fact> {
    ports(a, b, |graph| {
        let constants: HashSet<&str> = graph.initializer.iter().map(|t| t.name()).collect();
        graph.input.iter().filter(|i| !constants.contains(i.name())).collect()
    })
}

pub(super) fn outputs(a: &Model, b: &Model) -> Vec<Fact> {
    ports(a, b, |graph| graph.output.iter().collect())
}

/// The ports by name, and their order where that is all that differs: they may be fed and fetched by position.
fn ports(a: &Model, b: &Model, of: impl Fn(&GraphProto) -> Vec<&ValueInfoProto>) -> Vec<Fact> {
    let (before, after) = (of(a.graph()), of(b.graph()));
    let list = |ports: &[&ValueInfoProto]| -> Vec<(String, String)> {
        ports.iter().map(|p| (p.name().to_owned(), type_text(p.r#type.as_ref()))).collect()
    };
    let mut facts = by_name(list(&before), list(&after));
    let names = |ports: &[&ValueInfoProto]| ports.iter().map(|p| p.name().to_owned()).collect::<Vec<_>>();
    let (old, new) = (names(&before), names(&after));
    let kept = |list: &[String], other: &[String]| -> Vec<String> {
        list.iter().filter(|name| other.contains(name)).cloned().collect()
    };
    let (old, new) = (kept(&old, &new), kept(&new, &old));
    if old != new {
        facts.push(Fact { name: "order".to_owned(), before: Some(old.join(", ")), after: Some(new.join(", ")) });
    }
    facts
}

/// What a file holds beside all that, each part as a whole.
pub(super) fn other(a: &Model, b: &Model) -> Vec<Fact> {
    let functions = |model: &Model| -> Vec<(String, String)> {
        let functions = &model.proto().functions;
        functions.iter().map(|f| (format!("{}.{}", f.domain(), f.name()), String::new())).collect()
    };
    let mut facts: Vec<Fact> = by_name(functions(a), functions(b))
        .into_iter()
        .map(|f| Fact {
            name: format!("function {}", f.name),
            before: f.before.map(|_| "present".to_owned()),
            after: f.after.map(|_| "present".to_owned()),
        })
        .collect();
    for function in &a.proto().functions {
        let same = |f: &&crate::proto::FunctionProto| {
            (f.domain(), f.name(), f.overload()) == (function.domain(), function.name(), function.overload())
        };
        if b.proto().functions.iter().find(same).is_some_and(|f| f != function) {
            let nodes = |n: usize| Some(format!("{n} nodes"));
            let after = b.proto().functions.iter().find(same).map_or(0, |f| f.node.len());
            let name = format!("function {}.{}", function.domain(), function.name());
            facts.push(Fact { name, before: nodes(function.node.len()), after: nodes(after) });
        }
    }
    facts.extend(by_name(declared(a.graph()), declared(b.graph())).into_iter().filter_map(|fact| {
        // A declared type that one of the files leaves out follows from the nodes.
        let both = fact.before.is_some() && fact.after.is_some();
        both.then(|| Fact { name: format!("type of value '{}'", fact.name), ..fact })
    }));
    let mut whole = |name: &str, differs: bool, before: usize, after: usize| {
        if differs {
            let entries = |n: usize| (n > 0).then(|| format!("{n} {}", if n == 1 { "entry" } else { "entries" }));
            facts.push(Fact { name: name.to_owned(), before: entries(before), after: entries(after) });
        }
    };
    let (p, q): (&ModelProto, &ModelProto) = (a.proto(), b.proto());
    let (g, h) = (a.graph(), b.graph());
    whole(
        "sparse initializers",
        g.sparse_initializer != h.sparse_initializer,
        g.sparse_initializer.len(),
        h.sparse_initializer.len(),
    );
    whole(
        "quantisation annotations",
        g.quantization_annotation != h.quantization_annotation,
        g.quantization_annotation.len(),
        h.quantization_annotation.len(),
    );
    whole("training information", p.training_info != q.training_info, p.training_info.len(), q.training_info.len());
    whole("device configurations", p.configuration != q.configuration, p.configuration.len(), q.configuration.len());
    let text =
        |model: &Model| usize::from(!(model.proto().doc_string().is_empty() && model.graph().doc_string().is_empty()));
    let documented = (p.doc_string(), g.doc_string()) != (q.doc_string(), h.doc_string());
    whole("documentation", documented, text(a), text(b));
    let (before, after) = (a.unknown_fields(), b.unknown_fields());
    whole("fields that are not ONNX's", before != after, before.len(), after.len());
    facts
}

/// The declared types of values in between.
fn declared(graph: &GraphProto) -> Vec<(String, String)> {
    graph.value_info.iter().map(|v| (v.name().to_owned(), type_text(v.r#type.as_ref()))).collect()
}

/// A type in words.
fn type_text(proto: Option<&TypeProto>) -> String {
    let element = |code: Option<i32>| match ElementType::from_code(code.unwrap_or(0)) {
        Some(known) => known.name().to_owned(),
        None => format!("type {}", code.unwrap_or(0)),
    };
    let shape = |shape: &Option<TensorShapeProto>| match shape {
        Some(shape) => read_shape(shape).to_string(),
        None => " of unknown rank".to_owned(),
    };
    match proto.and_then(|t| t.value.as_ref()) {
        None => "of unknown type".to_owned(),
        Some(Value::TensorType(t)) => element(t.elem_type) + &shape(&t.shape),
        Some(Value::SparseTensorType(t)) => format!("sparse {}{}", element(t.elem_type), shape(&t.shape)),
        Some(Value::SequenceType(s)) => format!("sequence of {}", type_text(s.elem_type.as_deref())),
        Some(Value::OptionalType(o)) => format!("optional {}", type_text(o.elem_type.as_deref())),
        Some(Value::MapType(m)) => format!("map of {} to {}", element(m.key_type), type_text(m.value_type.as_deref())),
        Some(Value::OpaqueType(o)) => format!("opaque {}.{}", o.domain(), o.name()),
    }
}
