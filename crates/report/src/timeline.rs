//! The epochs of a run on one axis: the neuron phases one after the other, each with what was decided about it.

use crate::schema::{Baseline, Epoch, Event, Site, Turn, Verdict};

/// A run in the order in which it happened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Timeline {
    pub(crate) baseline: Option<Baseline>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) growths: Vec<Growth>,
}

/// The epochs of a neuron phase.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) turn: Turn,
    /// Epochs of the run before it.
    pub(crate) start: usize,
    pub(crate) epochs: Vec<Epoch>,
    pub(crate) verdict: Option<Verdict>,
}

/// What a dendrite phase put in.
#[derive(Debug, Clone)]
pub(crate) struct Growth {
    pub(crate) turn: Turn,
    /// Parameters of the model with the new dendrites.
    pub(crate) parameters: u64,
    pub(crate) sites: Vec<Site>,
    pub(crate) kept: bool,
}

impl Segment {
    /// Whether its model became the best one; `None` where the run ended before a test.
    pub(crate) fn kept(&self) -> Option<bool> {
        self.verdict.as_ref().map(|v| v.accepted)
    }

    /// Epochs of the run after it.
    pub(crate) fn end(&self) -> usize {
        self.start + self.epochs.len()
    }
}

impl Timeline {
    /// Put events in their places.
    pub(crate) fn new(events: &[Event]) -> Self {
        let mut line = Timeline::default();
        for event in events {
            match event {
                Event::Baseline(baseline) => line.baseline = Some(baseline.clone()),
                Event::PhaseStarted(phase) if phase.kind == "dendrite" => line.growths.push(Growth {
                    turn: phase.turn,
                    parameters: phase.parameters,
                    sites: Vec::new(),
                    kept: false,
                }),
                Event::PhaseStarted(_) | Event::Finished {} | Event::Other => {}
                Event::Epoch(epoch) => line.segment(epoch.turn).epochs.push(epoch.clone()),
                Event::Site(site) => {
                    if let Some(growth) = line.growths.iter_mut().rfind(|g| g.turn == site.turn) {
                        growth.sites.push(site.clone());
                    }
                }
                Event::Verdict(verdict) => {
                    line.segment(verdict.turn).verdict = Some(verdict.clone());
                    if let Some(growth) = line.growths.iter_mut().rfind(|g| g.turn == verdict.turn) {
                        growth.kept = verdict.accepted;
                    }
                }
            }
        }
        line
    }

    /// The segment of `turn`, which is the last one or a new one.
    fn segment(&mut self, turn: Turn) -> &mut Segment {
        let at = match self.segments.last() {
            Some(last) if last.turn == turn => self.segments.len() - 1,
            last => {
                let start = last.map_or(0, Segment::end);
                self.segments.push(Segment { turn, start, epochs: Vec::new(), verdict: None });
                self.segments.len() - 1
            }
        };
        &mut self.segments[at]
    }

    /// Epochs of all neuron phases.
    pub(crate) fn epochs(&self) -> usize {
        self.segments.last().map_or(0, Segment::end)
    }

    /// Every epoch with its place on the axis, from 1.
    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, &Epoch)> {
        self.segments.iter().flat_map(|s| s.epochs.iter().enumerate().map(|(i, e)| (s.start + i + 1, e)))
    }
}
