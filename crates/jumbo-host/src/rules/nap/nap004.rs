//! # NAP004 napi-thread-not-pinned
//!
//! ## What it checks
//! Threaded NAPI is on and its threads may run on every processor.
//!
//! ## Why it matters
//! The scheduler moves receive work about: packets of a flow meet cold caches, and the latency
//! jitters.
//!
//! ## How to see it by hand
//! `cat /sys/class/net/DEV/threaded`; `taskset -pc PID` of the threads `napi/DEV-N`
//!
//! ## Remedy
//! `taskset -pc CPU PID` for each thread, one processor each.
//!
//! ## When to ignore it
//! Throughput is spread on purpose and the scheduler does it well enough.
//!
//! ## Since kernel
//! 5.12.
//!
//! ## Sources
//! Documentation/networking/napi.rst (threaded NAPI), Linux 6.18.

use super::super::prelude::*;
#[cfg(test)]
fn threaded(scene: &mut super::super::scene::Scene, cpus: &str) {
    let thread_cpus = Some(cpus.parse().expect("processors"));
    let napi = crate::snapshot::Napi {
        id: 7,
        pid: Some(99),
        thread_cpus,
        ..Default::default()
    };
    scene.device("veth0").threaded = crate::datum::Datum::known(true, "scene");
    scene.device("veth0").napis = crate::datum::Datum::known(vec![napi], "scene");
}

pub(super) const RULE: Rule = Rule {
    id: "NAP004",
    name: "napi-thread-not-pinned",
    severity: Severity::Warning,
    layer: Layer::Host,
    class: Class::Safe,
    sampled: false,
    scope: Scope::Device(check),
    source: "",
};

fn check(device: &Device, view: &View<'_>) -> Outcome {
    if !*device.threaded.get()? {
        return PASS;
    }
    let online = view.now.cpus.online.get()?;
    if online.len() < 2 {
        return NOT_APPLICABLE;
    }
    let napis = device.napis.get()?;
    let free = |cpus: &crate::cpus::CpuSet| online.without(cpus).is_empty();
    let wanders = |napi: &&Napi| napi.thread_cpus.as_ref().is_some_and(free);
    let loose: Vec<(u32, &Napi)> = napis
        .iter()
        .filter(wanders)
        .filter_map(|napi| Some((napi.pid?, napi)))
        .collect();
    fault_if(!loose.is_empty(), || {
        let fault = Fault::new(format!(
            "receive threads of {} wander over all processors",
            device.name
        ))
        .saw_datum(&device.threaded);
        let each = loose.iter().zip(online.0.iter().cycle());
        each.fold(fault, |fault, ((pid, napi), cpu)| {
            let setting = Setting::NapiThread {
                device: device.name.clone(),
                pid: *pid,
            };
            fault
                .saw(
                    format!("/proc/{pid}/status"),
                    format!("NAPI {} may run on {online}", napi.id),
                )
                .set(setting, CpuSet::from_iter([*cpu]))
        })
    })
}

#[cfg(test)]
pub(super) const CASES: Cases = Cases {
    fires: |scene| {
        threaded(scene, "0-3");
    },
    with: &[],
    silent: |scene| {
        threaded(scene, "2");
    },
};
