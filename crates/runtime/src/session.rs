//! Sessions: a model loaded for one device, run on tensors of any type.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use dendrite_onnx::{ElementType, Graph, Shape, Tensor};
use ort::{
    ep,
    logging::LogLevel,
    memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType},
    session::{
        HasSelectedOutputs, OutputSelector, RunOptions,
        builder::{AutoDevicePolicy, GraphOptimizationLevel, SessionBuilder},
    },
    value::{DynTensor, DynTensorValueType},
};
use prost::Message;

use crate::{
    convert, environment,
    error::{Error, Result},
};

/// Where a session runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The CUDA device of this number.
    Cuda(u32),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match (s, s.strip_prefix("cuda:").map(str::parse)) {
            ("cpu", _) => Ok(Device::Cpu),
            ("cuda", _) => Ok(Device::Cuda(0)),
            (_, Some(Ok(n))) => Ok(Device::Cuda(n)),
            _ => Err(format!("'{s}' is no device; say cpu, cuda or cuda:N")),
        }
    }
}

/// How much ONNX Runtime may rewrite the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Optimization {
    /// Not at all.
    Off,
    /// Semantics-preserving clean-up such as constant folding.
    Basic,
    /// Fusions too.
    Extended,
    /// Layout changes too.
    #[default]
    All,
}

/// How a session is built.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Where it runs.
    pub device: Device,
    /// Threads within an operator; 0 means one for each core this process may use.
    pub threads: usize,
    /// How much the graph may be rewritten.
    pub optimization: Optimization,
    /// Whether idle threads spin. Spinning saves microseconds a run on an idle machine and loses many times that on a
    /// busy one, so it is off by default.
    pub spinning: bool,
    /// Whether subnormal numbers count as zero, which some processors are far faster with.
    pub flush_subnormals: bool,
    /// Whether the places of all values are planned as one block from the second run on. That saves an allocation a value,
    /// which a small graph feels; a large one then holds the block beside the memory of its first run, twice what it needs.
    pub memory_pattern: bool,
    /// Where to write the graph as it runs, after `optimization`.
    pub dump: Option<PathBuf>,
    /// Where to write the time of every node of every run (the Chrome trace format), once the session is dropped. ONNX
    /// Runtime adds a time and `.json` to the name.
    pub profile: Option<PathBuf>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        SessionOptions {
            device: Device::Cpu,
            threads: 0,
            optimization: Optimization::All,
            spinning: false,
            flush_subnormals: false,
            memory_pattern: true,
            dump: None,
            profile: None,
        }
    }
}

/// An input or output of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Port {
    /// The name.
    pub name: String,
    /// The element type; `None` where the value is not a tensor.
    pub element_type: Option<ElementType>,
    /// The shape; `None` where the rank is unknown or the value is not a tensor.
    pub shape: Option<Shape>,
}

/// The size above which a protobuf message cannot be read.
const MESSAGE_LIMIT: usize = i32::MAX as usize;

/// Type, shape and, if small, contents of an output.
pub(crate) type Glance = (ElementType, Vec<usize>, Option<Tensor>);

/// A loaded model.
pub struct Session {
    pub(crate) inner: ort::session::Session,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    device: Device,
    /// Set where some outputs are no tensors: the others are asked for by name.
    tensors_only: Option<RunOptions<HasSelectedOutputs>>,
}

impl Session {
    /// Load a model from memory. It cannot refer to external data.
    pub fn from_bytes(bytes: &[u8], options: &SessionOptions) -> Result<Self> {
        Self::commit(options, |builder| builder.commit_from_memory(bytes))
    }

    /// Load a model from a file; external data is read from beside it.
    pub fn from_file(path: &Path, options: &SessionOptions) -> Result<Self> {
        Self::commit(options, |builder| builder.commit_from_file(path))
    }

    /// Load a working copy. One of more than 2 GB is refused: it would not fit a protobuf message.
    pub fn from_graph(graph: &Graph, options: &SessionOptions) -> Result<Self> {
        let model = graph.to_model()?;
        let len = model.encoded_len();
        if len > MESSAGE_LIMIT {
            return Err(Error::Load {
                reason: format!(
                    "the graph '{}' takes {len} bytes, more than a model without external data can",
                    graph.name
                ),
            });
        }
        Self::from_bytes(&model.encode_to_vec(), options)
    }

    fn commit(
        options: &SessionOptions,
        load: impl FnOnce(&mut SessionBuilder) -> ort::Result<ort::session::Session>,
    ) -> Result<Self> {
        let environment = environment::get()?;
        let mut builder = configure(SessionBuilder::new(&environment).map_err(Error::run)?, options)
            .map_err(|e| Error::Load { reason: e.to_string() })?;
        if let Device::Cuda(id) = options.device {
            let fail = |e: ort::Error| Error::Device { device: options.device.to_string(), reason: e.to_string() };
            builder = builder
                .with_execution_providers([cuda(id).build().error_on_failure()])
                .map_err(|e| fail(ort::Error::from(e)))?;
        }
        let inner = load(&mut builder).map_err(|e| Error::load(&e.to_string()))?;
        if let Device::Cuda(id) = options.device {
            // A provider may register and yet take no device; then the session has no allocator for it.
            device_allocator(&inner, id)
                .map_err(|e| Error::Device { device: options.device.to_string(), reason: e.to_string() })?;
        }
        let port = |outlet: &ort::value::Outlet| {
            let (element_type, shape) = convert::port_type(outlet.dtype());
            Port { name: outlet.name().to_owned(), element_type, shape }
        };
        let inputs: Vec<Port> = inner.inputs().iter().map(port).collect();
        let mut outputs: Vec<Port> = inner.outputs().iter().map(port).collect();
        for (i, port) in outputs.iter_mut().enumerate() {
            if port.shape.as_ref().is_some_and(|s| s.rank() == 0) && !convert::output_has_shape(&inner, i)? {
                port.shape = None;
            }
        }
        let tensors_only = if outputs.iter().all(|o| o.element_type.is_some()) {
            None
        } else {
            let tensors = outputs.iter().filter(|o| o.element_type.is_some());
            let selector = tensors.fold(OutputSelector::no_default(), |s, o| s.with(&o.name));
            Some(RunOptions::new().map_err(Error::run)?.with_outputs(selector))
        };
        Ok(Session { inner, inputs, outputs, device: options.device, tensors_only })
    }

