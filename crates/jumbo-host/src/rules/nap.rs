//! NAPI: polling, deferral, threads.

mod nap001;
mod nap002;
mod nap003;
mod nap004;
mod nap005;
mod nap006;

family!("nap": nap001 nap002 nap003 nap004 nap005 nap006);
