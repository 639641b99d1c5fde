//! Data, phases, controller, metrics, checkpoints and the run folder.
