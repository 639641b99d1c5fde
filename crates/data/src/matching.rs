//! Columns matched to a model's inputs.

use std::sync::Arc;

use dendrite_onnx::{Dim, ElementType, Shape, Tensor, tensor::element_count};

use crate::{
    cast::allowed,
    column::{Column, Content, Numbers},
    dataset::DataSet,
    error::{Error, Result},
    images::{ImageList, ImageSource, Plan},
    names::{Role, list, nearest},
    request::{Input, Request},
    samples::{Field, Samples, Slot, Source},
    spool::Budget,
    table::{self, Part},
    target,
};

/// What was found for an input.
pub(crate) enum Found<'a> {
    Numbers(&'a Column, &'a Numbers),
    /// Columns of a table side by side.
    Parts(Vec<Part<'a>>),
    Images(Arc<ImageList>),
}

impl Found<'_> {
    fn rows(&self) -> usize {
        match self {
            Found::Numbers(_, numbers) => numbers.shape.first().copied().unwrap_or(0),
            Found::Parts(parts) => parts.first().map_or(0, |(_, numbers)| numbers.shape.first().copied().unwrap_or(0)),
            Found::Images(images) => images.len(),
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Found::Numbers(column, _) => &column.name,
            Found::Parts(parts) => parts.first().map_or("", |(column, _)| column.name.as_str()),
            Found::Images(_) => "image",
        }
    }
}

pub(crate) fn samples(set: &DataSet, request: &Request) -> Result<Samples> {
    let names: Vec<&str> = request.inputs.iter().map(|i| i.name.as_str()).collect();
    let known = |name: &str, option: &str, say: &str| {
        if names.contains(&name) {
            return Ok(());
        }
        Err(Error::option(format!("{option} names '{name}', the model's inputs are {}", list(&names)), say))
    };
    for (input, _) in &request.map {
        known(input, "--map", "say --map input=array with one of them")?;
    }
    if let Some(input) = &request.preprocess.input {
        known(input, "preprocess.input", "name one of them")?;
    }
    if set.table
        && let Some(name) = &request.target
    {
        // A target under another name would count among the columns of the inputs.
        target::find(set, name, &Role::target())?;
    }
    let pictured = pictured(set, request)?;
    let found: Vec<Found> = request
        .inputs
        .iter()
        .enumerate()
        .map(|(index, input)| find(set, request, index, input, pictured))
        .collect::<Result<_>>()?;
    let target = request.target.as_deref().map(|name| target::find(set, name, &Role::target())).transpose()?;
    let weight = request.weight.as_deref().map(|name| target::find(set, name, &Role::weights())).transpose()?;
    let ends: Vec<&Found> = target.iter().chain(&weight).filter_map(target::Target::found).collect();
    let rows = count(set, request, &found, target.as_ref().map(|t| t.rows()))?;
    if rows == 0 {
        return Err(set.error("it holds no sample", "save at least one row"));
    }
    for found in ends {
        same_rows(set, found.name(), found.rows(), rows)?;
    }
    let mut budget = Budget::new(set.left);
    let mut fields = Vec::new();
    for (input, found) in request.inputs.iter().zip(found) {
        fields.push(slot(set, request, input, found, rows, &mut budget)?);
    }
    let mut classes = set.classes.clone();
    let target = target.map(|t| t.slot(set, request, rows, &mut classes, &mut budget)).transpose()?;
    let weight = weight.map(|w| w.weights(set, rows, &mut budget)).transpose()?;
    Ok(Samples::new(set.path.clone(), set.kind, rows, fields, target, weight, classes))
}

