//! Inputs made of columns of a table.

use dendrite_onnx::{Dim, ElementType, tensor::element_count};

use crate::{
    array::{Array, Origin},
    column::{Column, Content, Numbers},
    dataset::DataSet,
    error::Result,
    matching::{Found, missing, numbers_or_images},
    names::{Role, list},
    request::{Input, Request},
    spool::Budget,
};

/// One column of an input.
pub(crate) type Part<'a> = (&'a Column, &'a Numbers);

/// Columns that are decoded before they are put together: many at a time would take many temporary files.
const TOGETHER: usize = 64;

/// The columns as one array of `to`, side by side; `name` is what messages call it.
pub(crate) fn beside(set: &DataSet, parts: &[Part], to: ElementType, name: &str, budget: &mut Budget) -> Result<Array> {
    let origin = || Origin::new(&set.path, name);
    let mut groups = Vec::new();
    for group in parts.chunks(TOGETHER) {
        let arrays = group.iter().map(|(_, numbers)| numbers.load(budget)).collect::<Result<Vec<_>>>()?;
        groups.push(Array::side_by_side(&arrays, to, origin(), budget)?);
    }
    Array::side_by_side(&groups, to, origin(), budget)
}

/// The numbers of a row that `input` takes, if its shape says.
fn width(input: &Input) -> Option<usize> {
    let row: Option<Vec<usize>> = input.shape.as_ref()?.0.iter().skip(1).map(Dim::known).collect();
    element_count(&row?)
}

/// The shape of a row of `width` numbers for `input`.
pub(crate) fn row_shape(input: &Input, width: usize) -> Vec<usize> {
    let declared: Option<Vec<usize>> = input.shape.as_ref().and_then(|s| s.0.iter().skip(1).map(Dim::known).collect());
    declared.filter(|row| element_count(row) == Some(width)).unwrap_or_else(|| vec![width])
}

/// The columns for `input`: one called `name`, else `name_0`, `name_1`, ..., else all but target and weight.
pub(crate) fn find<'a>(
    set: &'a DataSet,
    request: &Request,
    input: &Input,
    name: &str,
    mapped: bool,
    column: Option<&'a Column>,
) -> Result<Found<'a>> {
    let width = width(input);
    let role = Role::input(&input.name);
    if let Some(column) = column {
        let found = numbers_or_images(set, column, &role)?;
        let holds = match &found {
            Found::Numbers(_, numbers) => numbers.shape.get(1..).and_then(element_count),
            _ => None,
        };
        if mapped || width.is_none() || holds == width {
            return Ok(found);
        }
    }
    if let Some(parts) = series(set, name, &role)? {
        return fitting(set, input, parts, width);
    }
    let elsewhere: Vec<&str> = request.targets().collect();
    let used = |c: &Column| elsewhere.contains(&c.name.as_str());
    let series_of = |c: &Column| elsewhere.iter().any(|n| indexed(n, &c.name));
    if request.inputs.iter().filter(|i| !i.target).count() == 1 && !mapped {
        let rest: Vec<&Column> = set.columns.iter().filter(|c| !used(c) && !series_of(c)).collect();
        if width.is_none_or(|w| w == rest.len()) && !rest.is_empty() {
            return Ok(Found::Parts(rest.into_iter().map(|c| part(set, c, &role)).collect::<Result<_>>()?));
        }
    }
    if mapped {
        return Err(missing(set, name, &role));
    }
    let names: Vec<&str> = set.columns.iter().filter(|c| !used(c)).map(|c| c.name.as_str()).collect();
    let shape = input.shape.as_ref().map_or("?".to_owned(), ToString::to_string);
    let expected = match width {
        Some(1) => format!("a column '{name}'"),
        Some(w) => format!("columns {name}_0 to {name}_{}, or exactly {w} besides the target", w.saturating_sub(1)),
        None => format!("a column '{name}', or {name}_0, {name}_1, ..."),
    };
    Err(set.error(
        format!(
            "no columns for {role} of shape {shape}: expected {expected}; besides the target there are {}: {}",
            names.len(),
            list(&names)
        ),
        "rename the columns, remove those that are no inputs, or say --map input=column",
    ))
}

/// Whether `column` is called like `name` with an index.
fn indexed(name: &str, column: &str) -> bool {
    let Some(rest) = column.strip_prefix(name) else { return false };
    let digits = rest
        .strip_prefix('[')
        .and_then(|r| r.strip_suffix(']'))
        .or_else(|| rest.strip_prefix('_'))
        .or_else(|| rest.strip_prefix('.'));
    digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
}

/// The columns `name_0`, `name_1`, ... in order, or written `name[0]` or `name.0`; `None` where there is none.
pub(crate) fn series<'a>(set: &'a DataSet, name: &str, role: &Role) -> Result<Option<Vec<Part<'a>>>> {
    let spellings: [fn(&str, usize) -> String; 3] =
        [|n, i| format!("{n}_{i}"), |n, i| format!("{n}[{i}]"), |n, i| format!("{n}.{i}")];
    let by_name: std::collections::HashMap<&str, &Column> = set.columns.iter().map(|c| (c.name.as_str(), c)).collect();
    for spelling in spellings {
        let mut parts = Vec::new();
        while let Some(column) = by_name.get(spelling(name, parts.len()).as_str()) {
            parts.push(part(set, column, role)?);
        }
        if !parts.is_empty() {
            return Ok(Some(parts));
        }
    }
    Ok(None)
}

fn part<'a>(set: &DataSet, column: &'a Column, role: &Role) -> Result<Part<'a>> {
    match &column.content {
        Content::Numbers(numbers) if numbers.shape.len() == 1 => Ok((column, numbers)),
        Content::Numbers(numbers) => Err(set.error(
            format!(
                "column '{}' holds lists of shape {:?}, {role} takes one number of each",
                column.name, numbers.shape
            ),
            "give the list column alone: name it like the input",
        )),
        _ => numbers_or_images(set, column, role).and_then(|_| Err(missing(set, &column.name, role))),
    }
}

fn fitting<'a>(set: &DataSet, input: &Input, parts: Vec<Part<'a>>, width: Option<usize>) -> Result<Found<'a>> {
    if width.is_none_or(|w| w == parts.len()) {
        return Ok(Found::Parts(parts));
    }
    let (first, last) = (parts.first().map_or("", |p| &p.0.name), parts.last().map_or("", |p| &p.0.name));
    let shape = input.shape.as_ref().map_or("?".to_owned(), ToString::to_string);
    Err(set.error(
        format!(
            "columns {first} to {last} are {}, the model's input '{}' of shape {shape} takes {}",
            parts.len(),
            input.name,
            width.unwrap_or(0)
        ),
        "give as many columns as the input is wide",
    ))
}
