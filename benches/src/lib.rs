//! Shared parts of the benches: running a peer beside ours, medians, tables and charts.