/// The input that takes the images of the data set, if it holds any.
fn pictured(set: &DataSet, request: &Request) -> Result<Option<usize>> {
    let Some(images) = set.columns.iter().find(|c| matches!(c.content, Content::Images(_))) else { return Ok(None) };
    if let Some(name) = &request.preprocess.input {
        return Ok(request.inputs.iter().position(|i| i.name == *name));
    }
    if let Some(index) = request.inputs.iter().position(|i| images.answers_to(array_of(request, i))) {
        return Ok(Some(index));
    }
    let fits = |i: &Input| {
        !i.target
            && i.shape.as_ref().is_none_or(|s| s.rank() == 4)
            && (i.element_type.is_float() || i.element_type == ElementType::Uint8)
    };
    let candidates: Vec<usize> =
        request.inputs.iter().enumerate().filter(|(_, i)| fits(i)).map(|(index, _)| index).collect();
    match candidates.as_slice() {
        [one] => Ok(Some(*one)),
        [] => {
            let inputs: Vec<String> = request
                .inputs
                .iter()
                .map(|i| format!("'{}' {}", i.name, i.shape.as_ref().map_or("?".to_owned(), Shape::to_string)))
                .collect();
            Err(set.error(
                format!("it holds images, and none of the model's inputs takes images: {}", inputs.join(", ")),
                "images need a float or uint8 input of 4 axes",
            ))
        }
        _ => Err(set.error(
            "it holds images, and several of the model's inputs could take them",
            "name the input with preprocess.input",
        )),
    }
}

/// The name of the array that `input` takes.
fn array_of<'a>(request: &'a Request, input: &'a Input) -> &'a str {
    request.map.iter().find(|(i, _)| *i == input.name).map_or(input.name.as_str(), |(_, array)| array.as_str())
}

fn find<'a>(
    set: &'a DataSet,
    request: &Request,
    index: usize,
    input: &Input,
    pictured: Option<usize>,
) -> Result<Found<'a>> {
    let name = array_of(request, input);
    let mapped = request.map.iter().any(|(i, _)| *i == input.name);
    let column = set.columns.iter().find(|c| c.answers_to(name));
    if set.table {
        return table::find(set, request, input, name, mapped, column);
    }
    let column = match column {
        Some(column) => Some(column),
        None if pictured == Some(index) => set.columns.iter().find(|c| matches!(c.content, Content::Images(_))),
        None if !mapped && set.kind == "test data" => {
            set.columns.iter().find(|c| c.answers_to(&format!("input_{index}")))
        }
        None => None,
    };
    let role = Role::input(&input.name);
    let column = column.ok_or_else(|| missing(set, name, &role))?;
    numbers_or_images(set, column, &role)
}

pub(crate) fn missing(set: &DataSet, name: &str, role: &Role) -> Error {
    let names: Vec<&str> = set.names().collect();
    let reason = format!("no array '{name}' for {role}; it holds {}", list(&names));
    set.error(reason, role.remedy(nearest(name, &names)))
}

pub(crate) fn numbers_or_images<'a>(set: &DataSet, column: &'a Column, role: &Role) -> Result<Found<'a>> {
    match &column.content {
        Content::Numbers(numbers) => Ok(Found::Numbers(column, numbers)),
        Content::Images(images) => Ok(Found::Images(images.clone())),
        Content::Text(text) => {
            let example = text.example();
            let comma = example.split('\'').nth(1).is_some_and(|cell| cell.replace(',', ".").parse::<f64>().is_ok());
            let hint = if comma {
                "write numbers with a point, not a comma"
            } else {
                "repair the cell, or leave the column out"
            };
            Err(set.error(format!("column '{}' holds text{example}, {role} takes numbers", column.name), hint))
        }
        Content::Unusable { reason, hint } => Err(set.error(reason.clone(), hint.clone())),
    }
}

/// Whether an array may be the same for every batch: it has exactly the shape that is declared.
fn whole(input: &Input, found: &Found) -> bool {
    match found {
        Found::Numbers(_, numbers) => {
            input.shape.as_ref().and_then(Shape::as_known).is_some_and(|known| known == numbers.shape)
        }
        _ => false,
    }
}

/// The number of samples: the target's rows; else those of the arrays that certainly hold one row a sample.
fn count(set: &DataSet, request: &Request, found: &[Found], target: Option<usize>) -> Result<usize> {
    if let Some(rows) = target {
        return Ok(rows);
    }
    let pairs = || request.inputs.iter().zip(found).filter(|(input, _)| !input.per_batch);
    let certain = pairs().find(|(input, found)| !whole(input, found));
    match certain.or_else(|| pairs().next()) {
        Some((_, found)) => Ok(found.rows()),
        None => Err(set.error("no array counts samples", "give one input or target with a row for each sample")),
    }
}

