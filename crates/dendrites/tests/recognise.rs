//! Dendrites in a file are recognised as what was inserted, and nothing else is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Random, cases, file, models, patched, recurrent_cases, sets, tensors, tied_cases, working};
use dendrite_onnx::{
    Model, Tensor,
    proto::{GraphProto, ModelProto},
};
use dendrites::{Activation, Comparison, Connection, DendriteSet, Site, compare, recognise};
use prost::Message;

const ACTIVATIONS: [Activation; 3] = [Activation::Relu, Activation::Tanh, Activation::Sigmoid];

/// Sets at every site: one connection, or both in turn.
fn variants(sites: &[Site]) -> Vec<Vec<DendriteSet>> {
    let mut all = Vec::new();
    for (turn, activation) in ACTIVATIONS.into_iter().enumerate() {
        for connection in [Connection::Neuron, Connection::Layer] {
            all.push(sets(sites, connection, turn + 1, activation));
        }
    }
    let mut mixed = sets(sites, Connection::Neuron, 4, Activation::Relu);
    let layer = sets(sites, Connection::Layer, 1, Activation::Tanh);
    for set in mixed.iter_mut().filter(|s| s.index == 1) {
        let of_site = layer.iter().find(|l| l.site == set.site).unwrap();
        *set = DendriteSet { index: 1, ..of_site.clone() };
    }
    all.push(mixed);
    all
}

fn by_site(mut sets: Vec<DendriteSet>) -> Vec<DendriteSet> {
    sets.sort_by(|a, b| (&a.site, a.index).cmp(&(&b.site, b.index)));
    sets
}

fn added(found: &Comparison) -> Vec<DendriteSet> {
    by_site(found.added.iter().flat_map(|g| g.sets.clone()).collect())
}

fn grown(model: &Model, connection: Connection, count: usize, connected: bool) -> (Model, Vec<DendriteSet>) {
    let (graph, sites) = working(model);
    let sets = sets(&sites, connection, count, Activation::Relu);
    let weights = tensors(&sites, &sets, &mut Random::new(3), connected);
    (Model::from_bytes(patched(model, &graph, &sites, &sets, &weights)).unwrap(), by_site(sets))
}

fn all() -> Vec<(String, Model)> {
    let mut all = models();
    all.extend(
        cases()
            .into_iter()
            .chain(tied_cases(true))
            .chain(recurrent_cases())
            .map(|case| (case.name.to_owned(), file(&case.graph))),
    );
    all
}

#[test]
fn what_was_inserted_is_what_is_recognised_and_nothing_else_differs() {
    for (name, model) in all() {
        assert_eq!(recognise(&model).unwrap(), [], "{name}");
        let (graph, sites) = working(&model);
        for sets in variants(&sites) {
            let weights = tensors(&sites, &sets, &mut Random::new(1), true);
            let other = Model::from_bytes(patched(&model, &graph, &sites, &sets, &weights)).unwrap();
            let found = compare(&model, &other).unwrap();
            assert_eq!(added(&found), by_site(sets.clone()), "{name}");
            assert!(
                found.rest.is_empty() && found.removed.is_empty() && found.suspects.is_empty(),
                "{name}: {found:?}"
            );
            assert!(found.added.iter().all(|g| !g.untrained), "{name}");
            let parameters: usize = found.added.iter().map(|g| g.parameters).sum();
            assert_eq!(parameters, weights.values().map(Tensor::len).sum::<usize>(), "{name}");
            let back = compare(&other, &model).unwrap();
            assert_eq!((back.added.len(), &back.removed), (0, &found.added), "{name}");
            assert!(back.rest.is_empty(), "{name}: {back:?}");
            assert!(compare(&other, &other).unwrap().is_empty(), "{name}");
        }
    }
}

#[test]
fn connections_that_are_zero_are_untrained() {
    for (name, model) in all() {
        let (other, _) = grown(&model, Connection::Layer, 1, false);
        let found = compare(&model, &other).unwrap();
        assert!(found.added.iter().all(|g| g.untrained) && !found.added.is_empty(), "{name}");
    }
}

#[test]
fn dendrites_on_dendrites_are_recognised_in_their_order() {
    for (name, model) in all() {
        let (once, first) = grown(&model, Connection::Neuron, 2, true);
        let (twice, second) = grown(&once, Connection::Layer, 1, true);
        let step = compare(&once, &twice).unwrap();
        assert_eq!(added(&step), second, "{name}");
        assert!(step.rest.is_empty(), "{name}: {:?}", step.rest);
        let whole = compare(&model, &twice).unwrap();
        assert_eq!(added(&whole), by_site([first, second].concat()), "{name}");
        assert!(whole.rest.is_empty() && whole.suspects.is_empty(), "{name}: {:?}", whole.rest);
    }
}

#[test]
fn more_sets_at_a_grown_site_are_what_was_added() {
    for (name, model) in all() {
        for connection in [Connection::Neuron, Connection::Layer] {
            let ((one, first), (three, all)) = (grown(&model, connection, 1, true), grown(&model, connection, 3, true));
            let found = compare(&one, &three).unwrap();
            let more: Vec<DendriteSet> = all.into_iter().filter(|s| !first.contains(s)).collect();
            assert_eq!(added(&found), more, "{name}");
            // Sets that both have carry other random weights; everything that computes is the same.
            assert!(found.rest.nodes.is_empty() && found.removed.is_empty(), "{name}: {:?}", found.rest.nodes);
            assert_eq!(found.rest.constants.len(), found.rest.changed_weights().count(), "{name}");
        }
    }
}

