//! What a run works with, everything checked that can be before training: the network, data, objective and plan.

use dendrite_data::{DataSet, Samples};
use dendrite_onnx::ElementType;
use dendrites::{Connection, Demand, Plan, sites::select};

use crate::{
    batch_norm, drawn,
    error::{Error, Result},
    export,
    frozen::{self, Frozen},
    further,
    grow::Run,
    memory,
    network::{Growth, Network},
    neuron::trained_names,
    objective::{Context, Objective},
    options::{Method, Options},
    origin::Origin,
    random::initial_growth,
};

/// Validation samples below which a paired test says nothing.
const FEWEST_VALIDATION_ROWS: usize = 10;
/// Validation samples below which it hardly ever finds a gain that is there.
pub(crate) const FEW_VALIDATION_ROWS: usize = 50;

/// Everything that stays the same during a run.
pub(crate) struct Fixed {
    /// The options as the run goes by them.
    pub(crate) options: Options,
    /// The network that trains: the whole one, or what lies behind its frozen part.
    pub(crate) network: Network,
    /// The whole network.
    pub(crate) whole: Network,
    /// What lies before `network`.
    pub(crate) frozen: Option<Frozen>,
    pub(crate) objective: Objective,
    pub(crate) train: Samples,
    pub(crate) val: Samples,
    /// Validation data as the whole network takes them; `train` and `val` are as `network` does.
    pub(crate) whole_val: Samples,
    /// Test data as the whole network takes them.
    pub(crate) test: Option<Samples>,
    pub(crate) plan: Plan,
    pub(crate) base_parameters: usize,
    /// The plan as text, as it stands in plan.toml.
    pub(crate) plan_text: String,
    pub(crate) origin: Origin,
}

/// The text of a file of the run folder, or the error that it could not be put into words.
pub(crate) fn written<E: std::error::Error + Send + Sync + 'static>(
    name: &str,
    text: Result<String, E>,
) -> Result<String> {
    text.map_err(|e| Error::Io { path: name.into(), source: std::io::Error::other(e) })
}

/// The network, data, objective and plan of a run, everything checked that can be before training.
pub(crate) fn prepare(run: &Run) -> Result<Fixed> {
    run.options.check()?;
    let network = Network::of(run.model, run.options, run.train)?;
    let mut resolved = network.resolved(run.options);
    let options = &resolved;
    for data in [Some(run.val), run.test].into_iter().flatten() {
        further::check(run.model, options, data)?;
    }
    let samples = |data: &DataSet| network.samples(data, options);
    let (train, val) = (samples(run.train)?, samples(run.val)?);
    let test = run.test.map(samples).transpose()?;
    for other in [&val].into_iter().chain(&test) {
        same_classes(&train, other)?;
    }
    let objective = Objective::choose(&network, &train, options)?;
    // The training data decide which loss it is, all have to fit it.
    let class_axis = objective.told_class_axis(&network).map(|axis| axis as i64);
    let same = Options { loss: objective.kind.clone(), class_axis, ..options.clone() };
    Objective::choose(&network, &val, &same)?;
    if let Some(test) = &test {
        Objective::choose(&network, test, &same)?;
    }
    for other in [&val].into_iter().chain(&test) {
        if other.target().map(|t| t.element_type) != train.target().map(|t| t.element_type) {
            let reason = "its target is of another kind than that of the training data";
            return Err(other.error(reason, "save all targets as integer classes, or all as floats").into());
        }
    }
    options.augment.check(&train)?;
    let base_parameters = network.parameters;
    let plan = match &run.plan {
        Some(plan) => {
            plan.check(&network.sites)?;
            plan.clone()
        }
        None => make_plan(&network, options, base_parameters)?,
    };
    if val.len() < FEWEST_VALIDATION_ROWS {
        let reason = match val.len() {
            1 => "1 row is too little to decide by".to_owned(),
            rows => format!("{rows} rows are too few to decide by"),
        };
        return Err(val.error(reason, "give at least 10 samples to --val; 100 or more decide far better").into());
    }
    let data: Vec<&Samples> = [&train, &val].into_iter().chain(&test).collect();
    if let Some(option) = options.preprocess.of_pixels().filter(|_| !data.iter().any(|samples| samples.holds_images()))
    {
        return Err(Error::Option {
            reason: format!("preprocess.{option} is for images, and the data hold none: arrays are taken as they are"),
            hint: "save arrays as the model takes them; where one holds pixels as uint8, name the input that takes it with \
                   --set preprocess.input=NAME"
                .to_owned(),
        });
    }
    let plan_text = written("plan.toml", toml::to_string(&plan))?;
    let mut origin = Origin::new(run.model.bytes(), run.options, &plan_text, &data)?;
    // What learned the samples by heart would be kept, and the promise of a better model would be worth nothing.
    for (later, samples) in data.iter().enumerate().skip(1) {
        let same = |earlier: &usize| origin.data.get(*earlier) == origin.data.get(later);
        let Some(earlier) = (0..later).find(same) else { continue };
        let (why, hint) = if later == 1 {
            (
                "and decides nothing: what trains on them always gains on them",
                "give --val other samples, such as a tenth of the data taken out of --train",
            )
        } else {
            ("whose scores say nothing of new data", "give --test samples that nothing was decided by, or leave it out")
        };
        let option = if earlier == 0 { "--train" } else { "--val" };
        return Err(samples.error(format!("it holds the samples of {option}, {why}"), hint).into());
    }
    let trained = trained_names(&network, &Growth::default(), options)?;
    batch_norm::check(&network.graph, &trained, options)?;
    let mut changing = trained.clone();
    changing.extend(batch_norm::changing(&network.graph, &changing, options)?);
    let sites: Vec<&str> = plan.sites.iter().map(|s| s.name.as_str()).collect();
    export::base(run.model, &network, &sites)?;
    let (frozen, behind) = Frozen::split(&network, &changing, &sites, &data, options)?.unzip();
    // Behind a frozen part little is left to hold.
    if resolved.micro_batch.is_none() && frozen.is_none() && !trained.is_empty() {
        let growth = initial_growth(&network, &plan, options.activation.list()[0], options.seed)?;
        resolved.micro_batch = memory::trained_at_once(&network, &growth, &train, options)?;
    }
    resolved.class_axis = class_axis;
    // The run folder's config.toml says them as resolved, and goes on with the run as well as what it was started with.
    origin.resolve(&resolved);
    let options = &resolved;
    if !trained.is_empty() {
        let (session, interrupt) = (&run.session, run.interrupt);
        // A batch is chosen by the number of samples, and behind a frozen part there may be more of them.
        let sets = frozen.as_ref().map_or(1, |_| frozen::sets(options));
        let samples = &match sets {
            1 => train.clone(),
            _ => train.select(&(0..sets * train.len()).map(|row| row % train.len()).collect::<Vec<_>>())?,
        };
        let (network, objective) = (&network, &objective);
        drawn::rehearse(Context { network, objective, samples, options, session, interrupt }, &trained)?;
    }
    let (whole, whole_val) = (network, val.clone());
    let network = behind.unwrap_or_else(|| whole.clone());
    Ok(Fixed {
        options: options.clone(),
        network,
        whole,
        frozen,
        objective,
        train,
        val,
        whole_val,
        test,
        plan,
        base_parameters,
        plan_text,
        origin,
    })
}

