//! The vhost-user protocol through the public interface: what front ends send, rightly and wrongly.

mod build;
mod fuzz;
mod hostile;
mod messages;
mod real;
mod scripts;
mod socket;
