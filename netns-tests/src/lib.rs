//! Scenarios with the real binary: integration tests in `tests/`. This library holds nothing.
#![forbid(unsafe_code)]
