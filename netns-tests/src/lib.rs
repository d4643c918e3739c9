//! Tests of whole routers in network namespaces, and their measurements.
//!
//! The library itself is empty: `tests/scenarios` holds the tests, one module a subject, and `bench` the measurements.
//! What both need around the binary is in `mesh-lab`.
#![forbid(unsafe_code)]
