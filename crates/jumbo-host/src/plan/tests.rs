//! A plan against the rules it came from, on the hosts the rules bring themselves.

use std::collections::BTreeSet;

use super::*;
use crate::check::Report;
use crate::rules::scene::Scene;
use crate::rules::{self, cases};
use crate::snapshot::Feature;

fn today() -> Date {
    Date::of(std::time::SystemTime::UNIX_EPOCH)
}

fn options(rules: &[&str]) -> Options {
    Options {
        rules: rules.iter().map(|id| (*id).to_owned()).collect(),
        ..Options::default()
    }
}

fn of(scene: &Scene, rules: &[&str]) -> Plan {
    let options = Options {
        profile: Some(scene.profile),
        ..options(rules)
    };
    plan(&scene.now, Some(&scene.before), &options, today())
}

fn judged(scene: &Scene, now: &Snapshot) -> Report {
    let options = Options {
        profile: Some(scene.profile),
        ..Options::default()
    };
    check::check(now, Some(&scene.before), &options, today())
}

fn faults(report: &Report) -> BTreeSet<(&'static str, Option<String>)> {
    let faults = report
        .findings
        .iter()
        .filter(|one| one.status == Status::Finding);
    faults.map(|one| (one.id, one.device.clone())).collect()
}

fn after(scene: &Scene, plan: &Plan) -> Snapshot {
    let mut now = scene.now.clone();
    for step in &plan.steps {
        step.setting.simulate(&mut now, &step.new);
    }
    now
}

/// Rules that judge counters: they change only with traffic, not with the setting.
const COUNTERS: [&str; 5] = ["SFT001", "SFT002", "RNG001", "TAP012", "STR003"];

/// The steps come in an order that works by itself, in which each is seen to hold when it is done.
#[test]
fn whatever_a_rule_wants_makes_it_silent_and_no_other_loud() {
    for (id, cases) in cases() {
        let mut scene = Scene::healthy();
        (cases.fires)(&mut scene);
        let plan = of(&scene, &[]);
        let asked = of(&scene, &[id]);
        let plan = if plan.steps.is_empty() { asked } else { plan };
        assert_eq!(plan.usable(), Ok(()), "{id}");
        assert_eq!(plan.conflicts, [], "{id}");
        let own = |step: &Step| step.rules.iter().any(|rule| rule == id);
        if !plan.steps.iter().any(own) {
            continue;
        }
        let healed = judged(&scene, &after(&scene, &plan));
        let (ill, healed) = (faults(&judged(&scene, &scene.now)), faults(&healed));
        let new: Vec<_> = healed.difference(&ill).collect();
        assert!(new.is_empty(), "the plan for {id} makes {new:?}");
        let stays = healed.iter().any(|(one, _)| *one == id);
        assert!(
            !stays || COUNTERS.contains(&id),
            "{id} stays after {:#?}",
            plan.steps
        );
    }
}

/// What a fault says to type and what a plan does is one thing.
#[test]
fn each_setting_of_a_fault_is_among_its_commands() {
    let mut settings = 0;
    for (id, cases) in cases() {
        let mut scene = Scene::healthy();
        (cases.fires)(&mut scene);
        let report = judged(&scene, &scene.now);
        for finding in report.findings.iter().filter(|one| one.id == id) {
            for wanted in &finding.wanted {
                let command = wanted.setting.command(&wanted.value);
                assert!(finding.fix.commands.contains(&command), "{id}: {command}");
                assert_eq!(wanted.setting.fits(&wanted.value), Ok(()), "{id}");
                settings += 1;
            }
        }
    }
    assert!(settings > 40, "only {settings}");
}

#[test]
fn a_rule_that_is_safe_resets_nothing() {
    for (id, cases) in cases() {
        let mut scene = Scene::healthy();
        (cases.fires)(&mut scene);
        let plan = of(&scene, &[id]);
        let safe = rules::by_id(id).expect("a rule").class == Class::Safe;
        let resets = plan.steps.iter().any(|step| step.resets);
        assert!(!(safe && resets), "{id}: {:#?}", plan.steps);
    }
}

