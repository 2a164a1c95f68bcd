//! Words and guards of `jumbo tune`.
