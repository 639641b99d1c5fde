//! Randomness that derives from the seed and a place in the run alone, so that a resumed run repeats it.

pub use dendrite_data::generator;
use dendrite_onnx::Tensor;
use dendrites::{Activation, Plan};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::{
    error::Result,
    network::{Growth, Network},
};

/// A draw from the standard normal distribution.
pub fn normal(rng: &mut ChaCha8Rng) -> f32 {
    // Box-Muller; one of the pair suffices.
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

/// Every cycle of a plan with random weights and zero connections.
pub fn initial_growth(network: &Network, plan: &Plan, activation: Activation, seed: u64) -> Result<Growth> {
    let mut growth = Growth::default();
    for _ in 0..plan.cycles {
        let mut new = plan.next_cycle(&network.sites, &growth.sets)?;
        new.iter_mut().for_each(|set| set.activation = activation);
        growth.sets.extend(new);
    }
    for (index, set) in growth.sets.iter().enumerate() {
        let Some(site) = network.site(&set.site) else { continue };
        let mut rng = generator(seed, &[4, index as u64]);
        let scale = 1.0 / (site.fan_in() as f32).sqrt();
        let weight = set.path("weight");
        for (name, shape) in set.tensors(site, &growth.sets) {
            let count = shape.iter().product();
            let values: Vec<f32> =
                if name == weight { (0..count).map(|_| scale * normal(&mut rng)).collect() } else { vec![0.0; count] };
            growth.weights.insert(name, Tensor::from_f32(&shape, &values));
        }
    }
    Ok(growth)
}
