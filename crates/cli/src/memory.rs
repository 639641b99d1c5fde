//! What memory a training step takes, in words and as facts.

use std::sync::atomic::AtomicBool;

use dendrite_runtime::SessionOptions;
use dendrite_trainer::{
    DataSet, Network, Options,
    estimate::{StepMemory, step_memory, zeros},
    network::Batching,
    neuron::trained_names,
    objective::{Context, Objective},
    random::initial_growth,
};
use dendrites::Plan;
use serde_json::json;

use crate::{failure::Failure, output::grouped};

/// Samples of a step where there are no data to choose by.
const DEFAULT_BATCH: usize = 16;

/// What the step is to be told for, where the options do not say.
pub(crate) struct Asked<'a> {
    /// The data that will train.
    pub(crate) train: Option<&'a DataSet>,
    /// Samples a step.
    pub(crate) batch: Option<usize>,
    /// Samples of a pass.
    pub(crate) micro_batch: Option<usize>,
}

/// What a step takes as it is, in pieces, with activations computed anew, and with both.
pub(crate) struct Memory {
    batch: usize,
    micro_batch: usize,
    plain: StepMemory,
    /// Nothing where a batch cannot be passed in pieces.
    divided: Option<StepMemory>,
    recomputed: StepMemory,
    both: Option<StepMemory>,
}

impl Memory {
    /// Of a training step of the network with all the dendrites of a plan.
    pub(crate) fn of(asked: &Asked, network: &Network, plan: &Plan, options: &Options) -> Result<Self, Failure> {
        let samples = match asked.train {
            Some(data) => network.samples(data, options)?,
            None if !network.further.is_empty() => {
                let say = "say --train too: it tells of what kind the targets of --also are";
                return Err(Failure::new(
                    "the losses of further outputs are not known without data".to_owned(),
                    Some(say),
                ));
            }
            None => zeros(network, options, asked.batch.or(options.batch).unwrap_or(DEFAULT_BATCH))?,
        };
        let mut options = network.resolved(options);
        options.batch = asked.batch.or(options.batch);
        let batch = options.batch_for(samples.len());
        let micro_batch = asked.micro_batch.or(options.micro_batch).unwrap_or(batch.div_ceil(4)).min(batch);
        let growth = initial_growth(network, plan, options.activation.list()[0], options.seed)?;
        let (session, never) = (SessionOptions::default(), AtomicBool::new(false));
        let with = |micro_batch: Option<usize>, recompute: bool| -> Result<StepMemory, Failure> {
            let options = Options { micro_batch, recompute, ..options.clone() };
            let objective = Objective::choose(network, &samples, &options)?;
            let names = trained_names(network, &growth, &options)?;
            let context = Context {
                network,
                objective: &objective,
                samples: &samples,
                options: &options,
                session: &session,
                interrupt: &never,
            };
            Ok(step_memory(context, &growth, &names)?)
        };
        // What takes one sample at a time is passed so in any case.
        let whole = (network.batching != Batching::Free).then_some(1);
        Ok(Memory {
            batch,
            micro_batch,
            plain: with(whole, false)?,
            divided: with(Some(micro_batch), false).ok(),
            recomputed: with(whole, true)?,
            both: with(Some(micro_batch), true).ok(),
        })
    }

    /// The same as comments.
    pub(crate) fn lines(&self) -> Vec<String> {
        let shown = |bytes: usize| match bytes {
            0..10_000_000 => format!("{} kB", grouped(bytes.div_ceil(1000) as u64)),
            _ => format!("{} MB", grouped(bytes.div_ceil(1_000_000) as u64)),
        };
        let StepMemory { weights, optimizer, gradients, activations, total } = self.plain;
        let sample = if self.batch == 1 { "sample" } else { "samples" };
        vec![
            format!(
                "# memory of a training step of {} {sample}: about {}, of which weights {}, optimizer {}, gradients {}, \
                 activations {}",
                self.batch,
                shown(total),
                shown(weights),
                shown(optimizer),
                shown(gradients),
                shown(activations)
            ),
            self.remedies(shown),
        ]
    }

    /// What would take less, as a comment; what would not is no advice.
    fn remedies(&self, shown: impl Fn(usize) -> String) -> String {
        let less = |memory: Option<StepMemory>| memory.map(|m| m.total).filter(|total| *total < self.plain.total);
        let (divided, recomputed, both) = (less(self.divided), less(Some(self.recomputed)), less(self.both));
        let both = both.filter(|both| [divided, recomputed].iter().flatten().all(|one| both < one));
        let pieces = format!("--micro-batch {}", self.micro_batch);
        // The names that `both` refers to stand before it, or it names them itself.
        let together = if divided.and(recomputed).is_some() { "both" } else { &format!("{pieces} and --recompute") };
        let ways = [(pieces.as_str(), divided), ("--recompute", recomputed), (together, both)];
        let ways: Vec<String> =
            ways.into_iter().filter_map(|(way, total)| Some(format!("with {way} about {}", shown(total?)))).collect();
        let ways = if ways.is_empty() {
            "--micro-batch and --recompute do not bring it down".to_owned()
        } else {
            ways.join(", ")
        };
        let undivided = if self.divided.is_none() { "; batches cannot be divided here" } else { "" };
        format!("# {ways}{undivided}")
    }

    /// The same as an object.
    pub(crate) fn json(&self) -> serde_json::Value {
        json!({
            "batch": self.batch, "micro_batch": self.micro_batch, "plain": self.plain,
            "with_micro_batch": self.divided, "with_recompute": self.recomputed, "with_both": self.both,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_less_is_advised() {
        let step = |total| StepMemory { weights: 1, optimizer: 2, gradients: 1, activations: 4, total };
        let advised = |divided: Option<usize>, recomputed, both: Option<usize>| {
            let [divided, both] = [divided, both].map(|total| total.map(step));
            let memory =
                Memory { batch: 16, micro_batch: 4, plain: step(400_000), divided, recomputed: step(recomputed), both };
            memory.lines().pop().unwrap_or_default()
        };
        assert_eq!(
            advised(Some(300_000), 350_000, Some(250_000)),
            "# with --micro-batch 4 about 300 kB, with --recompute about 350 kB, with both about 250 kB"
        );
        // Running sums of gradients may take more than pieces of activations save.
        assert_eq!(advised(Some(428_000), 350_000, Some(380_000)), "# with --recompute about 350 kB");
        assert_eq!(
            advised(Some(428_000), 400_000, Some(428_000)),
            "# --micro-batch and --recompute do not bring it down"
        );
        assert_eq!(advised(None, 350_000, None), "# with --recompute about 350 kB; batches cannot be divided here");
    }
}
