//! ONNX's own test data: folders `test_data_set_0`, ... with `input_0.pb`, ..., `output_0.pb`, ...

use std::{
    fs,
    path::{Path, PathBuf},
};

use dendrite_onnx::{Tensor, proto::TensorProto};
use prost::Message;

use crate::{
    array::{Array, Origin},
    column::{Column, Numbers},
    error::{Error, Result},
    spool::{Budget, Spool},
};

const PREFIX: &str = "test_data_set_";
const HINT: &str = "each test_data_set_N holds input_0.pb, ... and output_0.pb, ... as ONNX's backend tests do";

/// The folders of test data among `folders`, in the order of their numbers.
pub(crate) fn sets(folders: &[PathBuf]) -> Vec<PathBuf> {
    let number = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse::<u64>().ok();
    let mut sets: Vec<(u64, PathBuf)> = folders.iter().filter_map(|f| Some((number(f)?, f.clone()))).collect();
    sets.sort();
    sets.into_iter().map(|(_, path)| path).collect()
}

/// Whether `files` are those of one set.
pub(crate) fn is_set(files: &[PathBuf]) -> bool {
    files.iter().any(|f| f.file_name().is_some_and(|n| n == "input_0.pb"))
}

/// The columns of all sets, their rows one after another.
pub(crate) fn columns(root: &Path, sets: &[PathBuf], budget: &mut Budget) -> Result<Vec<Column>> {
    let mut columns = Vec::new();
    for kind in ["input", "output"] {
        for index in 0.. {
            let file = format!("{kind}_{index}.pb");
            let here = sets.iter().filter(|set| set.join(&file).is_file()).count();
            if here == 0 {
                break;
            }
            if let Some(set) = sets.iter().find(|set| !set.join(&file).is_file()) {
                return Err(Error::data(set, format!("{file} is missing, other sets have it"), HINT));
            }
            columns.push(column(root, sets, kind, index, &file, budget)?);
        }
    }
    if columns.is_empty() {
        return Err(Error::data(root, "the test data hold no input_0.pb", HINT));
    }
    Ok(columns)
}

fn column(root: &Path, sets: &[PathBuf], kind: &str, index: usize, file: &str, budget: &mut Budget) -> Result<Column> {
    let alias = format!("{kind}_{index}");
    let mut name = None;
    let mut first: Option<Tensor> = None;
    let mut rows = 0;
    let mut spool = Spool::new(budget, root);
    for set in sets {
        let path = set.join(file);
        let (tensor, called) = read(&path)?;
        let called = called.unwrap_or_else(|| alias.clone());
        name.get_or_insert(called);
        let before = first.get_or_insert_with(|| tensor.clone());
        let constant = tensor.shape().is_empty();
        let alike = (!constant || before.bytes() == tensor.bytes())
            && before.element_type() == tensor.element_type()
            && before.shape().len() == tensor.shape().len()
            && before.shape().get(1..) == tensor.shape().get(1..);
        if !alike {
            return Err(Error::data(
                &path,
                format!(
                    "it holds {}{:?}, the first set's holds {}{:?}",
                    tensor.element_type(),
                    tensor.shape(),
                    before.element_type(),
                    before.shape()
                ),
                "sets are put together along the first axis: the other axes, and numbers without axes, must be alike",
            ));
        }
        if tensor.strings().is_some() {
            let reason = format!("array '{alias}' holds texts");
            return Ok(Column::unusable(alias, reason, "save it as numbers"));
        }
        rows += tensor.shape().first().copied().unwrap_or(0);
        if !constant || spool.is_empty() {
            spool.push(tensor.bytes())?;
        }
    }
    let (Some(name), Some(first)) = (name, first) else {
        return Err(Error::data(root, "it holds no test data", HINT));
    };
    let mut shape = first.shape().to_vec();
    if let Some(axis) = shape.first_mut() {
        *axis = rows;
    }
    let array = Array::new(Origin::new(root, &name), first.element_type(), shape, false, spool.finish()?)?;
    let mut aliases = vec![alias];
    if kind == "output" && index == 0 {
        aliases.push("target".to_owned());
    }
    Ok(Column { aliases, ..Column::numbers(name, Numbers::ready(array)) })
}

/// The tensor in `path` and its name.
fn read(path: &Path) -> Result<(Tensor, Option<String>)> {
    let bytes = bytes::Bytes::from(fs::read(path).map_err(Error::io(path))?);
    let again = "write it again with onnx.numpy_helper.from_array";
    let proto =
        TensorProto::decode(bytes).map_err(|e| Error::data(path, format!("no tensor that can be read: {e}"), again))?;
    let tensor =
        Tensor::from_proto(&proto).map_err(|e| Error::data(path, format!("no tensor that can be read: {e}"), again))?;
    Ok((tensor, Some(proto.name().to_owned()).filter(|name| !name.is_empty())))
}
