//! Jumbo.
pub mod checksum;
