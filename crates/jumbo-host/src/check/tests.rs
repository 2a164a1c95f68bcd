//! What becomes of faults: order, filters, waivers, and the published form.

use serde_json::Value;

use super::*;
use crate::rules::scene::Scene;
use crate::snapshot::Feature;
use crate::waiver::Waiver;

fn date(text: &str) -> Date {
    Date::try_from(text.to_owned()).expect("a date")
}

/// A host with a warning on one device, and an error and a remark on another.
fn ill() -> Scene {
    let mut scene = Scene::healthy();
    scene.feature("eth0", "rx-gro", Feature::OFF);
    scene.feature("vnet0", "tx-tcp-ecn-segmentation", Feature::DENIED);
    scene.feature("vnet0", "tx-checksum-ip-generic", Feature::DENIED);
    scene.now.softnet = crate::datum::Datum::unknown("no such file");
    scene
}

fn run(scene: &Scene, options: &Options) -> Report {
    check(&scene.now, Some(&scene.before), options, date("2026-11-22"))
}

fn ids(report: &Report, status: Status) -> Vec<&'static str> {
    report
        .findings
        .iter()
        .filter(|finding| finding.status == status)
        .map(|finding| finding.id)
        .collect()
}

#[test]
fn the_host_comes_first_then_devices_the_worst_first() {
    let report = run(&ill(), &Options::default());
    assert_eq!(
        ids(&report, Status::Finding),
        ["GRO001", "TAP001", "TAP004"]
    );
    assert_eq!(
        report.findings[0].device, None,
        "unknown softnet belongs to the host"
    );
    assert_eq!(report.worst(), Some(Severity::Error));
    let Summary {
        error,
        warning,
        info,
        unknown,
        ..
    } = report.summary;
    assert_eq!((error, warning, info, unknown), (1, 1, 1, 3));
}

#[test]
fn unknown_is_not_a_fault() {
    let mut scene = Scene::healthy();
    scene.now.softnet = crate::datum::Datum::unknown("no such file");
    let report = run(&scene, &Options::default());
    assert_eq!(
        ids(&report, Status::Unknown),
        ["SFT001", "SFT002", "SFT003"]
    );
    assert_eq!(report.worst(), None);
}

#[test]
fn filters_leave_out_the_rest() {
    let only = |devices: &[&str], rules: &[&str], severity| {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let options = Options {
            devices: texts(devices),
            rules: texts(rules),
            severity,
            ..Options::default()
        };
        ids(&run(&ill(), &options), Status::Finding)
    };
    assert_eq!(only(&["vnet0"], &[], None), ["TAP001", "TAP004"]);
    assert_eq!(only(&[], &["gro"], None), ["GRO001"]);
    assert_eq!(only(&[], &["tap004"], None), ["TAP004"]);
    assert_eq!(only(&[], &[], Some(Severity::Error)), ["TAP001"]);
}

#[test]
fn one_reading_makes_no_rule_of_change_unknown() {
    let scene = ill();
    let report = check(&scene.now, None, &Options::default(), date("2026-11-22"));
    assert_eq!(ids(&report, Status::Unknown), [""; 0]);
    assert_eq!(report.sample_seconds, None);
}

#[test]
fn a_waiver_covers_until_its_last_day() {
    let waiver = |until: &str| Waiver {
        id: "TAP001".into(),
        device: Some("vnet0".into()),
        reason: "old guest".into(),
        until: Some(date(until)),
    };
    let options = |waivers| Options {
        waivers,
        ..Options::default()
    };
    let holds = run(&ill(), &options(vec![waiver("2026-11-22")]));
    assert_eq!(ids(&holds, Status::Waived), ["TAP001"]);
    assert_eq!(holds.worst(), Some(Severity::Warning));
    let expired = run(&ill(), &options(vec![waiver("2026-11-21")]));
    assert!(ids(&expired, Status::Finding).contains(&"TAP001"));
    let finding = expired
        .findings
        .iter()
        .find(|finding| finding.id == "TAP001");
    assert!(
        finding.is_some_and(|finding| finding.waiver.is_some()),
        "the expired waiver is shown"
    );
    let both = run(
        &ill(),
        &options(vec![waiver("2026-11-21"), waiver("2026-12-31")]),
    );
    assert_eq!(ids(&both, Status::Waived), ["TAP001"]);
}

#[test]
fn the_profile_is_guessed_unless_it_is_given() {
    assert_eq!(run(&ill(), &Options::default()).profile, Profile::VmHost);
    let given = Options {
        profile: Some(Profile::Latency),
        ..Options::default()
    };
    assert_eq!(run(&ill(), &given).profile, Profile::Latency);
}

/// Every key that is printed is in the schema with a fitting type, and every key the schema requires is printed.
fn fits(value: &Value, schema: &Value, place: &str) {
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
        assert!(
            allowed.contains(value),
            "{place}: {value} is not in the schema"
        );
    }
    if let Some(types) = schema.get("type") {
        let is = |name: &str| match name {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            _ => value.is_null(),
        };
        let one = types.as_str().map(is);
        let any = types
            .as_array()
            .map(|types| types.iter().filter_map(Value::as_str).any(is));
        assert!(
            one.or(any).expect("a type"),
            "{place}: {value} has another type"
        );
    }
    match value {
        Value::Object(keys) => {
            for required in schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                assert!(keys.contains_key(required), "{place}.{required} is missing");
            }
            for (key, inside) in keys {
                let schema = schema["properties"].get(key);
                fits(
                    inside,
                    schema.unwrap_or_else(|| panic!("{place}.{key} is not published")),
                    &format!("{place}.{key}"),
                );
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| fits(item, &schema["items"], place)),
        _ => {}
    }
}

#[test]
fn the_report_fits_the_published_schema() {
    let schema: Value = serde_json::from_str(JSON_SCHEMA).expect("JSON");
    assert_eq!(schema["properties"]["schema"]["const"], SCHEMA);
    let waiver = Waiver {
        id: "GRO001".into(),
        device: None,
        reason: "a test".into(),
        until: Some(date("2027-01-01")),
    };
    let options = Options {
        waivers: vec![waiver],
        ..Options::default()
    };
    let report = serde_json::to_value(run(&ill(), &options)).expect("JSON");
    fits(&report, &schema, "report");
}
