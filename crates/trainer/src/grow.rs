//! The controller: phases in order, checkpoints between them, and the result that is never worse than the input.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use dendrite_data::{DataSet, Samples};
use dendrite_onnx::{Model, Tensor, ops::cost::model_macs};
use dendrite_runtime::{Optimization, Session, SessionOptions};
use dendrites::{DendriteSet, Plan, fragment};

use crate::{
    accept::{Refusal, paired_test},
    batch_norm::{self, Facts},
    checkpoint::{Checkpoint, PhaseSummary, Position},
    dendrite::dendrite_phase,
    error::{Error, Result},
    evaluate::{Evaluator, Score},
    events::Event,
    export::{self, Lineage},
    feed,
    folder::{self, RunFolder},
    memory,
    network::{Growth, Network},
    neuron::{Advance, NeuronPhase, Setting, changeable_names, trained_names},
    objective::{Context, Reading},
    options::Options,
    prepare::{FEW_VALIDATION_ROWS, Fixed, prepare, written},
    schedule::{Progress, Turn},
    step::Trainer,
    summary::{self, Parity, Scores, Side, Summary},
};

/// Samples from which it is told how the loss reads predictions.
const READING_ROWS: usize = 1 << 14;
/// Multiply-accumulates of the forward pass that an epoch of a learning-rate trial may take, and the steps it takes at least.
const TRIAL_MACS: u64 = 200_000_000_000;
const FEWEST_TRIAL_STEPS: usize = 16;

/// What a run needs.
pub struct Run<'a> {
    /// The input model.
    pub model: &'a Model,
    /// Data that train.
    pub train: &'a DataSet,
    /// Data that decide.
    pub val: &'a DataSet,
    /// Data that are scored once, at the end.
    pub test: Option<&'a DataSet>,
    /// The options.
    pub options: &'a Options,
    /// A plan in place of the one the options describe.
    pub plan: Option<Plan>,
    /// How sessions are built.
    pub session: SessionOptions,
    /// The run folder.
    pub folder: &'a Path,
    /// Go on from the folder's checkpoint.
    pub resume: bool,
    /// Set when the run is to stop after its current epoch.
    pub interrupt: &'a AtomicBool,
    /// Told of every event.
    pub observer: &'a mut dyn FnMut(&Event),
    /// Compares a file's outputs in ONNX Runtime and in another runtime.
    pub second_runtime: Option<&'a SecondRuntime>,
}

/// A comparison of a file's outputs in two runtimes on given inputs: the largest relative difference, or why the other
/// runtime could not run it.
pub type SecondRuntime = dyn Fn(&Path, &[(String, Tensor)]) -> std::result::Result<f64, String>;

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The facts, as in summary.json.
    pub summary: Summary,
    /// Whether the result beats the input on validation.
    pub improved: bool,
}

/// Grow a model.
pub fn grow(run: &mut Run) -> Result<Outcome> {
    let started = Instant::now();
    if run.resume
        && let Some(summary) = RunFolder::complete(run.folder)?
    {
        RunFolder::tidy(run.folder);
        return Ok(Outcome { improved: summary.improved(), summary });
    }
    let lock = RunFolder::lock(run.folder)?;
    let path = RunFolder::checkpoint(run.folder);
    if !(run.resume && path.exists()) {
        // Before the data are read, which may take a while.
        RunFolder::check(run.folder, run.resume)?;
    }
    let fixed = prepare(run)?;
    // A run that was killed before its first checkpoint starts anew.
    let checkpoint = if run.resume && path.exists() { Some(Checkpoint::read(&path, &fixed.origin)?) } else { None };
    let mut folder = match &checkpoint {
        Some(checkpoint) => RunFolder::open(run.folder, &checkpoint.position.log_lengths, lock)?,
        None => RunFolder::create(run.folder, run.resume, lock)?,
    };
    folder.record_options(run.options)?;
    folder.write(folder::CONFIG, written(folder::CONFIG, toml::to_string(&fixed.options))?.as_bytes())?;
    folder.write(folder::PLAN, fixed.plan_text.as_bytes())?;
    let before = checkpoint.as_ref().map_or(0.0, |c| c.position.seconds);
    let mut controller =
        Controller { run, fixed, folder, started, before, saved: Instant::now(), base_loss: f64::INFINITY };
    let grown = controller.compute_frozen_part().and_then(|()| controller.go(checkpoint));
    if grown.is_err() && !path.exists() {
        controller.folder.abandon();
    }
    grown
}

