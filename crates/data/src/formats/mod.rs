//! Readers of the kinds of data sets: each turns a file or folder into named columns.

pub(crate) mod csv;
pub(crate) mod npy;
pub(crate) mod npy_folder;
pub(crate) mod npz;
pub(crate) mod parquet;
pub(crate) mod safetensors;
pub(crate) mod test_data;