/// Class numbers of both data sets mean the same where both have names for them.
fn same_classes(train: &Samples, other: &Samples) -> Result<()> {
    match (train.classes(), other.classes()) {
        (Some(ours), Some(theirs)) if ours != theirs => {
            let reason =
                format!("its classes are {}, those of the training data {}", theirs.join(", "), ours.join(", "));
            let hint = "list the classes in the order of the model's outputs: in a file classes.txt above folders of \
                        images, or with preprocess.classes";
            Err(other.error(reason, hint).into())
        }
        _ => Ok(()),
    }
}

/// The parameters that `limit` leaves for dendrites.
pub fn budget(limit: usize, base_parameters: usize) -> Result<usize> {
    limit.checked_sub(base_parameters).ok_or_else(|| Error::Option {
        reason: format!("the model already has {base_parameters} parameters, --max-parameters allows {limit}"),
        hint: "raise --max-parameters".to_owned(),
    })
}

/// The plan that options describe.
pub fn make_plan(network: &Network, options: &Options, base_parameters: usize) -> Result<Plan> {
    if options.dendrites == 0 {
        return Ok(Plan { connect: options.connect, cycles: 0, sites: Vec::new() });
    }
    if network.sites.is_empty() {
        let reasons: Vec<String> =
            network.not_sites.iter().take(3).map(|n| format!("'{}' ({}): {}", n.name, n.op, n.reason)).collect();
        let graph = &network.graph;
        let of_type = |wanted: ElementType| {
            let mut weights = network.not_sites.iter().filter_map(|n| graph.node(n.node).input(1));
            weights.any(|weight| graph.value(weight).element_type == Some(wanted))
        };
        let hint = if of_type(ElementType::Double) {
            "convert the model to float32: scikit-learn's exporter takes the type of its example, \
             to_onnx(model, X.astype(numpy.float32)); PyTorch's that of model.float()"
        } else if of_type(ElementType::Float16) || of_type(ElementType::Bfloat16) {
            "grow the float32 model it was made from, model.float() in PyTorch, and convert the result to half precision \
             again"
        } else {
            "`dendrite inspect MODEL --sites` lists every linear node with the reason"
        };
        return Err(Error::Option {
            reason: if reasons.is_empty() {
                "the model has no site for dendrites: no Conv, ConvTranspose, Gemm, MatMul or recurrent operator that \
                 depends on its inputs"
                    .to_owned()
            } else {
                format!("the model has no site for dendrites; {}", reasons.join("; "))
            },
            hint: hint.to_owned(),
        });
    }
    let mut sites = select(&network.sites, &options.sites, &options.exclude)?;
    // Who trains the head alone wants nothing before it to change.
    if options.train == "head" && options.sites.is_empty() {
        let head = network.sites.last().map(|s| s.name.as_str());
        sites.retain(|s| Some(s.name.as_str()) == head);
    }
    let budget = options.max_parameters.map(|limit| budget(limit, base_parameters)).transpose()?;
    // Trained with everything else, dendrites do better together than one after the other (docs/results.md); the paper's
    // frozen ones need a fresh error each.
    let together = options.connect == Connection::Neuron && options.method != Method::Pb && options.width.is_none();
    let (cycles, width) =
        if together { (1, Some(options.dendrites as f64)) } else { (options.dendrites, options.width) };
    let demand = Demand { connect: options.connect, cycles, width, budget };
    Ok(Plan::new(&sites, &demand)?)
}
