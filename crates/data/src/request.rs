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
    /// Arrays that are neither inputs nor this target, and are not to be taken for columns of an input.
    pub others: Vec<String>,
    /// How images become inputs.
    pub preprocess: Preprocess,
}

impl Request {
    /// The names of the arrays that are no inputs of the model: targets and weights.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &str> {
        let array = |input: &'_ str| self.map.iter().find(|(name, _)| name == input).map(|(_, array)| array.as_str());
        let further = self.inputs.iter().filter(|i| i.target).filter_map(move |i| array(&i.name));
        let others = self.others.iter().map(String::as_str);
        [&self.target, &self.weight].into_iter().filter_map(|n| n.as_deref()).chain(further).chain(others)
    }
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
    /// Whether it is a further target: a loss reads it, not the model. Of augmentation, only mixing changes it.
    pub target: bool,
}

impl Input {
    /// An input whose first axis counts samples.
    pub fn new(name: impl Into<String>, element_type: ElementType, shape: Option<Shape>) -> Self {
        Input { name: name.into(), element_type, shape, per_batch: false, target: false }
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
