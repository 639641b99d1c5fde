//! Many runs of one graph with its state kept on the device: the training step.
//!
//! State goes from output to input without a copy: there are two tensors for each slot and two bindings, one reading the
//! first and writing the second, one the other way round, used in turn. A tensor is never bound as input and output of
//! the same run, since ONNX Runtime may write it before it is read.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use dendrite_onnx::{ElementType, Tensor};
use ort::{
    AsPointer,
    memory::Allocator,
    session::{IoBinding, RunOptions},
    value::DynTensor,
};

use crate::{
    convert,
    error::{Error, Result},
    session::{self, Device, Port, Session},
};

/// A value that a step reads and replaces.
#[derive(Debug, Clone)]
pub struct StateSlot {
    /// The input the value is read from.
    pub input: String,
    /// The output its successor is written to, of the same type and shape.
    pub output: String,
    /// The value before the first step.
    pub initial: Tensor,
}

/// A session run in steps with resident state.
///
/// Feeds keep what was last written to them, so a weight or a constant batch may be written once.
pub struct Loop {
    session: Session,
    control: Terminator,
    /// Binding `k` reads tensor `k` of every slot and writes tensor `1 - k`.
    bindings: [IoBinding; 2],
    /// The binding of the next step, and with it the tensors that hold the current state.
    current: usize,
    state: Vec<Slot>,
    /// Inputs that are read from the state of another loop.
    borrowed: Vec<String>,
    feeds: Vec<Feed>,
    feed_index: HashMap<String, usize>,
    fetches: Vec<(String, DynTensor)>,
    fetch_index: HashMap<String, usize>,
}

struct Slot {
    input: String,
    element_type: ElementType,
    shape: Vec<usize>,
    tensors: [DynTensor; 2],
}

struct Feed {
    name: String,
    tensor: DynTensor,
    /// Which bindings hold an older copy on the device; never set on the CPU, where they share the tensor.
    stale: [bool; 2],
}

/// Ends a step from another thread or a signal handler.
#[derive(Clone)]
pub struct Terminator {
    options: Arc<RunOptions>,
    raised: Arc<AtomicBool>,
}

impl Terminator {
    /// End the step under way within milliseconds with [`Error::Interrupted`], and every step after it.
    pub fn terminate(&self) {
        self.raised.store(true, Ordering::SeqCst);
        // Setting the flag cannot fail on valid options; if it did, the next step still sees `raised`.
        let _ = self.options.terminate();
    }

    /// Whether [`Terminator::terminate`] was called.
    pub fn is_terminated(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }
}

impl Loop {
    /// Prepare steps of `session`. Together, `state` and `feeds` must be all its inputs; `fetches` are the outputs that
    /// can be read after a step. Each of the others is given by name, type and shape.
    ///
    /// A graph output that is neither state nor fetch is not computed.
    pub fn new(
        session: Session,
        state: Vec<StateSlot>,
        feeds: &[(String, ElementType, Vec<usize>)],
        fetches: &[(String, ElementType, Vec<usize>)],
    ) -> Result<Self> {
        Self::borrowing(session, state, &[], feeds, fetches)
    }

    /// As [`Loop::new`], with some inputs `borrowed` from the state of another loop, where they have the same names: see
    /// [`Loop::borrow_state`], which comes before the first step.
    pub fn borrowing(
        session: Session,
        state: Vec<StateSlot>,
        borrowed: &[(String, ElementType, Vec<usize>)],
        feeds: &[(String, ElementType, Vec<usize>)],
        fetches: &[(String, ElementType, Vec<usize>)],
    ) -> Result<Self> {
        check(&session, &state, &[borrowed, feeds].concat(), fetches)?;
        let host = Allocator::default();
        let device = match session.device() {
            Device::Cpu => Allocator::default(),
            Device::Cuda(id) => session::device_allocator(&session.inner, id).map_err(Error::run)?,
        };
        let on_host = session.device() == Device::Cpu;
        let bind = || session.inner.create_binding().map_err(Error::run);
        let mut bindings = [bind()?, bind()?];

        let mut slots = Vec::with_capacity(state.len());
        for slot in state {
            let (element_type, shape) = (slot.initial.element_type(), slot.initial.shape().to_vec());
            let mut tensors =
                [convert::allocate(&device, element_type, &shape)?, convert::allocate(&device, element_type, &shape)?];
            for (k, binding) in bindings.iter_mut().enumerate() {
                binding.bind_input(&slot.input, &tensors[k]).map_err(Error::run)?;
                binding.bind_output(&slot.output, &mut tensors[1 - k]).map_err(Error::run)?;
            }
            place(&slot.input, &mut tensors[0], &slot.initial)?;
            slots.push(Slot { input: slot.input, element_type, shape, tensors });
        }

        let mut fed = Vec::with_capacity(feeds.len());
        for (name, element_type, shape) in feeds {
            let tensor = convert::allocate(&host, *element_type, shape)?;
            for binding in &mut bindings {
                binding.bind_input(name, &tensor).map_err(Error::run)?;
            }
            fed.push(Feed { name: name.clone(), tensor, stale: [!on_host; 2] });
        }

        let mut fetched = Vec::with_capacity(fetches.len());
        for (name, element_type, shape) in fetches {
            let mut tensor = convert::allocate(&host, *element_type, shape)?;
            for binding in &mut bindings {
                binding.bind_output(name, &mut tensor).map_err(Error::run)?;
            }
            fetched.push((name.clone(), tensor));
        }

        let index = |names: Vec<&String>| names.into_iter().enumerate().map(|(i, n)| (n.clone(), i)).collect();
        Ok(Loop {
            control: Terminator {
                options: Arc::new(RunOptions::new().map_err(Error::run)?),
                raised: Arc::new(AtomicBool::new(false)),
            },
            session,
            bindings,
            current: 0,
            state: slots,
            borrowed: borrowed.iter().map(|(name, _, _)| name.clone()).collect(),
            feed_index: index(fed.iter().map(|f| &f.name).collect()),
            feeds: fed,
            fetch_index: index(fetched.iter().map(|f| &f.0).collect()),
            fetches: fetched,
        })
    }

