//! Everything that is measured, of Tidegate and of the servers beside it, in one run: the list of measurements, the run,
//! and what is made of its figures: tables, plots and a file to keep. Called by `load bench`.

mod figures;
mod suite;
mod machine;
mod tables;
mod plot;
mod grid;
mod charts;

pub use charts::{Chart, charts};
pub use figures::{Case, Figure, Measure, Report, Value};
pub use machine::Machine;
pub use suite::{Scale, run};
pub use tables::tables;
