//! The schedule of a neuron phase as a state machine without tensors: when weights are taken, when the learning rate drops
//! and when the phase ends. And that of the run: which cycle and attempt come next.

use serde::{Deserialize, Serialize};

use crate::{metric::Metric, summary};

/// Times the learning rate drops before the phase ends.
pub const DROPS: usize = 3;
/// The factor of a drop.
const DROP: f64 = 0.3;
/// Improvement of the validation loss, relative to its size, that resets the patience.
const THRESHOLD: f64 = 1e-3;

/// What the schedule goes by.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Epochs, at most.
    pub epochs: usize,
    /// Epochs without improvement before the rate drops.
    pub patience: usize,
    /// The metric.
    pub metric: Metric,
    /// The best model's metric: weights below it would not be accepted, and are taken only while there are none above it.
    pub floor: f64,
    /// The best model's loss: weights above it would not be accepted.
    pub ceiling: f64,
}

impl Rules {
    /// Whether weights of loss and metric `a` are better than those of `b`: the lower loss, among those whose metric is no
    /// lower than the best model's.
    fn better(&self, a: (f64, f64), b: (f64, f64)) -> bool {
        let acceptable = |metric: f64| !self.metric.worse(metric, self.floor);
        match (acceptable(a.1), acceptable(b.1)) {
            (true, false) => true,
            (false, true) => false,
            _ => a.0 < b.0,
        }
    }

    /// Whether a short trial that ended at loss and metric `a` promises more than one at `b`. One that would be accepted is better than
    /// one that would not: on small data the best metric may come with a loss that has risen. Among those that would, the metric tells
    /// more of what a long training comes to than the loss does; among the others, the loss says which is nearer.
    pub fn more_promising(&self, a: (f64, f64), b: (f64, f64)) -> bool {
        let acceptable = |(loss, metric): (f64, f64)| loss <= self.ceiling && !self.metric.worse(metric, self.floor);
        match (acceptable(a), acceptable(b)) {
            (true, false) => true,
            (false, true) => false,
            (true, true) => self.metric.worse(b.1, a.1) || (a.1 == b.1 && a.0 < b.0),
            (false, false) => a.0 < b.0,
        }
    }
}

/// Where a neuron phase stands.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Progress {
    /// Epochs done.
    pub epoch: usize,
    /// The learning rate; `None` before the search.
    pub lr: Option<f64>,
    /// Drops so far.
    pub drops: usize,
    /// Epochs since the last improvement.
    pub stalled: usize,
    /// Optimizer steps since the moments were zero.
    pub steps: u64,
    /// Loss and metric of the best weights of the phase, once there are any.
    #[serde(deserialize_with = "summary::numbers")]
    pub best: Option<(f64, f64)>,
    /// Whether the phase has ended.
    pub done: bool,
    /// Where the epoch under way stands.
    #[serde(default)]
    pub cursor: Cursor,
}

/// Where an epoch under way stands.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct Cursor {
    /// Batches done.
    pub batches: usize,
    /// Sum of their losses, each by its samples' weight.
    pub loss: f64,
    /// Sum of the norms of their gradients.
    pub norm: f64,
    /// Sum of the weights.
    pub weight: f64,
}

/// What is to be done after an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The current weights are the best: keep them.
    pub take: bool,
    /// Go back to the best weights, moments zero: the rate has dropped.
    pub reload: bool,
}

impl Progress {
    /// A phase at its start.
    pub fn new(lr: Option<f64>) -> Self {
        Progress { epoch: 0, lr, drops: 0, stalled: 0, steps: 0, best: None, done: false, cursor: Cursor::default() }
    }

    /// Record the validation loss and metric after an epoch.
    pub fn record(&mut self, rules: &Rules, loss: f64, metric: f64) -> Step {
        self.epoch += 1;
        self.cursor = Cursor::default();
        let finite = loss.is_finite();
        let take = finite && self.best.is_none_or(|best| rules.better((loss, metric), best));
        // A drift of the loss by less than the threshold is taken, but does not count as progress.
        let progress = take && self.best.is_none_or(|(best, _)| best - loss > THRESHOLD * best.abs());
        if take {
            self.best = Some((loss, metric));
        }
        self.stalled = if progress { 0 } else { self.stalled + 1 };
        let reload = (self.stalled >= rules.patience || !finite) && self.drop_rate();
        if self.epoch >= rules.epochs {
            self.done = true;
        }
        Step { take, reload: reload && !self.done }
    }

    /// Lower the rate, or end the phase if it was lowered often enough.
    fn drop_rate(&mut self) -> bool {
        if self.drops >= DROPS {
            self.done = true;
            return false;
        }
        self.drops += 1;
        self.stalled = 0;
        self.steps = 0;
        self.lr = self.lr.map(|lr| lr * DROP);
        true
    }
}

/// Cycle and attempt of a run. Cycle 0 is the fine-tune without dendrites; it has one attempt and growth goes on whatever
/// comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The cycle.
    pub cycle: usize,
    /// The attempt within it, from 0.
    pub attempt: usize,
}