    /// Overwrite a feed with little-endian elements in row-major order.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let feed = self.feed_mut(name)?;
        convert::write(name, &mut feed.tensor, bytes)
    }

    /// Overwrite a float32 feed.
    pub fn write_f32(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let feed = self.feed_mut(name)?;
        let (_, slot) = feed.tensor.try_extract_tensor_mut::<f32>().map_err(|e| Error::port(name, e.to_string()))?;
        copy(name, slot, values)
    }

    /// Overwrite an int64 feed.
    pub fn write_i64(&mut self, name: &str, values: &[i64]) -> Result<()> {
        let feed = self.feed_mut(name)?;
        let (_, slot) = feed.tensor.try_extract_tensor_mut::<i64>().map_err(|e| Error::port(name, e.to_string()))?;
        copy(name, slot, values)
    }

    fn feed_mut(&mut self, name: &str) -> Result<&mut Feed> {
        let on_host = self.session.device() == Device::Cpu;
        let index = self.feed_index.get(name).ok_or_else(|| Error::port(name, "the loop has no such feed"))?;
        let feed = &mut self.feeds[*index];
        feed.stale = [!on_host; 2];
        Ok(feed)
    }

    /// Run the graph once. After an error, interruption included, the state is what it was before the step.
    pub fn step(&mut self) -> Result<()> {
        self.run(&self.control.options.clone())
    }

    /// As [`Loop::step`], the last one for a while: the memory that the session keeps for computed values is given back
    /// afterwards. It cannot be interrupted once it is under way.
    pub fn step_and_release(&mut self) -> Result<()> {
        let mut options = RunOptions::new().map_err(Error::run)?;
        if self.session.device() == Device::Cpu {
            options.set("memory.enable_memory_arena_shrinkage", "cpu:0").map_err(Error::run)?;
        }
        self.run(&options)
    }

    fn run(&mut self, options: &RunOptions) -> Result<()> {
        if self.control.is_terminated() {
            return Err(Error::Interrupted);
        }
        let binding = &mut self.bindings[self.current];
        for feed in self.feeds.iter_mut().filter(|f| f.stale[self.current]) {
            // Binding a host tensor to a device input is what copies it there.
            binding.bind_input(&feed.name, &feed.tensor).map_err(Error::run)?;
            feed.stale[self.current] = false;
        }
        // `run_binding` of the crate would wrap every bound output anew at each step, only to have them dropped.
        // SAFETY: session, options and binding are alive, the session is the one the binding was made for, and `&mut self`
        // keeps every other run of it away; the status is used once.
        let status = unsafe {
            let session = self.session.inner.ptr_mut();
            let status = (ort::api().RunWithBinding)(session, options.ptr(), binding.ptr());
            ort::Error::result_from_status(status)
        };
        status.map_err(|e| if self.control.is_terminated() { Error::Interrupted } else { Error::run(e) })?;
        if self.session.device() != Device::Cpu {
            binding.synchronize_outputs().map_err(Error::run)?;
        }
        self.current = 1 - self.current;
        Ok(())
    }

    /// What the last step wrote to an output; zeros before the first.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        convert::from_ort(name, self.fetch(name)?)
    }

    /// What the last step wrote to a float32 output, in place of the contents of `values`.
    pub fn read_f32(&self, name: &str, values: &mut Vec<f32>) -> Result<()> {
        let (_, data) = self.fetch(name)?.try_extract_tensor::<f32>().map_err(|e| Error::port(name, e.to_string()))?;
        values.clear();
        values.extend_from_slice(data);
        Ok(())
    }

    fn fetch(&self, name: &str) -> Result<&DynTensor> {
        let index = self.fetch_index.get(name).ok_or_else(|| Error::port(name, "the loop has no such fetch"))?;
        Ok(&self.fetches[*index].1)
    }

    /// A copy of the state, in the order of its slots.
    pub fn state(&self) -> Result<Vec<Tensor>> {
        self.state.iter().map(|s| convert::from_ort(&s.input, &s.tensors[self.current])).collect()
    }

    /// A copy of the state before the last step, in the order of its slots: the step has not touched it.
    pub fn previous_state(&self) -> Result<Vec<Tensor>> {
        self.state.iter().map(|s| convert::from_ort(&s.input, &s.tensors[1 - self.current])).collect()
    }

    /// Replace the state. Types and shapes must be those of the slots.
    pub fn set_state(&mut self, state: &[Tensor]) -> Result<()> {
        if state.len() != self.state.len() {
            let reason = format!("{} tensors were given for {} slots", state.len(), self.state.len());
            return Err(Error::port("state", reason));
        }
        for (slot, tensor) in self.state.iter().zip(state) {
            if (slot.element_type, slot.shape.as_slice()) != (tensor.element_type(), tensor.shape()) {
                let (given, shape) = (tensor.element_type(), tensor.shape());
                let reason = format!("takes {}{:?}, not {given}{shape:?}", slot.element_type, slot.shape);
                return Err(Error::port(&slot.input, reason));
            }
        }
        let current = self.current;
        for (slot, tensor) in self.state.iter_mut().zip(state) {
            place(&slot.input, &mut slot.tensors[current], tensor)?;
        }
        Ok(())
    }

    /// Set the whole state to zero.
    pub fn reset(&mut self) -> Result<()> {
        let current = self.current;
        for slot in &mut self.state {
            let tensor = &mut slot.tensors[current];
            if tensor.memory_info().is_cpu_accessible() {
                convert::clear(&slot.input, tensor)?;
            } else {
                place(&slot.input, tensor, &Tensor::filled(slot.element_type, &slot.shape, 0.0))?;
            }
        }
        Ok(())
    }

    /// Read the borrowed inputs from the current state of `lender` from now on, without a copy. To be called again after each
    /// of its steps.
    pub fn borrow_state(&mut self, lender: &Loop) -> Result<()> {
        for name in &self.borrowed {
            let slot = lender.state.iter().find(|slot| slot.input == *name);
            let slot = slot.ok_or_else(|| Error::port(name, "the other loop has no such state"))?;
            for binding in &mut self.bindings {
                binding.bind_input(name, &slot.tensors[lender.current]).map_err(Error::run)?;
            }
        }
        Ok(())
    }

    /// A handle that ends a step from another thread.
    pub fn terminator(&self) -> Terminator {
        self.control.clone()
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }
}