struct Controller<'r, 'a> {
    run: &'r mut Run<'a>,
    fixed: Fixed,
    folder: RunFolder,
    started: Instant,
    before: f64,
    saved: Instant,
    /// The input's validation loss as users know it.
    base_loss: f64,
}

/// What is under trial and what is best.
struct State {
    position: Position,
    best: Growth,
    best_score: Score,
    trial: Growth,
}

impl Controller<'_, '_> {
    /// Bring the data to where the frozen part of the network ends.
    fn compute_frozen_part(&mut self) -> Result<()> {
        let Fixed { frozen: Some(frozen), train, val, .. } = &self.fixed else { return Ok(()) };
        (self.run.observer)(&Event::FrozenPart { samples: train.len() + val.len() });
        let options = &self.fixed.options;
        let augment = Some((&options.augment, options.seed));
        let train = frozen.samples(train, augment, &self.run.session, self.run.interrupt)?;
        let val = frozen.samples(val, None, &self.run.session, self.run.interrupt)?;
        (self.fixed.train, self.fixed.val) = (train, val);
        Ok(())
    }

    fn go(&mut self, checkpoint: Option<Checkpoint>) -> Result<Outcome> {
        if self.fixed.objective.has_choice(&self.fixed.network) {
            let train = &self.fixed.train;
            // Evenly spread, so that sorted data show all their classes.
            let rows: Vec<usize> = (0..READING_ROWS).map(|i| i * train.len() / READING_ROWS).collect();
            let some = if train.len() > READING_ROWS { train.select(&rows)? } else { train.clone() };
            let score = self.evaluator(&Growth::default())?.score_unless(&some, self.run.interrupt)?;
            self.fixed.objective.fit_reading(&score, &some.target_tensor()?);
        }
        let base = self.evaluator(&Growth::default())?.score_unless(&self.fixed.val, self.run.interrupt)?;
        self.base_loss = self.reported(&base, &self.fixed.val)?;
        self.prove_dynamic_copy(&base)?;
        let resumed = checkpoint.is_some();
        if !resumed {
            self.tell(Event::Baseline {
                parameters: self.fixed.base_parameters,
                val_loss: base.loss,
                temperature: match self.fixed.objective.reading {
                    Reading::Tempered(temperature) => temperature,
                    _ => 1.0,
                },
                metric: self.fixed.objective.metric.name(),
                val_metric: base.metric,
                loss: self.fixed.objective.kind.to_string(),
                loss_reason: self.fixed.objective.reason,
                class_axis: self.fixed.objective.told_class_axis(&self.fixed.whole),
                classes: self.fixed.val.classes().map(<[String]>::to_vec),
                most_frequent: self.fixed.objective.most_frequent(&self.fixed.val)?,
            })?;
        }
        let samples = self.fixed.val.len();
        if samples < FEW_VALIDATION_ROWS {
            (self.run.observer)(&Event::FewValidationSamples { samples });
        }
        let Facts { nodes, trained, replaced } = self.batch_norm()?;
        if trained > 0 {
            (self.run.observer)(&Event::BatchNorm { nodes, trained, replaced });
        }
        let mut interrupted_phase = None;
        let mut state = match checkpoint {
            Some(checkpoint) => {
                let best_score = self.score(&checkpoint.best)?;
                if let Some(progress) = checkpoint.position.neuron.clone() {
                    interrupted_phase = Some((progress, checkpoint.state, checkpoint.phase_best));
                }
                State { position: checkpoint.position, best: checkpoint.best, best_score, trial: checkpoint.trial }
            }
            None => State {
                position: Position {
                    turn: Turn { cycle: usize::from(!self.finetunes_first()?), attempt: 0 },
                    sets: Vec::new(),
                    best_sets: Vec::new(),
                    neuron: None,
                    phases: Vec::new(),
                    log_lengths: Vec::new(),
                    seconds: 0.0,
                },
                best: Growth::default(),
                best_score: base.clone(),
                trial: Growth::default(),
            },
        };
        let cycles = self.fixed.plan.cycles;
        let mut turn = Some(state.position.turn).filter(|t| t.cycle <= cycles);
        if turn.is_none() && !resumed {
            // No phase comes that would save one, and a summary without a checkpoint means that everything was written.
            self.save(&mut state, None)?;
        }
        while let Some(current) = turn {
            state.position.turn = current;
            if interrupted_phase.is_none() {
                if !self.begin(&mut state)? {
                    break;
                }
            } else {
                // The log has it from before the interruption.
                let begun = self.neuron_phase_started(&state);
                (self.run.observer)(&begun);
            }
            let kept = self.neuron_phase(&mut state, interrupted_phase.take())?;
            turn = current.next(kept, self.fixed.options.tries, cycles).filter(|_| !self.out_of_time());
            if let Some(next) = turn {
                state.position.turn = next;
                self.save(&mut state, None)?;
            }
        }
        self.finish(state, &base)
    }

