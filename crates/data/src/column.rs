//! The named columns of a data set before they are matched to a model.

use std::{collections::HashMap, fmt, path::Path, sync::Arc};

use dendrite_onnx::ElementType;

use crate::{
    array::Array,
    error::{Error, Result},
    images::ImageList,
    spool::Budget,
};

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
    Text(Text),
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

/// A column of texts, read when they are asked for.
#[derive(Clone)]
pub(crate) struct Text {
    pub(crate) rows: usize,
    /// The first text with its place, where it is known.
    first: Option<String>,
    load: Arc<dyn Fn() -> Result<Coded> + Send + Sync>,
}

/// Texts as numbers.
#[derive(Debug, Default)]
pub(crate) struct Coded {
    /// For each row its text's place among `names`.
    pub(crate) codes: Vec<u32>,
    /// The different texts, in the order in which they first occur.
    pub(crate) names: Vec<String>,
}

/// More different texts than this are no classes.
const MOST_NAMES: usize = 100_000;

/// Numbers texts one after another.
pub(crate) struct Coder<'a> {
    path: &'a Path,
    coded: Coded,
    places: HashMap<String, u32>,
}

impl<'a> Coder<'a> {
    pub(crate) fn new(path: &'a Path) -> Self {
        Coder { path, coded: Coded::default(), places: HashMap::new() }
    }

    pub(crate) fn push(&mut self, text: &str) -> Result<()> {
        let code = match self.places.get(text) {
            Some(code) => *code,
            None if self.coded.names.len() == MOST_NAMES => {
                let reason = format!("the target holds more than {MOST_NAMES} different texts");
                return Err(Error::data(
                    self.path,
                    reason,
                    "targets that are texts name classes; choose another column",
                ));
            }
            None => {
                let code = self.coded.names.len() as u32;
                self.places.insert(text.to_owned(), code);
                self.coded.names.push(text.to_owned());
                code
            }
        };
        self.coded.codes.push(code);
        Ok(())
    }

    pub(crate) fn finish(self) -> Coded {
        self.coded
    }
}

impl Text {
    pub(crate) fn new(
        rows: usize,
        first: Option<String>,
        load: impl Fn() -> Result<Coded> + Send + Sync + 'static,
    ) -> Self {
        Text { rows, first, load: Arc::new(load) }
    }

    /// The first text for a message, as far as it is known.
    pub(crate) fn example(&self) -> String {
        self.first.as_ref().map(|first| format!(" ({first})")).unwrap_or_default()
    }

    pub(crate) fn load(&self) -> Result<Coded> {
        (self.load)()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "text[{}]", self.rows)
    }
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let element_type = if self.whole { ElementType::Int64 } else { self.element_type };
        write!(f, "{element_type}{:?}", self.shape)
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

    /// The same, known to be all whole or not.
    pub(crate) fn whole(self, whole: bool) -> Self {
        Numbers { whole, ..self }
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
