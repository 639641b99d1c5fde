//! Where the forward pass is cut: at the cheapest of the places that divide what is saved evenly.

use dendrite_onnx::Graph;

use super::Forward;
use crate::footprint::bytes_of;

/// Segments that are tried, at most.
pub const MOST_SEGMENTS: usize = 32;

/// For several numbers of segments, the places of the forward pass at which all segments but the first begin.
pub(super) fn choices(graph: &Graph, forward: &Forward) -> Vec<Vec<usize>> {
    let profile = Profile::of(graph, forward);
    let mut found: Vec<Vec<usize>> = Vec::new();
    for segments in 2..=MOST_SEGMENTS.min(forward.nodes.len()) {
        let cuts = profile.cuts(segments);
        if !cuts.is_empty() && !found.contains(&cuts) {
            found.push(cuts);
        }
    }
    found
}

/// What the places before each node of the forward pass would cost as a cut, and what lies before them.
struct Profile {
    /// Bytes of values that are computed before and read from there on.
    crossing: Vec<usize>,
    /// Bytes that the backward pass reads of what was computed before.
    saved: Vec<usize>,
}

impl Profile {
    fn of(graph: &Graph, forward: &Forward) -> Self {
        let count = forward.nodes.len();
        // The change of the crossing bytes at each place.
        let mut change = vec![0isize; count + 1];
        let mut saved = vec![0usize; count + 1];
        let uses = graph.uses();
        for (at, id) in forward.nodes.iter().enumerate() {
            for output in graph.node(*id).outputs.iter().flatten().filter(|v| !forward.fixed[v.index()]) {
                let bytes = bytes_of(graph, *output).unwrap_or(0);
                let readers = &uses[output.index()];
                let places = readers.iter().filter_map(|(id, _)| forward.place.get(id.index()).copied().flatten());
                if let Some(last) = places.max() {
                    change[at + 1] += bytes as isize;
                    change[last + 1] -= bytes as isize;
                }
                if readers.iter().any(|(id, _)| !forward.holds(*id)) {
                    saved[at + 1] += bytes;
                }
            }
        }
        let mut live = 0;
        let crossing = change.into_iter().map(|by| {
            live += by;
            live.max(0) as usize
        });
        let crossing = crossing.collect();
        let mut total = 0;
        for bytes in &mut saved {
            total += *bytes;
            *bytes = total;
        }
        Profile { crossing, saved }
    }

    fn cuts(&self, segments: usize) -> Vec<usize> {
        let total = self.saved.last().copied().unwrap_or(0) as f64;
        let share = total / segments as f64;
        let mut cuts: Vec<usize> = Vec::new();
        for number in 1..segments {
            let target = share * number as f64;
            let last = cuts.last().copied().unwrap_or(0);
            let near = |at: &usize| (self.saved[*at] as f64 - target).abs();
            let places = (last + 1..self.saved.len().saturating_sub(1)).filter(|at| near(at) <= share / 2.0);
            let key = |at: &usize| (self.crossing[*at], near(at) as usize);
            cuts.extend(places.min_by_key(key));
        }
        cuts
    }
}
