//! Seeded random cases of every operator that can be differentiated: shapes, attributes, broadcasting, empty and rank-0
//! tensors, and sizes that are not known when the gradient is built.
//!
//! The runtime's own operator is differentiated by central differences along random directions, in float64 where it has such
//! a kernel, and the gradient is held to them: 1e-5 in float64, 2e-3 in float32.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod case;
#[path = "../common/mod.rs"]
mod common;
mod draw;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use case::{Case, Known, Table};
use common::cases::{RANDOM_CASES, STRAIGHT_THROUGH};
use draw::Draw;
use verify::{Outcome, verify};

/// No more are tried until `RANDOM_CASES` agree in which some derivative is not zero.
const TRIES: usize = 2 * RANDOM_CASES;

/// A family is a file with a table and a test that runs it.
macro_rules! families {
    ($($family:ident)*) => {
        $(mod $family;)*
        const FAMILIES: &[(&str, Table)] = &[$((stringify!($family), $family::OPERATORS)),*];
        $(#[test]
        fn $family() {
            check(stringify!($family), $family::OPERATORS);
        })*
    };
}

families! {
    activation
    attention
    control
    convolution
    criterion
    elementwise
    image
    indexing
    movement
    normalization
    pooling
    products
    recurrent
    reduction
    quantization
    signal
}

#[test]
fn every_differentiable_operator_has_cases() {
    let named = |(domain, op): (&str, &str)| if domain.is_empty() { op.to_owned() } else { format!("{domain}.{op}") };
    let mut expected: BTreeSet<String> = dendrite_autodiff::differentiable().into_iter().map(named).collect();
    for op in STRAIGHT_THROUGH {
        assert!(expected.remove(op), "{op} is not differentiable");
    }
    let listed: Vec<&str> =
        FAMILIES.iter().flat_map(|(_, t)| t.iter()).flat_map(|(ops, _)| ops.iter().copied()).collect();
    let found: BTreeSet<String> = listed.iter().map(|op| (*op).to_owned()).collect();
    assert_eq!(found.len(), listed.len(), "an operator is listed twice");
    assert_eq!(found, expected);
}

/// What became of an operator's cases.
#[derive(Default)]
struct Tally {
    agree: usize,
    zero: usize,
    kinks: usize,
    tried: usize,
    refusals: BTreeMap<String, usize>,
    /// How many were compared in float64 and in float32, and the largest error in each.
    double: (usize, f64),
    single: (usize, f64),
}

/// Some sizes are not known in seven of sixteen cases.
fn known(number: usize) -> Known {
    match number % 16 {
        2 | 10 => Known::NoBatch,
        4 | 13 => Known::NoActivations,
        6 => Known::Symbols,
        8 | 15 => Known::Nothing,
        _ => Known::Everything,
    }
}

fn tally(op: &str, generate: fn(&mut Draw, &str) -> Case, failures: &mut Vec<String>) -> Tally {
    let mut t = Tally::default();
    while t.tried < TRIES && t.agree < RANDOM_CASES {
        let number = t.tried;
        t.tried += 1;
        let mut r = Draw::new(op, number);
        let case = generate(&mut r, op).partly_fixed(&mut r);
        let mut fail = |reason: &str| {
            failures.push(format!("{op} {number} ({:?}): {reason}\n    {}", known(number), case.describe()));
        };
        match verify(&case, known(number), number % 4 < 2) {
            Outcome::Agrees { double, single, zero } => {
                t.zero += usize::from(zero);
                t.agree += usize::from(!zero);
                for (total, error) in [(&mut t.double, double), (&mut t.single, single)] {
                    if let Some(error) = error {
                        *total = (total.0 + 1, total.1.max(error));
                    }
                }
            }
            Outcome::Refused(reason) => *t.refusals.entry(reason).or_default() += 1,
            Outcome::Kink => t.kinks += 1,
            Outcome::NotRun(reason) => fail(&format!("not run: {reason}")),
            Outcome::Wrong(reason) => fail(&reason),
        }
    }
    t
}

fn check(family: &str, table: Table) {
    let (start, mut failures, mut total) = (Instant::now(), Vec::new(), 0);
    for (ops, generate) in table {
        for op in *ops {
            let started = Instant::now();
            let t = tally(op, *generate, &mut failures);
            let refused: usize = t.refusals.values().sum();
            total += t.agree + t.zero;
            println!(
                "{op}: {} agree and {} of zero, {refused} refused, {} at a kink; {} in float64 up to {:.0e}, {} in float32 up to \
                 {:.0e}; {:.2} s",
                t.agree,
                t.zero,
                t.kinks,
                t.double.0,
                t.double.1,
                t.single.0,
                t.single.1,
                started.elapsed().as_secs_f64()
            );
            t.refusals.iter().for_each(|(reason, count)| println!("    {count} times: {reason}"));
            if t.agree < RANDOM_CASES {
                failures.push(format!("{op}: only {} of {} cases agree", t.agree, t.tried));
            }
            if refused * 2 > t.tried {
                failures.push(format!("{op}: {refused} of {} cases are refused", t.tried));
            }
        }
    }
    println!("{family}: {total} cases in {:.1} s", start.elapsed().as_secs_f64());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
