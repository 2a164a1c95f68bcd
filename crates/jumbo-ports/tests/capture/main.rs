//! Capture files, read and written through the public interface.

mod build;
mod hostile;
mod interop;
mod link;
mod read;
mod write;
