//! Sequences of classes that scores of steps spell, as the connectionist temporal classification reads them.

use crate::classes::Classes;

/// How sequences are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequences {
    /// The class that stands for none.
    pub blank: i64,
    /// The number behind the last class of a target.
    pub padding: i64,
}

impl Sequences {
    /// The classes of a target up to its padding.
    pub(crate) fn target(self, row: &[i64]) -> &[i64] {
        let end = row.iter().position(|class| *class == self.padding).unwrap_or(row.len());
        &row[..end]
    }

    /// What the best class of every step spells: equal neighbours are one, blanks are none.
    pub(crate) fn spelt(self, row: &[f32], classes: Classes) -> Vec<i64> {
        let best = |step: usize| {
            let first = (0, f32::NEG_INFINITY);
            let scores = classes.scores(row, step).enumerate();
            scores.fold(first, |best, (class, score)| if score > best.1 { (class, score) } else { best }).0 as i64
        };
        let mut spelt: Vec<i64> = (0..classes.positions(row.len())).map(best).collect();
        spelt.dedup();
        spelt.retain(|class| *class != self.blank);
        spelt
    }

    /// The fewest steps that spell `classes`: equal ones have a blank between them.
    pub(crate) fn steps(classes: &[i64]) -> usize {
        classes.len() + classes.windows(2).filter(|pair| pair[0] == pair[1]).count()
    }
}

/// The fewest classes that are to be left out, put in or exchanged to make one sequence of the other (Levenshtein's distance).
pub(crate) fn edits(a: &[i64], b: &[i64]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let exchanged = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits(&[], &[1, 2]), 2);
        assert_eq!(edits(&[1, 2, 3], &[1, 2, 3]), 0);
        // kitten, sitting
        assert_eq!(edits(&[10, 8, 19, 19, 4, 13], &[18, 8, 19, 19, 8, 13, 6]), 3);
    }

    #[test]
    fn equal_neighbours_are_one_and_blanks_are_none() {
        let sequences = Sequences { blank: 0, padding: -1 };
        // Steps first: 1 1 0 1 2.
        let row = [0.0, 1.0, 0.0, 0.0, 2.0, 1.0, 3.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        assert_eq!(sequences.spelt(&row, Classes::of(&[5, 3], 1)), [1, 1, 2]);
        assert_eq!(sequences.target(&[1, 1, 2, -1, -1]), [1, 1, 2]);
        assert_eq!(Sequences::steps(&[1, 1, 2]), 4);
    }
}