/// Dendrites at the site of a small model, tampered with.
fn tampered(edit: impl FnOnce(&mut GraphProto)) -> Comparison {
    let case = cases().into_iter().find(|c| c.name == "gemm transposed").unwrap();
    let model = file(&case.graph);
    let (other, _) = grown(&model, Connection::Neuron, 2, true);
    let mut proto: ModelProto = other.proto().clone();
    edit(proto.graph.as_mut().unwrap());
    compare(&model, &Model::from_bytes(proto.encode_to_vec()).unwrap()).unwrap()
}

#[test]
fn what_is_only_named_like_dendrites_is_an_ordinary_change() {
    type Edit = fn(&mut GraphProto);
    fn node<'a>(graph: &'a mut GraphProto, output: &str) -> &'a mut dendrite_onnx::proto::NodeProto {
        graph.node.iter_mut().find(|n| n.output[0] == output).unwrap()
    }
    assert_eq!(tampered(|_| {}).added.len(), 1);
    let edits: [(&str, Edit); 8] = [
        ("another non-linearity", |g| node(g, "h/dendrite_0/activation").op_type = Some("Abs".to_owned())),
        ("a non-linearity of another domain", |g| node(g, "h/dendrite_0/activation").domain = Some("mine".to_owned())),
        ("another input", |g| node(g, "h/dendrite_1/gemm").input[0] = "h/main".to_owned()),
        ("another attribute", |g| node(g, "h/dendrite_1/gemm").attribute.clear()),
        ("no cascade", |g| node(g, "h/dendrite_1/activation").input[0] = "h/dendrite_1/gemm".to_owned()),
        ("another sum", |g| node(g, "h").op_type = Some("Sub".to_owned())),
        ("a reader beside it", |g| {
            let mut reader = node(g, "y").clone();
            (reader.input[0], reader.output[0]) = ("h/dendrite_0/activation".to_owned(), "z".to_owned());
            g.node.push(reader);
        }),
        ("another shape", |g| {
            let connection = g.initializer.iter_mut().find(|t| t.name() == "h/dendrite_0/connection").unwrap();
            *connection = Tensor::from_f32(&[3], &[1.0; 3]).to_proto("h/dendrite_0/connection");
        }),
    ];
    for (what, edit) in edits {
        let found = tampered(edit);
        assert!(found.added.is_empty(), "{what}: {found:?}");
        assert!(!found.rest.nodes.is_empty(), "{what}");
        assert_eq!(found.suspects, ["h"], "{what}");
    }
}

/// Dendrites that several operations share are recognised at all of them or not at all.
#[test]
fn shared_dendrites_are_recognised_where_all_of_them_stand() {
    let case = tied_cases(true).remove(0);
    let model = file(&case.graph);
    let (_, sites) = working(&model);
    let outputs: Vec<&str> = sites[0].applications.iter().map(|a| a.name.as_str()).collect();
    let [first, second] = outputs[..] else { panic!("{outputs:?}") };
    let (other, _) = grown(&model, Connection::Layer, 1, true);
    let changed = |edit: &dyn Fn(&mut GraphProto)| {
        let mut proto: ModelProto = other.proto().clone();
        edit(proto.graph.as_mut().unwrap());
        compare(&model, &Model::from_bytes(proto.encode_to_vec()).unwrap()).unwrap()
    };
    assert_eq!(changed(&|_| {}).added.len(), 1);
    for at in [first, second] {
        let found = changed(&|graph| {
            let name = format!("{at}/dendrite_0/activation");
            graph.node.iter_mut().find(|n| n.output[0] == name).unwrap().op_type = Some("Abs".to_owned());
        });
        assert!(found.added.is_empty(), "{at}: {found:?}");
        assert_eq!(found.suspects, [first, second], "{at}");
    }
}

/// Dendrites of a recurrent operator are what it reads itself, and nobody else.
#[test]
fn features_are_recognised_where_a_recurrent_operator_reads_them() {
    type Edit = fn(&mut GraphProto);
    fn node<'a>(graph: &'a mut GraphProto, output: &str) -> &'a mut dendrite_onnx::proto::NodeProto {
        graph.node.iter_mut().find(|n| n.output[0] == output).unwrap()
    }
    let model = file(&recurrent_cases()[3].graph);
    let (other, _) = grown(&model, Connection::Layer, 2, true);
    let changed = |edit: Edit| {
        let mut proto: ModelProto = other.proto().clone();
        edit(proto.graph.as_mut().unwrap());
        compare(&model, &Model::from_bytes(proto.encode_to_vec()).unwrap()).unwrap()
    };
    assert_eq!(changed(|_| {}).added.len(), 1);
    let edits: [(&str, Edit); 7] = [
        ("another non-linearity", |g| node(g, "h/dendrite_0/activation").op_type = Some("Abs".to_owned())),
        ("another input", |g| node(g, "h/dendrite_1/matmul").input[0] = "h/dendrite_0/extended_input".to_owned()),
        ("weights of one set alone", |g| node(g, "h").input[1] = "h/dendrite_0/extended_weight".to_owned()),
        ("features of one set alone", |g| node(g, "h").input[0] = "h/dendrite_0/extended_input".to_owned()),
        ("another axis", |g| node(g, "h/dendrite_0/extended_weight").attribute[0].i = Some(1)),
        ("an operator of another domain", |g| node(g, "h").domain = Some("mine".to_owned())),
        ("a reader beside it", |g| {
            let mut reader = node(g, "h/dendrite_0/activation").clone();
            (reader.input[0], reader.output[0]) = ("h/dendrite_1/extended_input".to_owned(), "z".to_owned());
            g.node.push(reader);
        }),
    ];
    for (what, edit) in edits {
        let found = changed(edit);
        assert!(found.added.is_empty(), "{what}: {found:?}");
        assert_eq!(found.suspects, ["h"], "{what}");
    }
}
