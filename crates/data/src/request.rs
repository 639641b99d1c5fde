//! What a model asks of data.

use dendrite_onnx::{ElementType, Graph, Shape, ValueId};

use crate::preprocess::Preprocess;

/// What a model asks of data.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The model's inputs, in its order.
    pub inputs: Vec<Input>,
    /// The array of an input that is not called like it: pairs (input, array).
    pub map: Vec<(String, String)>,
    /// The array that holds the targets, if they are needed.
    pub target: Option<String>,
    /// The array that holds a weight for each sample.
    pub weight: Option<String>,
    /// How images become inputs.
    pub preprocess: Preprocess,
}

/// One input of a model.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub element_type: ElementType,
    /// Its shape, if the rank is known. The first axis counts samples, unless [`Self::per_batch`].
    pub shape: Option<Shape>,
    /// Whether it is the same for every batch, no axis counting samples.
    pub per_batch: bool,
}

impl Input {
    /// An input whose first axis counts samples.
    pub fn new(name: impl Into<String>, element_type: ElementType, shape: Option<Shape>) -> Self {
        Input { name: name.into(), element_type, shape, per_batch: false }
    }

    /// The inputs `values` of a graph. An input without a type is taken for float32.
    pub fn of_graph(graph: &Graph, values: &[ValueId]) -> Vec<Self> {
        let input = |id: &ValueId| {
            let value = graph.value(*id);
            Input::new(&value.name, value.element_type.unwrap_or(ElementType::Float), value.shape.clone())
        };
        values.iter().map(input).collect()
    }
}