    /// Prepare the growth under trial: the best model, in cycles after the first with new dendrites. Whether there was time.
    fn begin(&mut self, state: &mut State) -> Result<bool> {
        let Turn { cycle, attempt } = state.position.turn;
        state.trial = state.best.clone();
        if cycle > 0 {
            let new = self.fixed.plan.next_cycle(&self.fixed.network.sites, &state.best.sets)?;
            let mut sets = state.best.sets.clone();
            sets.extend(new.iter().cloned());
            self.tell(Event::PhaseStarted {
                kind: "dendrite".to_owned(),
                cycle,
                attempt,
                parameters: self.parameters(&sets),
                epochs: self.fixed.options.candidate_epochs(),
            })?;
            let place = [cycle as u64, attempt as u64];
            let (clock, end) = (self.clock(), self.budget());
            let mut trained = 0;
            let Fixed { network, objective, train, options, .. } = &self.fixed;
            let Run { session, interrupt, observer, .. } = &mut *self.run;
            let context = Context { network, objective, samples: train, options, session, interrupt };
            let chosen = dendrite_phase(context, &state.best, &new, place, &mut |done, epochs| {
                trained = done;
                observer(&Event::Candidates { done, epochs });
                done < epochs && end.is_some_and(|end| clock() > end)
            })?;
            state.position.phases.push(PhaseSummary {
                kind: "dendrite".to_owned(),
                cycle,
                attempt,
                epochs: self.fixed.options.candidate_epochs(),
                val_loss: state.best_score.loss,
                val_metric: state.best_score.metric,
                kept: false,
                t: None,
                cut: chosen.is_none(),
            });
            let Some((sets, weights, reports)) = chosen else {
                self.tell(Event::BudgetSpent { cycle, attempt, kind: "dendrite".to_owned(), epochs: trained })?;
                return Ok(false);
            };
            for report in reports {
                self.tell(Event::Site { cycle, attempt, report })?;
            }
            state.trial.sets.extend(sets);
            state.trial.weights.extend(weights);
        }
        self.tell(self.neuron_phase_started(state))?;
        Ok(true)
    }

    fn neuron_phase_started(&self, state: &State) -> Event {
        let Turn { cycle, attempt } = state.position.turn;
        Event::PhaseStarted {
            kind: phase_kind(cycle).to_owned(),
            cycle,
            attempt,
            parameters: self.parameters(&state.trial.sets),
            epochs: self.fixed.options.epochs,
        }
    }

