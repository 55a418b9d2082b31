//! `make demo` and `make run`.
