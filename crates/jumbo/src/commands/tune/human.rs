//! Plans and what became of them, for people.

use std::fmt::Write as _;
use std::path::Path;

use jumbo_host::change::{Setting, Step};
use jumbo_host::plan::Plan;

/// `jumbo tune plan`: a diff, the same as commands, and what is left.
pub(super) fn plan(plan: &Plan, file: Option<&Path>) -> String {
    let mut text = format!(
        "{}, judged as {}: {}\n",
        plan.host,
        plan.profile.name(),
        count(plan.steps.len())
    );
    text.push_str(&diff(&plan.steps));
    if !plan.steps.is_empty() {
        text.push_str("\nby hand\n");
        for step in &plan.steps {
            let _ = writeln!(text, "  {}", step.command);
        }
    }
    for conflict in &plan.conflicts {
        let _ = writeln!(
            text,
            "\n{} would have {}{} {}, which {} needs otherwise",
            conflict.dropped,
            of(&conflict.setting),
            conflict.setting,
            conflict.value,
            conflict.kept.join(" ")
        );
    }
    left(&mut text, plan);
    text.push_str(&next(plan, file));
    text
}

fn count(steps: usize) -> String {
    match steps {
        0 => "nothing to change".into(),
        1 => "1 change".into(),
        steps => format!("{steps} changes"),
    }
}

/// Old and new, by device.
pub(super) fn diff(steps: &[Step]) -> String {
    let mut text = String::new();
    let mut shown = None;
    for step in steps {
        let device = step.setting.device();
        if shown != Some(device) {
            let _ = writeln!(text, "\n{}", device.unwrap_or("this host"));
            shown = Some(device);
        }
        let reset = if step.may_reset() {
            "   may take the link down for a moment"
        } else {
            ""
        };
        let name = step.setting.to_string();
        let _ = writeln!(text, "- {name:<28} {}", step.old);
        let _ = writeln!(
            text,
            "+ {name:<28} {:<20} {}{reset}",
            step.new.to_string(),
            step.rules.join(" ")
        );
    }
    text
}

fn left(text: &mut String, plan: &Plan) {
    if !plan.left.is_empty() {
        text.push_str("\nleft\n");
    }
    for one in &plan.left {
        let device = one
            .device
            .as_ref()
            .map(|device| format!(" {device}"))
            .unwrap_or_default();
        let _ = writeln!(text, "  {}{device}: {} ({})", one.id, one.what, one.why);
    }
}

fn next(plan: &Plan, file: Option<&Path>) -> String {
    let resets = plan.steps.iter().any(Step::may_reset);
    let flag = if resets { " --allow-reset" } else { "" };
    match (plan.steps.is_empty(), file) {
        (true, _) => String::new(),
        (false, Some(file)) => format!("\nnext: jumbo tune apply{flag} {}\n", file.display()),
        (false, None) => {
            format!("\nnext: jumbo tune plan -o plan.json; jumbo tune apply{flag} plan.json\n")
        }
    }
}

/// `eth0 `, or nothing for the host's own.
pub(super) fn of(setting: &Setting) -> String {
    setting
        .device()
        .map(|device| format!("{device} "))
        .unwrap_or_default()
}

/// A step in a sentence.
pub(super) fn name(step: &Step) -> String {
    format!("{}{}", of(&step.setting), step.setting)
}
