//! A random case: a node with its inputs.

use dendrite_onnx::{
    Attributes, Dim, ElementType, Graph, Shape, Tensor, ValueId, WORKING_OPSET, attributes::AttributeValue,
};

use crate::draw::Draw;

/// A family's operators, each group with what draws a case of one of them.
pub(crate) type Table = &'static [(&'static [&'static str], fn(&mut Draw, &str) -> Case)];

/// Floats, of whichever type the graph computes in.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f64>,
}

impl Array {
    pub(crate) fn new(shape: &[usize], values: Vec<f64>) -> Self {
        Array { shape: shape.to_vec(), values }
    }

    pub(crate) fn tensor(&self, float: ElementType) -> Tensor {
        match float {
            ElementType::Double => Tensor::from_f64(&self.shape, &self.values),
            _ => Tensor::from_f32(&self.shape, &self.values.iter().map(|v| *v as f32).collect::<Vec<_>>()),
        }
    }

    /// The values moved by `step` along a direction.
    pub(crate) fn moved(&self, direction: &[f64], step: f64) -> Self {
        let values = self.values.iter().zip(direction).map(|(v, d)| v + step * d).collect();
        Array { shape: self.shape.clone(), values }
    }

    /// No value is nearer to one of `kinks` than `gap`.
    pub(crate) fn avoiding(mut self, kinks: &[f64], gap: f64) -> Self {
        for v in &mut self.values {
            for kink in kinks {
                if (*v - kink).abs() < gap {
                    *v = crate::draw::exact(kink + if *v < *kink { -gap } else { gap });
                }
            }
        }
        self
    }

    /// The values broadcast to a shape.
    pub(crate) fn broadcast(&self, shape: &[usize]) -> Vec<f64> {
        let skipped = shape.len() - self.shape.len();
        (0..shape.iter().product())
            .map(|flat| {
                let (mut rest, mut at, mut stride) = (flat, 0, 1);
                for axis in (0..shape.len()).rev() {
                    let place = rest % shape[axis];
                    rest /= shape[axis];
                    if let Some(own) = axis.checked_sub(skipped).map(|axis| self.shape[axis]) {
                        at += stride * if own == 1 { 0 } else { place };
                        stride *= own;
                    }
                }
                self.values[at]
            })
            .collect()
    }
}

/// An input of a case's node.
pub(crate) enum Input {
    /// Left out.
    Missing,
    /// A float input of the graph with respect to which is differentiated.
    Trained(Array),
    /// A float constant.
    Fixed(Array),
    /// A constant of a type of its own.
    Constant(Tensor),
    /// An input of the graph of a type of its own.
    Fed(Tensor),
}

/// Adds what a case is made of to a graph, from the element type of floats and the inputs, and returns the outputs.
type Build = Box<dyn Fn(&mut Graph, ElementType, &[ValueId]) -> Vec<ValueId>>;

pub(crate) struct Case {
    pub(crate) label: String,
    pub(crate) inputs: Vec<Input>,
    pub(crate) attributes: Attributes,
    outputs: usize,
    /// Outputs that the loss does not depend on.
    pub(crate) unweighted: Vec<usize>,
    /// The type of the output, where it is not that of the inputs.
    pub(crate) output_type: Option<ElementType>,
    /// Whether the operator computes in float32 whatever its inputs are.
    pub(crate) single: bool,
    /// What the runtime computes instead, where it has no kernel for the operator.
    stand_in: Option<(&'static str, Attributes)>,
    /// Instead of one node.
    build: Option<Build>,
}

/// What is known of sizes when gradients are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Everything,
    /// All but the first axis of the first input and of the outputs.
    NoBatch,
    /// Ranks alone of the first input and the outputs.
    NoActivations,
    /// Ranks, and which sizes are equal.
    Symbols,
    /// Ranks alone.
    Nothing,
}

