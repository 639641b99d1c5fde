//! Which weights train where the sites of a graph do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Case, cases, file, recurrent_cases, tied_cases, working};
use dendrites::trainable::{Train, trained};

/// The names of the weights that train with the sites, and with the last one.
fn names(list: Vec<Case>, case: &str) -> [Vec<String>; 2] {
    let case = list.into_iter().find(|c| c.name == case).unwrap();
    let (graph, sites) = working(&file(&case.graph));
    [Train::Sites, Train::Head].map(|train| {
        let found = trained(&graph, &sites, &train).unwrap();
        found.into_iter().map(|v| graph.name_of(v).to_owned()).collect()
    })
}

#[test]
fn a_site_trains_with_all_that_belongs_to_it() {
    let both = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        [names.clone(), names]
    };
    // Weights, bias, scale and shift of the normalisation.
    assert_eq!(names(cases(), "transposed conv and batch normalisation"), both(&["b", "s", "t", "w"]));
    assert_eq!(names(cases(), "transposed conv2d dilated, bias behind"), both(&["b", "w"]));
    // The shared weights, and the bias of each operation.
    assert_eq!(names(tied_cases(true), "branches with biases of their own"), both(&["bias_a", "bias_b", "w"]));
    assert_eq!(names(tied_cases(true), "weights transposed at each operation"), both(&["w"]));
    // Both matrices, the bias and the peepholes; initial states are none.
    assert_eq!(names(recurrent_cases(), "a bidirectional LSTM with everything"), both(&["b", "p", "r", "w"]));
    // The last of several sites is the head.
    let [sites, head] = names(tied_cases(true), "an unrolled recurrent network");
    assert_eq!((sites, head), (vec!["b".to_owned(), "u".to_owned(), "w".to_owned()], vec!["u".to_owned()]));
}
