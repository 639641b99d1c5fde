//! Einstein summation. The gradient of one operand is the product of dy with the others, with the labels exchanged.

use dendrite_onnx::Attributes;

use super::{Answer, Ctx, Table, movement::rank_only};
use crate::{error::Result, expr::V};

pub(super) const RULES: Table = &[(&["Einsum"], einsum)];

/// An equation in letters only: the operands' labels and the result's.
struct Equation {
    terms: Vec<Vec<char>>,
    result: Vec<char>,
}

impl Equation {
    /// The node's equation with its ellipses as letters and its result said.
    fn of(c: &Ctx<'_>) -> Result<Self> {
        let text: String = c.node.attributes.str("equation", "").chars().filter(|l| !l.is_whitespace()).collect();
        let malformed = || c.stop(format!("equation '{text}'"), "`dendrite check` lists every finding in the file");
        let (left, right) = text.split_once("->").map_or((text.as_str(), None), |(l, r)| (l, Some(r)));
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != c.node.inputs.len() {
            return Err(malformed());
        }
        // How many axes each ellipsis stands for; they are aligned at the end.
        let mut lengths = Vec::new();
        for (i, term) in terms.iter().enumerate() {
            let named = term.chars().filter(|l| *l != '.').count();
            let hidden = c.rank(c.x(i)?)?.checked_sub(named).ok_or_else(malformed)?;
            lengths.push(if term.contains("...") { hidden } else { 0 });
        }
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let unused = || ('A'..='Z').chain('a'..='z').filter(|l| !text.contains(*l));
        let hidden: Vec<char> = unused().take(longest).collect();
        if hidden.len() < longest {
            return Err(malformed());
        }
        let letters = |term: &str, length: usize| -> Vec<char> {
            match term.split_once("...") {
                Some((before, after)) => {
                    before.chars().chain(hidden[longest - length..].iter().copied()).chain(after.chars()).collect()
                }
                None => term.chars().collect(),
            }
        };
        let result = match right {
            Some(right) => letters(right, longest),
            None => {
                // The letters that occur once, in alphabetical order.
                let mut once: Vec<char> = left.chars().filter(|l| l.is_alphabetic()).collect();
                once.retain(|l| left.matches(*l).count() == 1);
                once.sort_unstable();
                hidden.iter().copied().chain(once).collect()
            }
        };
        Ok(Equation { terms: terms.iter().zip(lengths).map(|(t, n)| letters(t, n)).collect(), result })
    }
}

fn einsum<'b>(c: &Ctx<'b>, input: usize) -> Result<Answer<'b>> {
    let equation = Equation::of(c)?;
    let x = c.x(input)?;
    let target = &equation.terms[input];
    let mut operands = vec![c.dy(0)?];
    let mut labels: Vec<String> = vec![equation.result.iter().collect()];
    for (i, term) in equation.terms.iter().enumerate().filter(|(i, _)| *i != input) {
        operands.push(c.x(i)?);
        labels.push(term.iter().collect());
    }
    // A letter of this operand alone was summed away: its gradient is the same along that axis.
    let first = |axis: usize| !target[..axis].contains(&target[axis]);
    let found = |axis: usize| labels.iter().any(|t| t.contains(target[axis]));
    let (kept, others): (Vec<usize>, Vec<usize>) = (0..target.len()).partition(|a| first(*a) && found(*a));
    let result: String = kept.iter().map(|axis| target[*axis]).collect();
    let attributes = Attributes::new().with("equation", format!("{}->{result}", labels.join(",")).as_str());
    let product = c.b.node("Einsum", &operands, attributes, x.element_type(), rank_only(kept.len()));
    if others.is_empty() {
        return Ok(Answer::Unreduced(product));
    }
    // Along an ellipsis that was broadcast it is still as wide as the others.
    let spread = product.unsqueeze(&others).expand_like(x).typed(x.element_type(), rank_only(target.len()));
    // A letter that occurs twice in this operand took its diagonal.
    let mut gradient = spread;
    for axis in (0..target.len()).filter(|axis| !first(*axis)) {
        let earlier = target.iter().position(|l| *l == target[axis]).unwrap_or(axis);
        gradient = gradient.only(along(x, axis).compare("Equal", along(x, earlier)));
    }
    Ok(Answer::Unreduced(gradient))
}

/// 0, 1, 2, ... along one axis of the shape of `x`, the others of size 1.
fn along<'b>(x: V<'b>, axis: usize) -> V<'b> {
    x.builder().range(x, axis).unsqueeze(&(0..x.rank().unwrap_or(1)).filter(|a| *a != axis).collect::<Vec<_>>())
}