    /// Run the neuron phase of the trial to its end, test it and keep it if it passes.
    fn neuron_phase(
        &mut self,
        state: &mut State,
        interrupted: Option<(Progress, Vec<dendrite_onnx::Tensor>, Vec<dendrite_onnx::Tensor>)>,
    ) -> Result<bool> {
        let Turn { cycle, attempt } = state.position.turn;
        let mut evaluator = self.evaluator(&state.trial)?;
        let names = trained_names(&self.fixed.network, &state.trial, &self.fixed.options)?;
        let Fixed { train, val, options, .. } = &self.fixed;
        let (train, val, options) = (train.clone(), val.clone(), options.clone());
        let trainer = Trainer::new(self.context(), &state.trial, &names)?;
        let session = self.run.session.clone();
        let setting = Setting {
            train: &train,
            val: &val,
            options: &options,
            // Behind a frozen part the data hold their changes.
            augment: Some(&options.augment).filter(|_| self.fixed.frozen.is_none()),
            session: &session,
            place: [cycle as u64, attempt as u64],
            floor: state.best_score.metric,
            ceiling: state.best_score.loss,
            trial: self.trial_rows()?,
            interrupt: self.run.interrupt,
        };
        let mut phase = NeuronPhase::start(trainer, &mut evaluator, setting)?;
        match interrupted {
            Some((progress, current, best)) => phase.resume(progress, &current, best)?,
            None => self.save(state, Some(&phase))?,
        }
        let (until, last) = (self.phase_end(cycle), self.budget());
        let clock = self.clock();
        let mut cut = false;
        let interrupt = self.run.interrupt;
        let interval = self.fixed.options.checkpoint_every.0;
        loop {
            let saved = self.saved;
            let due = move || saved.elapsed() >= interval;
            let stopping = move || interrupt.load(Ordering::Relaxed);
            // A pause begins the search for the learning rate anew. One for every checkpoint would begin it for ever where it
            // takes longer than from one checkpoint to the next.
            let searching = phase.progress.lr.is_none();
            // Until there is something to judge, a phase may take what belongs to later ones.
            let end = if searching || phase.best_score.is_none() { last } else { until };
            let over = || end.is_some_and(|end| clock() > end);
            let observer = &mut *self.run.observer;
            let advance = phase.advance(&mut |done, steps| {
                observer(&Event::Progress { done, steps });
                stopping() || over() || (!searching && due())
            })?;
            let ended = match advance {
                Advance::Epoch(report) => {
                    self.tell(Event::Epoch { cycle, attempt, report })?;
                    false
                }
                Advance::Trouble(report) => {
                    self.tell(Event::Trouble { cycle, attempt, report })?;
                    false
                }
                Advance::Paused => false,
                Advance::Ended => true,
            };
            if ended {
                break;
            }
            if over() && !stopping() {
                let (kind, epochs) = (phase_kind(cycle).to_owned(), phase.progress.epoch);
                self.tell(Event::BudgetSpent { cycle, attempt, kind, epochs })?;
                cut = true;
                break;
            }
            if stopping() || due() {
                self.save(state, Some(&phase))?;
            }
            if stopping() {
                return Err(Error::Interrupted);
            }
        }
        let weights = phase.best_weights();
        let epochs = phase.progress.epoch;
        let Some(score) = phase.best_score.take() else { return Ok(false) };
        drop(phase);
        let mut verdict = paired_test(&self.fixed.objective.metric, &state.best_score, &score);
        // What is promised holds for the loss as users know it too.
        let reported_holds = self.reported(&score, &self.fixed.val)? <= self.base_loss;
        if verdict.accepted && !reported_holds {
            (verdict.accepted, verdict.refusal) = (false, Some(Refusal::Reported));
        }
        let summary = PhaseSummary {
            kind: phase_kind(cycle).to_owned(),
            cycle,
            attempt,
            epochs,
            val_loss: score.loss,
            val_metric: score.metric,
            kept: false,
            t: None,
            cut,
        };
        state.position.phases.push(summary.judged(&verdict));
        self.tell(Event::Verdict { cycle, attempt, val_metric: score.metric, val_loss: score.loss, verdict })?;
        if verdict.accepted {
            state.trial.weights.extend(weights);
            state.best = state.trial.clone();
            state.best_score = score;
        }
        Ok(verdict.accepted)
    }