/// Put a tensor's contents where `target` lies, host or device.
fn place(name: &str, target: &mut DynTensor, tensor: &Tensor) -> Result<()> {
    if target.memory_info().is_cpu_accessible() {
        return convert::write(name, target, tensor.bytes());
    }
    convert::to_ort(name, tensor)?.copy_into(target).map_err(Error::run)
}

fn copy<T: Copy>(name: &str, slot: &mut [T], values: &[T]) -> Result<()> {
    if slot.len() != values.len() {
        return Err(Error::port(name, format!("takes {} elements, {} were given", slot.len(), values.len())));
    }
    slot.copy_from_slice(values);
    Ok(())
}

/// Whether names, types and shapes fit the session, and every input is covered exactly once.
fn check(
    session: &Session,
    state: &[StateSlot],
    feeds: &[(String, ElementType, Vec<usize>)],
    fetches: &[(String, ElementType, Vec<usize>)],
) -> Result<()> {
    fn claim<'a>(
        ports: &[Port],
        name: &'a str,
        ty: ElementType,
        shape: &[usize],
        seen: &mut HashSet<&'a str>,
    ) -> Result<()> {
        let port =
            ports.iter().find(|p| p.name == name).ok_or_else(|| Error::port(name, "the graph has no such port"))?;
        if !seen.insert(name) {
            return Err(Error::port(name, "bound twice"));
        }
        if ty == ElementType::String {
            return Err(Error::port(name, "strings cannot be bound"));
        }
        port.accepts(ty, shape)
    }
    let (mut inputs, mut outputs) = (HashSet::new(), HashSet::new());
    for slot in state {
        let (ty, shape) = (slot.initial.element_type(), slot.initial.shape());
        claim(session.inputs(), &slot.input, ty, shape, &mut inputs)?;
        claim(session.outputs(), &slot.output, ty, shape, &mut outputs)?;
    }
    for (name, ty, shape) in feeds {
        claim(session.inputs(), name, *ty, shape, &mut inputs)?;
    }
    for (name, ty, shape) in fetches {
        claim(session.outputs(), name, *ty, shape, &mut outputs)?;
    }
    match session.inputs().iter().find(|p| !inputs.contains(p.name.as_str())) {
        Some(port) => Err(Error::port(&port.name, "the input is neither state nor feed")),
        None => Ok(()),
    }
}