impl Turn {
    /// What follows a turn that was kept or not; `None` ends the run.
    pub fn next(self, kept: bool, tries: usize, cycles: usize) -> Option<Turn> {
        let next = if kept || self.cycle == 0 {
            Turn { cycle: self.cycle + 1, attempt: 0 }
        } else if self.attempt + 1 < tries {
            Turn { cycle: self.cycle, attempt: self.attempt + 1 }
        } else {
            return None;
        };
        (next.cycle <= cycles).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(metric: Metric, floor: f64) -> Rules {
        Rules { epochs: 100, patience: 2, metric, floor, ceiling: 1.0 }
    }

    /// Feed scores until the phase ends; returns the epochs at which weights were taken and at which the rate dropped.
    fn drive(rules: &Rules, scores: &[(f64, f64)]) -> (Vec<usize>, Vec<usize>, Progress) {
        let mut progress = Progress::new(Some(1.0));
        let (mut taken, mut dropped) = (Vec::new(), Vec::new());
        for (loss, metric) in scores {
            if progress.done {
                break;
            }
            let step = progress.record(rules, *loss, *metric);
            if step.take {
                taken.push(progress.epoch);
            }
            if step.reload {
                dropped.push(progress.epoch);
            }
        }
        (taken, dropped, progress)
    }

    #[test]
    fn the_rate_drops_when_validation_stalls_and_the_phase_ends_after_the_last_drop() {
        let mut scores = vec![(1.0, 0.5), (0.9, 0.6), (0.95, 0.6), (0.95, 0.6), (0.8, 0.7)];
        scores.extend([(0.85, 0.7); 20]);
        let (taken, dropped, progress) = drive(&rules(Metric::Accuracy, 0.5), &scores);
        assert_eq!(taken, [1, 2, 5]);
        assert_eq!(dropped, [4, 7, 9]);
        assert!(progress.done);
        assert_eq!(progress.epoch, 11);
        assert!((progress.lr.unwrap_or(0.0) - 0.027).abs() < 1e-12);
    }

    #[test]
    fn weights_above_the_floor_win_over_a_lower_loss_below_it() {
        let scores = [(0.5, 0.80), (0.7, 0.91), (0.4, 0.85), (0.6, 0.92)];
        let (taken, _, progress) = drive(&rules(Metric::Accuracy, 0.9), &scores);
        assert_eq!(taken, [1, 2, 4]);
        assert_eq!(progress.best, Some((0.6, 0.92)));
    }

    #[test]
    fn a_trial_that_would_be_accepted_promises_more() {
        let accuracy = rules(Metric::Accuracy, 0.7);
        // The loss has risen, the metric has fallen.
        assert!(accuracy.more_promising((0.99, 0.7), (1.3, 0.8)));
        assert!(accuracy.more_promising((0.99, 0.7), (0.5, 0.69)));
        // Both would be accepted: the metric, then the loss.
        assert!(accuracy.more_promising((0.9, 0.8), (0.8, 0.75)));
        assert!(accuracy.more_promising((0.8, 0.8), (0.9, 0.8)));
        // Neither would: the loss.
        assert!(accuracy.more_promising((1.1, 0.6), (1.2, 0.9)));
        // Of errors, the lower ones are acceptable.
        assert!(rules(Metric::Mae, 0.3).more_promising((0.9, 0.2), (0.5, 0.4)));
    }

    #[test]
    fn negative_losses_are_minimised_with_the_same_threshold() {
        // A likelihood may be negative; falling from -1.0 to -1.1 is progress, to -1.1005 is drift.
        let scores = [(-1.0, -1.0), (-1.1, -1.1), (-1.1005, -1.1005), (-1.1006, -1.1006)];
        let (taken, dropped, progress) = drive(&rules(Metric::Loss, 0.0), &scores);
        assert_eq!(taken, [1, 2, 3, 4]);
        assert_eq!(dropped, [4]);
        assert_eq!(progress.best, Some((-1.1006, -1.1006)));
    }

    #[test]
    fn a_loss_that_is_no_number_drops_the_rate_at_once() {
        let (taken, dropped, progress) = drive(&rules(Metric::Accuracy, 0.0), &[(1.0, 0.5), (f64::NAN, 0.1)]);
        assert_eq!((taken, dropped), (vec![1], vec![2]));
        assert!(!progress.done);
    }

    #[test]
    fn the_number_of_epochs_is_a_limit() {
        let mut progress = Progress::new(Some(1.0));
        let rules = Rules { epochs: 2, ..rules(Metric::Accuracy, 0.0) };
        progress.record(&rules, 1.0, 0.5);
        assert!(!progress.done);
        progress.record(&rules, 0.5, 0.5);
        assert!(progress.done);
    }

    #[test]
    fn turns_retry_a_cycle_and_end_the_run() {
        let turn = |cycle, attempt| Turn { cycle, attempt };
        assert_eq!(turn(0, 0).next(false, 2, 3), Some(turn(1, 0)));
        assert_eq!(turn(1, 0).next(false, 2, 3), Some(turn(1, 1)));
        assert_eq!(turn(1, 1).next(false, 2, 3), None);
        assert_eq!(turn(1, 1).next(true, 2, 3), Some(turn(2, 0)));
        assert_eq!(turn(3, 0).next(true, 2, 3), None);
        assert_eq!(turn(0, 0).next(true, 2, 0), None);
    }
}