    fn save(&mut self, state: &mut State, phase: Option<&NeuronPhase>) -> Result<()> {
        state.position.sets = state.trial.sets.clone();
        state.position.best_sets = state.best.sets.clone();
        state.position.neuron = phase.map(|p| p.progress.clone());
        state.position.log_lengths = self.folder.lengths()?;
        state.position.seconds = self.seconds();
        let checkpoint = Checkpoint {
            origin: self.fixed.origin.clone(),
            position: state.position.clone(),
            best: state.best.clone(),
            trial: state.trial.clone(),
            state: phase.map(NeuronPhase::state).transpose()?.unwrap_or_default(),
            phase_best: phase.map(|p| p.best.clone()).unwrap_or_default(),
        };
        checkpoint.write(&RunFolder::checkpoint(self.folder.root()))?;
        self.saved = Instant::now();
        Ok(())
    }

    /// Write the best model and what is to be said about it.
    fn finish(&mut self, state: State, base: &Score) -> Result<Outcome> {
        let improved = summary::improved(&state.position.phases);
        let (options, network) = (&self.fixed.options, &self.fixed.whole);
        let parent = crate::checkpoint::sha256(self.run.model.bytes());
        let lineage =
            Lineage { method: options.method.name(), seed: options.seed, parent: &parent, sets: &state.best.sets };
        let edit = match improved {
            true => export::edit(self.run.model, network, &state.best, Some(&lineage))?,
            false => export::Edit::none(self.run.model),
        };
        let path = self.folder.root().join(folder::MODEL);
        edit.write(&path)?;
        let mut evaluator = self.evaluator(&state.best)?;
        let after = evaluator.score_unless(&self.fixed.val, self.run.interrupt)?;
        let mut exported = Session::from_file(&path, &self.run.session)?;
        let ort = export::parity(&mut exported, network, &self.fixed.whole_val, &after.predictions, &after.shape)?;
        drop(exported);
        // More than the usual is mostly not a difference of the graphs: some models magnify the last digits of their kernels.
        let (ort_unoptimised, input_optimised) = if ort > summary::TOLERANCE {
            let mut plain = self.unoptimised(Some(&path))?;
            let ort = export::parity(&mut plain, network, &self.fixed.whole_val, &after.predictions, &after.shape)?;
            (Some(ort), Some(self.input_optimised()?))
        } else {
            (None, None)
        };
        let tract = match self.run.second_runtime {
            Some(compare) => compare(&path, &export::first_rows(network, &self.fixed.whole_val)?),
            None => Err("this program was built without it".to_owned()),
        };
        let (mut test_before, mut test_after) = (None, None);
        let test = match (&self.fixed.test, &self.fixed.frozen) {
            (Some(test), Some(frozen)) => Some(frozen.samples(test, None, &self.run.session, self.run.interrupt)?),
            (test, _) => test.clone(),
        };
        if let Some(test) = &test {
            test_after = Some(evaluator.score_unless(test, self.run.interrupt)?);
            test_before = Some(self.evaluator(&Growth::default())?.score_unless(test, self.run.interrupt)?);
        }
        let metric = &self.fixed.objective.metric;
        let scores = |score: &Score, data: &Samples| Ok(Scores::new(metric, score, self.reported(score, data)?));
        let tested = |score: &Option<Score>| -> Result<Option<Scores>> {
            score.as_ref().zip(test.as_ref()).map(|(score, data)| scores(score, data)).transpose()
        };
        let side = |parameters: usize, macs, val: Scores, test: Option<Scores>| Side { parameters, macs, val, test };
        let grown = network.grown(&state.best, fragment::Reading::Direct)?;
        let summary = Summary {
            schema_version: 1,
            tool: format!("onnx-dendrite {}", env!("CARGO_PKG_VERSION")),
            seed: options.seed,
            method: options.method.name().to_owned(),
            device: self.run.session.device.to_string(),
            batch_norm: (self.batch_norm()?.nodes > 0).then(|| options.batch_norm.name().to_owned()),
            before: side(
                self.fixed.base_parameters,
                macs(&network.graph)?,
                scores(base, &self.fixed.val)?,
                tested(&test_before)?,
            ),
            after: side(
                self.parameters(&state.best.sets),
                macs(&grown)?,
                scores(&after, &self.fixed.val)?,
                tested(&test_after)?,
            ),
            kept_dendrites: kept_dendrites(&state.best.sets),
            controls: BTreeMap::new(),
            control_notes: BTreeMap::new(),
            parity: Parity {
                ort,
                ort_unoptimised,
                input_optimised,
                tract: tract.as_ref().ok().copied(),
                tract_reason: tract.err(),
            },
            phases: state.position.phases.clone(),
            seconds: self.seconds(),
        };
        let text = written(folder::SUMMARY, serde_json::to_string_pretty(&summary))? + "\n";
        self.folder.write(folder::SUMMARY, text.as_bytes())?;
        let kept_cycles = state.position.phases.iter().filter(|p| p.kept && p.cycle > 0).count();
        self.tell(Event::Finished { kept_cycles, parameters: summary.after.parameters })?;
        RunFolder::write_report(self.folder.root())?;
        self.folder.remove_checkpoint()?;
        Ok(Outcome { summary, improved })
    }

