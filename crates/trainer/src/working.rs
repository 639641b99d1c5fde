//! The last steps to a working copy: the working opset, and operators that the runtime has there.

use dendrite_autodiff::lower_missing;
use dendrite_onnx::{Graph, WORKING_OPSET, upgrade::upgrade};

use crate::error::Result;

/// Bring a graph with recorded shapes to the working opset, where it runs: operators that ONNX Runtime has kernels of for earlier
/// opsets alone become what they are made of. The user's file keeps them.
pub(crate) fn to_working_opset(graph: &mut Graph) -> Result<()> {
    upgrade(graph, WORKING_OPSET)?;
    lower_missing(graph)?;
    Ok(())
}