#[test]
fn a_plan_can_be_taken_back() {
    for (id, cases) in cases() {
        let mut scene = Scene::healthy();
        (cases.fires)(&mut scene);
        let plan = of(&scene, &[id]);
        let mut now = after(&scene, &plan);
        for step in plan.steps.iter().rev() {
            step.setting.simulate(&mut now, &step.old);
        }
        for step in &plan.steps {
            let back = step.setting.read(&now).expect("known");
            assert!(back.asks_the_same(&step.old), "{id}: {step:?}");
        }
    }
}

#[test]
fn a_healthy_host_has_an_empty_plan() {
    let plan = of(&Scene::healthy(), &[]);
    assert_eq!(
        (plan.steps, plan.left, plan.conflicts),
        (vec![], vec![], vec![])
    );
}

#[test]
fn steps_come_in_the_order_they_stand_on_one_another() {
    let mut scene = Scene::healthy();
    for name in ["tx-scatter-gather", "tx-checksum-ip-generic"] {
        scene.feature("eth0", name, Feature::OFF);
    }
    for name in [
        "tx-generic-segmentation",
        "tx-tcp-segmentation",
        "tx-tcp6-segmentation",
    ] {
        scene.feature("eth0", name, Feature::DENIED);
    }
    let plan = of(&scene, &[]);
    let names: Vec<_> = plan
        .steps
        .iter()
        .map(|step| step.setting.to_string())
        .collect();
    // What is only held off comes back by itself.
    assert_eq!(names, ["tx-scatter-gather", "tx-checksum-ip-generic"]);
    let now = after(&scene, &plan);
    assert!(
        now.by_name("eth0")
            .expect("eth0")
            .features
            .get()
            .expect("known")
            .active("tx-tcp-segmentation")
    );
}

#[test]
fn what_costs_something_else_must_be_asked_for() {
    let mut scene = Scene::healthy();
    scene.sysctl("net.bridge.bridge-nf-call-iptables", "1");
    let plan = of(&scene, &[]);
    assert!(plan.steps.is_empty());
    assert!(
        plan.left[0].why.contains("--rule BRG001"),
        "{:?}",
        plan.left
    );
    assert_eq!(of(&scene, &["BRG001"]).steps.len(), 1);
}

#[test]
fn a_waived_fault_is_let_be() {
    let mut scene = Scene::healthy();
    scene.feature("eth0", "rx-gro", Feature::OFF);
    assert_eq!(of(&scene, &[]).steps.len(), 1);
    let waiver: crate::waiver::Waiver =
        serde_json::from_str(r#"{"id":"GRO001","reason":"on purpose"}"#).expect("a waiver");
    let options = Options {
        waivers: vec![waiver],
        ..Options::default()
    };
    let plan = plan(&scene.now, None, &options, today());
    assert_eq!((plan.steps.len(), plan.left.len()), (0, 0));
}

#[test]
fn two_rules_that_disagree_are_both_named() {
    let (scene, options) = (Scene::healthy(), Options::default());
    let gro = Setting::feature(scene.now.by_name("eth0").expect("eth0"), "rx-gro");
    let mut draft = Draft::new(&scene.now, &options);
    assert!(draft.want("XXX001", &gro, &Value::OFF));
    let now = draft.simulated.clone();
    let report = check::check(&now, None, &options, today());
    assert!(!draft.take(&report.findings));
    let conflicts = draft.conflicts(&report.findings);
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    assert_eq!(
        (conflicts[0].dropped.as_str(), &conflicts[0].kept[..]),
        ("GRO001", &["XXX001".to_owned()][..])
    );
}

#[test]
fn a_plan_survives_json_and_an_edited_one_is_refused() {
    let mut scene = Scene::healthy();
    scene.feature("eth0", "rx-gro", Feature::OFF);
    let plan = of(&scene, &[]);
    let text = serde_json::to_string(&plan).expect("written");
    assert_eq!(serde_json::from_str::<Plan>(&text).expect("read"), plan);
    for (from, to) in [
        ("\"eth0\"", "\"../etc\""),
        ("plan/1", "plan/7"),
        ("{\"feature\":\"on\"}", "{\"number\":1}"),
    ] {
        let edited: Plan = serde_json::from_str(&text.replace(from, to)).expect("still a plan");
        assert!(edited.usable().is_err(), "{from}");
    }
    assert!(serde_json::from_str::<Plan>(&text.replace("\"steps\"", "\"stps\"")).is_err());
}