    /// What becomes of the whole network's batch normalisations.
    fn batch_norm(&self) -> Result<Facts> {
        let trained = trained_names(&self.fixed.whole, &Growth::default(), &self.fixed.options)?;
        Ok(batch_norm::facts(&self.fixed.whole.graph, &trained, &self.fixed.options))
    }

    /// A model of fixed batch is trained on a copy whose batch is dynamic: compare the two on real inputs.
    fn prove_dynamic_copy(&self, score: &Score) -> Result<()> {
        let Some(size) = self.fixed.whole.fixed_batch else { return Ok(()) };
        let (predictions, shape) = (&score.predictions, &score.shape);
        let from_copy = |mut original: Session| {
            export::parity(&mut original, &self.fixed.whole, &self.fixed.whole_val, predictions, shape)
        };
        let mut difference = from_copy(self.session(self.run.model.path(), &self.run.session)?)?;
        if difference > summary::TOLERANCE {
            difference = from_copy(self.unoptimised(self.run.model.path())?)?;
        }
        if difference > summary::TOLERANCE {
            return Err(Error::Option {
                reason: format!(
                    "the model is fixed to a batch of {size}, and its copy with a dynamic batch differs by {difference:.1e}"
                ),
                hint: "export the model with a dynamic batch axis".to_owned(),
            });
        }
        Ok(())
    }

    /// A session of the model in a file; of the input model where there is none.
    fn session(&self, path: Option<&Path>, options: &SessionOptions) -> Result<Session> {
        Ok(match path {
            Some(path) => Session::from_file(path, options)?,
            None => Session::from_bytes(self.run.model.bytes(), options)?,
        })
    }

    /// [`Controller::session`] that computes the graph as it is written.
    fn unoptimised(&self, path: Option<&Path>) -> Result<Session> {
        self.session(path, &SessionOptions { optimization: Optimization::Off, ..self.run.session.clone() })
    }

    /// How far ONNX Runtime's optimisations bring the input model from itself.
    fn input_optimised(&self) -> Result<f64> {
        let (network, samples) = (&self.fixed.whole, &self.fixed.whole_val);
        let outputs = |mut session: Session| export::run_file(&mut session, network, samples, &network.output);
        let path = self.run.model.path();
        let (_, plain) = outputs(self.unoptimised(path)?)?;
        let (_, optimised) = outputs(self.session(path, &self.run.session)?)?;
        Ok(export::relative_difference(&optimised, &plain))
    }

    /// Whether a neuron phase comes before the first dendrites: if it is wanted, and there is anything to train in it.
    fn finetunes_first(&self) -> Result<bool> {
        let trains = trained_names(&self.fixed.network, &Growth::default(), &self.fixed.options)?;
        Ok(self.fixed.options.finetune_first && !trains.is_empty())
    }