impl Case {
    pub(crate) fn of(label: &str) -> Self {
        Case {
            label: label.to_owned(),
            inputs: Vec::new(),
            attributes: Attributes::new(),
            outputs: 1,
            unweighted: Vec::new(),
            output_type: None,
            single: false,
            stand_in: None,
            build: None,
        }
    }

    /// With what adds more than one node.
    pub(crate) fn built(
        mut self,
        build: impl Fn(&mut Graph, ElementType, &[ValueId]) -> Vec<ValueId> + 'static,
    ) -> Self {
        self.build = Some(Box::new(build));
        self
    }

    pub(crate) fn x(mut self, array: Array) -> Self {
        self.inputs.push(Input::Trained(array));
        self
    }

    pub(crate) fn xs(mut self, arrays: impl IntoIterator<Item = Array>) -> Self {
        self.inputs.extend(arrays.into_iter().map(Input::Trained));
        self
    }

    pub(crate) fn fixed(mut self, array: Array) -> Self {
        self.inputs.push(Input::Fixed(array));
        self
    }

    pub(crate) fn constant(mut self, tensor: Tensor) -> Self {
        self.inputs.push(Input::Constant(tensor));
        self
    }

    pub(crate) fn none(mut self) -> Self {
        self.inputs.push(Input::Missing);
        self
    }

    pub(crate) fn input(mut self, input: Input) -> Self {
        self.inputs.push(input);
        self
    }

