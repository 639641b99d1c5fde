//! Targets and weights of samples.

use std::collections::HashMap;

use dendrite_onnx::{ElementType, Tensor};

use crate::{
    array::{Array, Origin},
    column::{Content, Numbers, Text},
    dataset::DataSet,
    error::Result,
    matching::{Found, missing, numbers_or_images, same_rows},
    names::{Role, list},
    preprocess::Classes,
    request::Request,
    samples::{Field, Slot, Source},
    spool::Budget,
    table,
};

/// What was found for a target.
pub(crate) enum Target<'a> {
    Numbers(Found<'a>),
    Text(&'a str, &'a Text),
}

pub(crate) fn find<'a>(set: &'a DataSet, name: &str, role: &Role) -> Result<Target<'a>> {
    let Some(column) = set.columns.iter().find(|c| c.answers_to(name)) else {
        let parts = if set.table { table::series(set, name, role)? } else { None };
        return parts.map(|p| Target::Numbers(Found::Parts(p))).ok_or_else(|| missing(set, name, role));
    };
    match &column.content {
        Content::Text(text) => Ok(Target::Text(&column.name, text)),
        Content::Images(_) => {
            Err(set.error(format!("'{name}' holds images, {role} are numbers"), "say --target array"))
        }
        _ => numbers_or_images(set, column, role).map(Target::Numbers),
    }
}

impl<'a> Target<'a> {
    pub(crate) fn rows(&self) -> usize {
        match self {
            Target::Numbers(Found::Numbers(_, numbers)) => numbers.shape.first().copied().unwrap_or(0),
            Target::Numbers(Found::Parts(parts)) => {
                parts.first().map_or(0, |(_, n)| n.shape.first().copied().unwrap_or(0))
            }
            Target::Numbers(Found::Images(_)) => 0,
            Target::Text(_, text) => text.rows,
        }
    }

    pub(crate) fn found(&self) -> Option<&Found<'a>> {
        match self {
            Target::Numbers(found) => Some(found),
            Target::Text(..) => None,
        }
    }

    /// The numbers as an array, integers as int64 and floats as float32.
    fn array(self, set: &DataSet, name: &str, budget: &mut Budget) -> Result<(Array, ElementType)> {
        let kind = |numbers: &Numbers| {
            if numbers.element_type.is_float() && !numbers.whole { ElementType::Float } else { ElementType::Int64 }
        };
        match self {
            Target::Numbers(Found::Numbers(_, numbers)) => {
                let to = kind(numbers);
                Ok((numbers.load(budget)?.settled(to, budget)?, to))
            }
            Target::Numbers(Found::Parts(parts)) => {
                let integers = parts.iter().all(|(_, n)| kind(n) == ElementType::Int64);
                let to = if integers { ElementType::Int64 } else { ElementType::Float };
                let array = table::beside(set, &parts, to, name, budget)?;
                let width = array.row_len();
                Ok((array.with_row_shape(&[width]).settled(to, budget)?, to))
            }
            Target::Numbers(Found::Images(_)) | Target::Text(..) => {
                Err(set.error(format!("'{name}' holds no numbers"), "targets are numbers"))
            }
        }
    }

    pub(crate) fn slot(
        self,
        set: &DataSet,
        request: &Request,
        rows: usize,
        classes: &mut Option<Vec<String>>,
        budget: &mut Budget,
    ) -> Result<Slot> {
        let name = request.target.clone().unwrap_or_default();
        if let Target::Text(column, text) = &self {
            same_rows(set, column, text.rows, rows)?;
            let (labels, names) = labels(set, request, column, text)?;
            *classes = Some(names);
            let array = Array::from_tensor(Origin::new(&set.path, column), &labels)?;
            return Ok(Slot::target(name, array, ElementType::Int64));
        }
        let (array, element_type) = self.array(set, &name, budget)?;
        Ok(Slot::target(name, array, element_type))
    }

    /// A weight for each sample, as float32.
    pub(crate) fn weights(self, set: &DataSet, rows: usize, budget: &mut Budget) -> Result<Slot> {
        let name = match &self {
            Target::Numbers(found) => found.name().to_owned(),
            Target::Text(column, _) => (*column).to_owned(),
        };
        if let Target::Text(column, text) = &self {
            return Err(set.error(
                format!("column '{column}' holds text{}, sample weights are numbers", text.example()),
                "repair the cell",
            ));
        }
        let (array, _) = self.array(set, &name, budget)?;
        if array.row_len() != 1 {
            return Err(set.error(
                format!("array '{name}' has shape {:?}, sample weights are one number a sample", array.shape),
                "save one weight for each sample",
            ));
        }
        same_rows(set, &name, array.rows(), rows)?;
        let array = array.with_row_shape(&[]);
        let (mut row, mut negative, mut positive) = (0, None, false);
        array.scan(ElementType::Float, |block| {
            for bytes in block.as_chunks::<4>().0 {
                let weight = f32::from_le_bytes(*bytes);
                if weight < 0.0 && negative.is_none() {
                    negative = Some(row);
                }
                positive |= weight > 0.0;
                row += 1;
            }
            Ok(())
        })?;
        if let Some(row) = negative {
            return Err(
                set.error(format!("array '{name}' holds a negative weight in row {row}"), "weights are 0 or more")
            );
        }
        if !positive {
            return Err(set.error(format!("array '{name}' weighs every sample 0"), "give some sample a weight above 0"));
        }
        let field =
            Field { name, element_type: ElementType::Float, row_shape: Vec::new(), per_sample: true, target: false };
        Ok(Slot::new(field, Source::Array(array), None))
    }
}

/// Texts as class numbers: the place in `preprocess.classes`, else among the sorted texts.
fn labels(set: &DataSet, request: &Request, column: &str, text: &Text) -> Result<(Tensor, Vec<String>)> {
    let coded = text.load()?;
    let classes: Vec<String> = match &request.preprocess.classes {
        Some(Classes::Names(names)) => names.clone(),
        Some(Classes::File(path)) => Classes::read(path)?,
        None => {
            let mut names = coded.names.clone();
            names.sort();
            names
        }
    };
    let places: HashMap<&str, i64> =
        classes.iter().enumerate().map(|(index, name)| (name.as_str(), index as i64)).collect();
    let mut of_code = Vec::with_capacity(coded.names.len());
    for (code, name) in coded.names.iter().enumerate() {
        let label = places.get(name.as_str()).ok_or_else(|| {
            let row = coded.codes.iter().position(|c| *c as usize == code).unwrap_or(0);
            let names: Vec<&str> = classes.iter().map(String::as_str).collect();
            set.error(
                format!("column '{column}' holds '{name}' in row {row}, the classes are {}", list(&names)),
                "add it to preprocess.classes in the place of its output, or repair the row",
            )
        })?;
        of_code.push(*label);
    }
    let labels: Vec<i64> = coded.codes.iter().map(|c| of_code.get(*c as usize).copied().unwrap_or(0)).collect();
    Ok((Tensor::from_i64(&[labels.len()], &labels), classes))
}
