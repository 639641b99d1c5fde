//! `.npz`: a zip archive of `.npy` files. Stored members are read where they lie, compressed ones when they are asked for.

use std::{io::BufReader, sync::Arc};

use zip::{
    CompressionMethod, ZipArchive,
    result::{ZipError, ZipResult},
};

use crate::{
    array::Origin,
    column::Column,
    error::{Error, Result},
    formats::npy::{self, Place},
    storage::{DataFile, Storage, StorageReader},
};

const AGAIN: &str = "save the file again with numpy.savez";

pub(crate) fn columns(file: &Arc<DataFile>) -> Result<Vec<Column>> {
    let whole = Storage::whole(file.clone());
    let damaged = |reason: String| Error::data(file.path(), reason, AGAIN);
    let mut archive = open(&whole).map_err(|e| match e {
        ZipError::Io(e) => Error::io(file.path())(e),
        _ => damaged("damaged .npz: it has no table of contents, as a file that was cut off".to_owned()),
    })?;
    let mut columns = Vec::new();
    for index in 0..archive.len() {
        let member = archive.by_index_data(index).map_err(|e| damaged(format!("damaged .npz: {e}")))?;
        let member_name = member.name().map_err(|e| damaged(format!("damaged .npz: {e}")))?.into_owned();
        let Some(name) = member_name.strip_suffix(".npy") else { continue };
        let origin = Origin::new(file.path(), name);
        let method = member.compression();
        if member.encrypted() {
            return Err(origin.error("is encrypted", AGAIN));
        }
        let place = match method {
            CompressionMethod::Stored => {
                let member = archive.by_index(index).map_err(|e| origin.error(&format!("is damaged: {e}"), AGAIN))?;
                let part = member.data_start().and_then(|start| whole.part(start, member.size()));
                Place::Stored(part.ok_or_else(|| origin.error("lies outside the file, which is cut off", AGAIN))?)
            }
            CompressionMethod::Deflated => {
                let (whole, origin) = (whole.clone(), origin.clone());
                Place::Packed(Box::new(move |visit| {
                    let damaged = |e| origin.error(&format!("is damaged: {e}"), AGAIN);
                    let mut archive = open(&whole).map_err(damaged)?;
                    let mut member = archive.by_index(index).map_err(damaged)?;
                    visit(&mut member)
                }))
            }
            other => return Err(origin.error(&format!("is packed with {other}, which is not supported"), AGAIN)),
        };
        columns.push(npy::column(origin, place)?);
    }
    if columns.is_empty() {
        return Err(damaged("it holds no array".to_owned()));
    }
    Ok(columns)
}

fn open(whole: &Storage) -> ZipResult<ZipArchive<BufReader<StorageReader>>> {
    ZipArchive::new(BufReader::new(whole.reader()))
}
