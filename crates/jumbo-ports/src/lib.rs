//! Jumbo.

pub mod capture;
