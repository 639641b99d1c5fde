//! The named columns of a data set before they are matched to a model.

use std::{fmt, sync::Arc};

use dendrite_onnx::ElementType;

use crate::{array::Array, error::Result, images::ImageList, spool::Budget};

/// One named column.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// Other names it answers to.
    pub(crate) aliases: Vec<String>,
    pub(crate) content: Content,
}

#[derive(Debug, Clone)]
pub(crate) enum Content {
    /// Numbers.
    Numbers(Numbers),
    /// Texts, one a row.
    Text(Arc<Text>),
    /// Image files, one a row.
    Images(Arc<ImageList>),
    /// Something that is no numbers; an error only where it is asked for.
    Unusable { reason: String, hint: String },
}

/// Numbers whose type and shape are known and that may still have to be decoded.
#[derive(Clone)]
pub(crate) struct Numbers {
    pub(crate) element_type: ElementType,
    pub(crate) shape: Vec<usize>,
    /// Floats that are all whole, as text formats and tables yield where integers are meant.
    pub(crate) whole: bool,
    load: Load,
}

#[derive(Clone)]
enum Load {
    Ready(Array),
    Deferred(Arc<Decode>),
}

type Decode = dyn Fn(&mut Budget) -> Result<Array> + Send + Sync;

/// A column of texts.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    pub(crate) values: Vec<String>,
    /// What the first text that is no number is called: its row, its line where there are lines, and itself.
    pub(crate) first: String,
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.element_type, self.shape)
    }
}

impl Numbers {
    /// Numbers that are there.
    pub(crate) fn ready(array: Array) -> Self {
        Numbers { element_type: array.element_type, shape: array.shape.clone(), whole: false, load: Load::Ready(array) }
    }

    /// Numbers that `load` decodes when they are asked for.
    pub(crate) fn deferred(
        element_type: ElementType,
        shape: Vec<usize>,
        load: impl Fn(&mut Budget) -> Result<Array> + Send + Sync + 'static,
    ) -> Self {
        Numbers { element_type, shape, whole: false, load: Load::Deferred(Arc::new(load)) }
    }

    pub(crate) fn load(&self, budget: &mut Budget) -> Result<Array> {
        match &self.load {
            Load::Ready(array) => Ok(array.clone()),
            Load::Deferred(load) => load(budget),
        }
    }
}

impl Column {
    pub(crate) fn numbers(name: impl Into<String>, numbers: Numbers) -> Self {
        Column { name: name.into(), aliases: Vec::new(), content: Content::Numbers(numbers) }
    }

    pub(crate) fn unusable(name: impl Into<String>, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        let content = Content::Unusable { reason: reason.into(), hint: hint.into() };
        Column { name: name.into(), aliases: Vec::new(), content }
    }

    pub(crate) fn answers_to(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }
}
