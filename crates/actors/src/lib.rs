//! What runs here: actors, their supervisors, scripts and bridges.