    /// The inputs, in the model's order. Initializers that an input may override are not among them.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// The device the session really runs on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Run the model and return every output that is a tensor, in the model's order.
    ///
    /// `feeds` may also name initializers that the model allows to be overridden.
    pub fn run(&mut self, feeds: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>> {
        self.run_with(feeds, convert::from_ort)
    }

    /// Run the model and return what its outputs are, with copies of those of at most `most` elements.
    pub(crate) fn run_glancing(&mut self, feeds: &[(&str, &Tensor)], most: usize) -> Result<Vec<(String, Glance)>> {
        self.run_with(feeds, |name, value| {
            let (element_type, shape) = convert::facts(name, value)?;
            let is_small = shape.iter().product::<usize>() <= most;
            let contents = is_small.then(|| convert::from_ort(name, value)).transpose()?;
            Ok((element_type, shape, contents))
        })
    }

    fn run_with<T>(
        &mut self,
        feeds: &[(&str, &Tensor)],
        read: impl Fn(&str, &DynTensor) -> Result<T>,
    ) -> Result<Vec<(String, T)>> {
        for input in &self.inputs {
            if !feeds.iter().any(|(name, _)| *name == input.name) {
                return Err(Error::port(&input.name, "the input is missing"));
            }
        }
        let mut values = Vec::with_capacity(feeds.len());
        for (name, tensor) in feeds {
            if let Some(port) = self.inputs.iter().find(|p| p.name == *name) {
                port.accepts(tensor.element_type(), tensor.shape())?;
            }
            values.push((*name, convert::to_ort(name, tensor)?));
        }
        let outputs = match &self.tensors_only {
            None => self.inner.run(values),
            Some(options) => self.inner.run_with_options(values, options),
        }
        .map_err(Error::run)?;
        outputs
            .into_iter()
            .map(|(name, value)| {
                let value = value.downcast::<DynTensorValueType>().map_err(Error::run)?;
                Ok((name.to_owned(), read(name, &value)?))
            })
            .collect()
    }
}

impl Port {
    /// Whether a tensor of this type and shape fits the port.
    pub fn accepts(&self, element_type: ElementType, shape: &[usize]) -> Result<()> {
        if let Some(own) = self.element_type.filter(|own| *own != element_type) {
            return Err(Error::port(&self.name, format!("takes {own}, not {element_type}")));
        }
        let Some(own) = &self.shape else { return Ok(()) };
        let fits = own.rank() == shape.len()
            && own.0.iter().zip(shape).all(|(own, given)| own.known().is_none_or(|own| own == *given));
        if fits { Ok(()) } else { Err(Error::port(&self.name, format!("takes shape {own}, not {shape:?}"))) }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("inputs", &self.inputs)
            .field("outputs", &self.outputs)
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

fn configure(builder: SessionBuilder, options: &SessionOptions) -> ort::Result<SessionBuilder> {
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let level = match options.optimization {
        Optimization::Off => GraphOptimizationLevel::Disable,
        Optimization::Basic => GraphOptimizationLevel::Level1,
        Optimization::Extended => GraphOptimizationLevel::Level2,
        Optimization::All => GraphOptimizationLevel::All,
    };
    let mut builder = builder
        .with_auto_device(AutoDevicePolicy::PreferCPU)?
        .with_log_level(LogLevel::Warning)?
        .with_deterministic_compute(true)?
        .with_intra_threads(threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(options.spinning)?
        .with_memory_pattern(options.memory_pattern)?
        .with_optimization_level(level)?;
    if options.flush_subnormals {
        builder = builder.with_flush_to_zero()?;
    }
    if let Some(path) = &options.dump {
        builder = builder.with_optimized_model_path(path)?;
    }
    if let Some(path) = &options.profile {
        builder = builder.with_profiling(path)?;
    }
    Ok(builder)
}

/// CUDA as CPU results can be compared with: full float32 products and no kernel chosen by timing.
fn cuda(id: u32) -> ep::CUDA {
    ep::CUDA::default()
        .with_device_id(id as i32)
        .with_tf32(false)
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
}

/// The allocator of a CUDA device's memory.
pub(crate) fn device_allocator(session: &ort::session::Session, id: u32) -> ort::Result<Allocator> {
    let info = MemoryInfo::new(AllocationDevice::CUDA, id as i32, AllocatorType::Device, MemoryType::Default)?;
    Allocator::new(session, info)
}