pub(crate) fn same_rows(set: &DataSet, name: &str, rows: usize, expected: usize) -> Result<()> {
    if rows == expected {
        return Ok(());
    }
    Err(set.error(
        format!("array '{name}' has {rows} rows, the others have {expected}"),
        "every array needs one row a sample",
    ))
}

/// An error for a matrix whose columns are as many as there are samples, and its rows not.
fn transposed(set: &DataSet, found: &Found, rows: usize) -> Result<()> {
    match found {
        Found::Numbers(column, numbers) if matches!(*numbers.shape, [n, m] if n != rows && m == rows) => Err(set
            .error(
                format!("array '{}' has {} rows, the others have {rows}", column.name, found.rows()),
                "its columns are as many as the others' rows: save it transposed, array.T",
            )),
        _ => Ok(()),
    }
}

fn slot(
    set: &DataSet,
    request: &Request,
    input: &Input,
    found: Found,
    rows: usize,
    budget: &mut Budget,
) -> Result<Slot> {
    let constant = input.per_batch || (whole(input, &found) && found.rows() != rows);
    if !constant {
        transposed(set, &found, rows)?;
        same_rows(set, found.name(), found.rows(), rows)?;
    }
    let field = |row_shape: Vec<usize>, per_sample| Field {
        name: input.name.clone(),
        element_type: input.element_type,
        row_shape,
        per_sample,
        target: input.target,
    };
    match found {
        Found::Images(list) => {
            let plan = Plan::new(&request.preprocess, input, None)?;
            let field = field(plan.row_shape(), true);
            let layout = Some(plan.layout());
            let source = Source::Images(Arc::new(ImageSource::new(list, plan, set.limits.images)));
            Ok(Slot::new(field, source, layout))
        }
        Found::Numbers(column, numbers) => {
            if request.preprocess.input.as_deref() == Some(&input.name) && numbers.element_type == ElementType::Uint8 {
                return pixels(set, request, input, column, numbers, rows, budget);
            }
            castable(set, &column.name, numbers, input)?;
            if constant {
                let tensor = constant_tensor(set, input, column, numbers, budget)?;
                let shape = tensor.shape().to_vec();
                return Ok(Slot::new(field(shape, false), Source::Constant(tensor), None));
            }
            let row_shape = fitting(set, &column.name, numbers, input)?;
            let array = numbers.load(budget)?.with_row_shape(&row_shape).settled(input.element_type, budget)?;
            let layout = layout_of(request, input, &row_shape);
            Ok(Slot::new(field(row_shape, true), Source::Array(array), layout))
        }
        Found::Parts(parts) => {
            for (column, numbers) in &parts {
                castable(set, &column.name, numbers, input)?;
            }
            let array = table::beside(set, &parts, input.element_type, &input.name, budget)?;
            let row_shape = table::row_shape(input, array.row_len());
            let array = array.with_row_shape(&row_shape).settled(input.element_type, budget)?;
            Ok(Slot::new(field(row_shape, true), Source::Array(array), None))
        }
    }
}

fn castable(set: &DataSet, name: &str, numbers: &Numbers, input: &Input) -> Result<()> {
    if allowed(numbers.element_type, input.element_type) || numbers.whole {
        return Ok(());
    }
    Err(set.error(
        format!(
            "array '{name}' is {}, the model's input '{}' takes {}",
            numbers.element_type, input.name, input.element_type
        ),
        "save the array with the input's type",
    ))
}

/// The shape of a row, checked against the declaration. An array without a second axis stands for one number a row.
fn fitting(set: &DataSet, name: &str, numbers: &Numbers, input: &Input) -> Result<Vec<usize>> {
    let row: &[usize] = numbers.shape.get(1..).unwrap_or_default();
    let Some(declared) = &input.shape else { return Ok(row.to_vec()) };
    let row = if row.is_empty() && declared.rank() == 2 { &[1] } else { row };
    if declared.0.get(1..).is_some_and(|rest| agrees(rest, row)) {
        return Ok(row.to_vec());
    }
    Err(set.error(
        format!("array '{name}' has shape {:?}, the model's input '{}' takes {declared}", numbers.shape, input.name),
        if swapped(row, declared) {
            "the channels are in another place: numpy.transpose moves them, (0, 3, 1, 2) to the front, (0, 2, 3, 1) back"
        } else if numbers.shape.len() == declared.rank() + 1 && agrees(&declared.0, row) {
            "the first axis counts samples; reshape the others to the input's, or say --one-at-a-time if a row is a whole input"
        } else {
            "the first axis counts samples; reshape the others to the input's"
        },
    ))
}