    /// A differentiated input, or none.
    pub(crate) fn maybe(self, array: Option<Array>) -> Self {
        match array {
            Some(array) => self.x(array),
            None => self.none(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<AttributeValue>) -> Self {
        self.attributes.set(name, value);
        self
    }

    /// An attribute that is given or has its default.
    pub(crate) fn with_some(self, name: &str, value: Option<impl Into<AttributeValue>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub(crate) fn outputs(mut self, count: usize) -> Self {
        self.outputs = count;
        self
    }

    pub(crate) fn unweighted(mut self, outputs: &[usize]) -> Self {
        self.unweighted = outputs.to_vec();
        self
    }

    pub(crate) fn gives(mut self, output: ElementType) -> Self {
        self.output_type = Some(output);
        self
    }

    pub(crate) fn single(mut self) -> Self {
        self.single = true;
        self
    }

    pub(crate) fn stand_in(mut self, op: &'static str, attributes: Attributes) -> Self {
        self.stand_in = Some((op, attributes));
        self
    }

    /// Perhaps one of several differentiated inputs becomes a constant.
    pub(crate) fn partly_fixed(mut self, r: &mut Draw) -> Self {
        let places: Vec<usize> = self.trained().into_iter().map(|(place, _)| place).collect();
        if places.len() > 1 && r.once_in(3) {
            let place = r.pick(&places);
            if let Input::Trained(array) = &self.inputs[place] {
                self.inputs[place] = Input::Fixed(array.clone());
            }
        }
        self
    }

    /// The differentiated inputs: their places and values.
    pub(crate) fn trained(&self) -> Vec<(usize, &Array)> {
        let mut trained = Vec::new();
        for (place, input) in self.inputs.iter().enumerate() {
            if let Input::Trained(array) = input {
                trained.push((place, array));
            }
        }
        trained
    }

    /// What the graph is fed, with one of the differentiated inputs replaced.
    pub(crate) fn feeds(&self, float: ElementType, replaced: Option<(usize, &Array)>) -> Vec<(String, Tensor)> {
        let feed = |(place, input): (usize, &Input)| {
            let tensor = match input {
                Input::Trained(array) => match replaced {
                    Some((at, other)) if at == place => other.tensor(float),
                    _ => array.tensor(float),
                },
                Input::Fed(tensor) => tensor.clone(),
                _ => return None,
            };
            Some((name(place), tensor))
        };
        self.inputs.iter().enumerate().filter_map(feed).collect()
    }

    /// The case as a graph that computes in `float`.
    pub(crate) fn graph(&self, float: ElementType) -> Graph {
        self.graph_of(float, &self.label, &self.attributes)
    }

    /// The graph that the runtime can run.
    pub(crate) fn runnable(&self, float: ElementType) -> Graph {
        match &self.stand_in {
            Some((op, attributes)) => self.graph_of(float, op, attributes),
            None => self.graph(float),
        }
    }

    fn graph_of(&self, float: ElementType, label: &str, attributes: &Attributes) -> Graph {
        let mut graph = Graph::new("case", WORKING_OPSET);
        graph.opsets.insert("com.microsoft".to_owned(), 1);
        let inputs: Vec<Option<ValueId>> = self
            .inputs
            .iter()
            .enumerate()
            .map(|(place, input)| {
                let name = name(place);
                Some(match input {
                    Input::Missing => return None,
                    Input::Trained(array) => graph.add_input(&name, float, Shape::known(&array.shape)),
                    Input::Fixed(array) => graph.add_constant(&name, array.tensor(float)),
                    Input::Constant(tensor) => graph.add_constant(&name, tensor.clone()),
                    Input::Fed(tensor) => graph.add_input(&name, tensor.element_type(), Shape::known(tensor.shape())),
                })
            })
            .collect();
        graph.outputs = match &self.build {
            Some(build) => build(&mut graph, float, &inputs.into_iter().flatten().collect::<Vec<_>>()),
            None => {
                let (domain, op) = label.rsplit_once('.').unwrap_or(("", label));
                let given = inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
                let outputs = graph.add_node(op, "y", &inputs[..given], attributes.clone(), self.outputs);
                if let Some(producer) = graph.value(outputs[0]).producer() {
                    graph.node_mut(producer).domain = domain.to_owned();
                }
                outputs
            }
        };
        graph
    }

    /// One line for a message.
    pub(crate) fn describe(&self) -> String {
        let input = |input: &Input| match input {
            Input::Missing => "-".to_owned(),
            Input::Trained(array) => format!("x{:?}", array.shape),
            Input::Fixed(array) => format!("fixed{:?}", array.shape),
            Input::Constant(t) => {
                format!("{}{:?}", t.element_type(), t.to_f64().filter(|v| v.len() < 9).unwrap_or_default())
            }
            Input::Fed(t) => format!("fed {}{:?}", t.element_type(), t.shape()),
        };
        let attribute = |a: &dendrite_onnx::proto::AttributeProto| {
            let numbers = [format!("{:?}", a.ints), format!("{:?}", a.floats), format!("{:?}", a.strings)];
            let list = numbers.into_iter().filter(|l| l != "[]").collect::<String>();
            let one =
                [a.i.map(|v| v.to_string()), a.f.map(|v| v.to_string())].into_iter().flatten().collect::<String>();
            format!("{}={list}{one}{}", a.name(), String::from_utf8_lossy(a.s()))
        };
        let inputs: Vec<_> = self.inputs.iter().map(input).collect();
        let attributes: Vec<_> = self.attributes.as_slice().iter().map(attribute).collect();
        format!("{} {}", inputs.join(" "), attributes.join(" "))
    }
}

fn name(place: usize) -> String {
    format!("x{place}")
}

/// Forget sizes of a graph's inputs and outputs.
pub(crate) fn forget(graph: &mut Graph, known: Known) {
    let inputs = match known {
        Known::Everything => return,
        Known::Nothing | Known::Symbols => graph.inputs.clone(),
        Known::NoBatch | Known::NoActivations => graph.inputs.iter().copied().take(1).collect(),
    };
    for v in inputs.into_iter().chain(graph.outputs.clone()) {
        let value = graph.value(v);
        let Some(mut shape) = value.shape.clone() else { continue };
        let element_type = value.element_type;
        let forgotten = if known == Known::NoBatch { 1.min(shape.rank()) } else { shape.rank() };
        for dim in &mut shape.0[..forgotten] {
            *dim = match dim.known() {
                Some(n) if known == Known::Symbols => Dim::Symbol(format!("n{n}")),
                _ => Dim::Unknown,
            };
        }
        graph.set_type(v, element_type, Some(shape));
    }
}
