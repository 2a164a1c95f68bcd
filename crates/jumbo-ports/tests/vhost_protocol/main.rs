//! The vhost-user protocol through the public interface: what front ends send, rightly and wrongly.

mod fuzz;
