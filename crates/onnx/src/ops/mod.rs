//! Facts about operators: one table per fact, in family files.

pub mod cost;
