//! Checksums: who computes and who verifies them.

mod csm001;
mod csm002;
mod csm003;
mod csm005;

family!("csm": csm001 csm002 csm003 csm005);
