//! Interrupt moderation: how long a card waits before it interrupts.

mod coa001;
mod coa002;
mod coa003;
mod coa004;

family!("coa": coa001 coa002 coa003 coa004);
