//! Jumbo.