    fn context(&self) -> Context<'_> {
        Context {
            network: &self.fixed.network,
            objective: &self.fixed.objective,
            samples: &self.fixed.train,
            options: &self.fixed.options,
            session: &self.run.session,
            interrupt: self.run.interrupt,
        }
    }

    fn evaluator(&self, growth: &Growth) -> Result<Evaluator> {
        let names = changeable_names(&self.fixed.network, growth, &self.fixed.options)?;
        let wanted = self.fixed.options.scored_for(self.fixed.train.len());
        let batch = memory::scored_at_once(&self.fixed.network, &self.fixed.val, wanted)?;
        Evaluator::new(
            &self.fixed.network,
            growth,
            &names,
            &self.fixed.objective,
            &self.fixed.val,
            batch,
            &self.run.session,
        )
    }

    fn reported(&self, score: &Score, samples: &Samples) -> Result<f64> {
        self.fixed.objective.reported_loss(score, samples)
    }

    fn score(&self, growth: &Growth) -> Result<Score> {
        self.evaluator(growth)?.score_unless(&self.fixed.val, self.run.interrupt)
    }

    fn parameters(&self, sets: &[DendriteSet]) -> usize {
        let network = &self.fixed.network;
        let grown: usize = sets.iter().filter_map(|set| Some(set.parameters(network.site(&set.site)?, sets))).sum();
        self.fixed.base_parameters + grown
    }

    fn tell(&mut self, event: Event) -> Result<()> {
        self.folder.record(&event)?;
        (self.run.observer)(&event);
        Ok(())
    }

    /// Samples of a learning-rate trial: all of them, unless the model is so large that a trial would take minutes. The work
    /// decides, not the time, so that every machine does the same.
    fn trial_rows(&self) -> Result<usize> {
        let Fixed { network, train, .. } = &self.fixed;
        let mut graph = network.graph.clone();
        Network::bind_shapes(&mut graph, &feed::shapes(train, 1))?;
        let Some(macs) = model_macs(&graph) else { return Ok(train.len()) };
        let fitting = usize::try_from(TRIAL_MACS / macs.max(1)).unwrap_or(usize::MAX);
        let fewest = FEWEST_TRIAL_STEPS * self.fixed.options.batch_for(train.len());
        Ok(fitting.max(fewest).min(train.len()))
    }

    /// The second at which the phase of `cycle` has used up its share of what is left of the budget: a part for every phase
    /// to come.
    fn phase_end(&self, cycle: usize) -> Option<f64> {
        let budget = self.budget()?;
        let now = self.seconds();
        let phases = self.fixed.plan.cycles.saturating_sub(cycle) + 1;
        Some(now + (budget - now).max(0.0) / phases as f64)
    }

    fn out_of_time(&self) -> bool {
        self.budget().is_some_and(|budget| self.seconds() > budget)
    }

    /// The second at which the run has used up its budget.
    fn budget(&self) -> Option<f64> {
        Some(self.fixed.options.budget?.0.as_secs_f64())
    }

    fn seconds(&self) -> f64 {
        self.clock()()
    }

    /// [`Controller::seconds`], to be read while something else of the controller is borrowed.
    fn clock(&self) -> impl Fn() -> f64 + use<> {
        let (before, started) = (self.before, self.started);
        move || before + started.elapsed().as_secs_f64()
    }
}

/// The name of a neuron phase in a cycle.
fn phase_kind(cycle: usize) -> &'static str {
    if cycle == 0 { "finetune" } else { "neuron" }
}

/// Dendrites a neuron (`neuron`), or dendrites in all (`layer`), at the site that has most.
fn kept_dendrites(sets: &[DendriteSet]) -> usize {
    let at = |site: &str| -> usize {
        sets.iter()
            .filter(|s| s.site == site)
            .map(|s| if s.connection == dendrites::Connection::Neuron { 1 } else { s.width })
            .sum()
    };
    sets.iter().map(|s| at(&s.site)).max().unwrap_or(0)
}

/// Multiply-accumulates of one sample, where every shape is known.
fn macs(graph: &dendrite_onnx::Graph) -> Result<Option<u64>> {
    let mut graph = graph.clone();
    dendrite_runtime::infer_shapes(&mut graph)?;
    Ok(dendrite_onnx::ops::cost::model_macs(&graph))
}