/// Whether sizes are those that are declared, as far as these are known.
fn agrees(declared: &[Dim], sizes: &[usize]) -> bool {
    declared.len() == sizes.len() && declared.iter().zip(sizes).all(|(d, n)| d.known().is_none_or(|d| d == *n))
}

/// Whether a row would fit with its channels first in place of last, or the other way round.
fn swapped(row: &[usize], declared: &Shape) -> bool {
    let known: Vec<Option<usize>> = declared.0.iter().skip(1).map(Dim::known).collect();
    let ([a, b, c], [x, y, z]) = (row, known.as_slice()) else { return false };
    let fits = |order: [&usize; 3]| order.iter().zip([x, y, z]).all(|(n, d)| d.is_none_or(|d| d == **n));
    fits([c, a, b]) || fits([b, c, a])
}

fn constant_tensor(
    set: &DataSet,
    input: &Input,
    column: &Column,
    numbers: &Numbers,
    budget: &mut Budget,
) -> Result<Tensor> {
    let declared = input.shape.as_ref();
    let fits = declared.is_none_or(|declared| agrees(&declared.0, &numbers.shape));
    if !fits {
        let declared = declared.map_or("?".to_owned(), Shape::to_string);
        return Err(set.error(
            format!(
                "array '{}' has shape {:?}, the model's input '{}' takes {declared}",
                column.name, numbers.shape, input.name
            ),
            "this input is the same for every batch: save the array with the input's whole shape",
        ));
    }
    numbers.load(budget)?.tensor(input.element_type)
}

/// A uint8 array of images, preprocessed as images are.
fn pixels(
    set: &DataSet,
    request: &Request,
    input: &Input,
    column: &Column,
    numbers: &Numbers,
    rows: usize,
    budget: &mut Budget,
) -> Result<Slot> {
    same_rows(set, &column.name, numbers.shape.first().copied().unwrap_or(0), rows)?;
    let few = |n: usize| matches!(n, 1 | 3);
    let (stored, planar) = match numbers.shape.as_slice() {
        [_, c, h, w] if few(*c) => ([*h, *w, *c], true),
        [_, h, w, c] if few(*c) => ([*h, *w, *c], false),
        [_, h, w] => ([*h, *w, 1], false),
        shape => {
            return Err(set.error(
                format!("array '{}' has shape {shape:?}, images are asked for", column.name),
                "give [samples, height, width, channels] or [samples, channels, height, width] with 1 or 3 channels",
            ));
        }
    };
    let [height, width, _] = stored;
    if element_count(&stored).is_none_or(|n| n == 0) {
        return Err(set.error(format!("array '{}' holds images without pixels", column.name), "save the images again"));
    }
    let plan = Plan::new(&request.preprocess, input, Some([height, width]))?;
    let array = numbers.load(budget)?.settled(ElementType::Uint8, budget)?;
    let field = Field {
        name: input.name.clone(),
        element_type: input.element_type,
        row_shape: plan.row_shape(),
        per_sample: true,
        target: input.target,
    };
    let layout = Some(plan.layout());
    Ok(Slot::new(field, Source::Pixels { array, stored, planar, plan: Arc::new(plan) }, layout))
}

/// The layout of rows that are images: as it is set, or told from the channel axis.
fn layout_of(request: &Request, input: &Input, row_shape: &[usize]) -> Option<crate::preprocess::Layout> {
    use crate::preprocess::Layout;
    let [first, _, last] = row_shape else { return None };
    let set =
        request.preprocess.layout.filter(|_| request.preprocess.input.as_deref().is_none_or(|name| name == input.name));
    set.or(match (first, last) {
        (1 | 3, _) => Some(Layout::Nchw),
        (_, 1 | 3) => Some(Layout::Nhwc),
        _ => Some(Layout::Nchw),
    })
}
