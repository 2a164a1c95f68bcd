//! BIG TCP: super-packets beyond 64 KB.

mod big001;
mod big002;

family!("big": big001 big002);
