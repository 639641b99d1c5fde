use crate::error::Result;
use dendrite_onnx::Graph;
/// x
pub fn infer_shapes(_graph: &mut Graph) -> Result<()> {
    Ok(())
}
