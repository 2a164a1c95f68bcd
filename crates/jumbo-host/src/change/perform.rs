//! Steps done one by one, each read back; undone in reverse when one does not hold.

use std::io;

use super::{Machine, Step, Value};

/// Where a step stands on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// As it was when the plan was made.
    Old,
    /// As the plan would have it.
    New,
    /// Something else: this.
    Other(Value),
    /// It could not be read, for this reason.
    Unreadable(String),
}

/// Looks at every step without changing anything.
pub fn states(machine: &mut dyn Machine, steps: &[Step]) -> Vec<State> {
    let state = |step: &Step| match machine.read(&step.setting) {
        Ok(value) if value == step.new => State::New,
        Ok(value) if value == step.old => State::Old,
        // Whether a feature works can follow another one meanwhile; what was asked for is what counts.
        Ok(value) if value.asks_the_same(&step.new) => State::New,
        Ok(value) if value.asks_the_same(&step.old) => State::Old,
        Ok(value) => State::Other(value),
        Err(error) => State::Unreadable(error.to_string()),
    };
    steps.iter().map(state).collect()
}

/// A step that did not hold, after everything before it was undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which step, from 0.
    pub step: usize,
    /// What was seen instead.
    pub what: String,
    /// Steps that could not be undone, with the reason.
    pub stuck: Vec<(usize, String)>,
}

/// Does the steps in order and reads back each; undoes all when one does not hold.
pub fn perform(machine: &mut dyn Machine, steps: &[Step]) -> Result<(), Failure> {
    for (number, step) in steps.iter().enumerate() {
        if let Err(what) = one(machine, step) {
            let done = steps.get(..=number).unwrap_or_default();
            let stuck = back(machine, done);
            return Err(Failure {
                step: number,
                what,
                stuck,
            });
        }
    }
    Ok(())
}

fn one(machine: &mut dyn Machine, step: &Step) -> Result<(), String> {
    let refused = |error: io::Error| format!("the kernel refuses it: {}", reason(&error));
    machine.write(&step.setting, &step.new).map_err(refused)?;
    match machine.read(&step.setting) {
        Ok(value) if value == step.new => Ok(()),
        Ok(value) => Err(format!("it was accepted and is {value} all the same")),
        Err(error) => Err(format!("it cannot be read back: {error}")),
    }
}

/// The kernel's words, with a hint where the code has one meaning here.
fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc_codes::EOPNOTSUPP) => "not supported by this driver or kernel".into(),
        Some(libc_codes::EPERM | libc_codes::EACCES) => "permission denied (run as root)".into(),
        _ => error.to_string(),
    }
}

mod libc_codes {
    pub(super) const EPERM: i32 = 1;
    pub(super) const EACCES: i32 = 13;
    pub(super) const EOPNOTSUPP: i32 = 95;
}

/// Puts the old values back, the last first; those that do not go back, with the reason.
fn back(machine: &mut dyn Machine, steps: &[Step]) -> Vec<(usize, String)> {
    let mut stuck = Vec::new();
    for (number, step) in steps.iter().enumerate().rev() {
        let now = machine.read(&step.setting);
        if now.is_ok_and(|value| value.asks_the_same(&step.old)) {
            continue;
        }
        if let Err(error) = machine.write(&step.setting, &step.old) {
            stuck.push((number, reason(&error)));
        }
    }
    for (number, step) in steps.iter().enumerate() {
        match machine.read(&step.setting) {
            Ok(value) if value.asks_the_same(&step.old) => {}
            _ if stuck.iter().any(|(other, _)| *other == number) => {}
            Ok(value) => stuck.push((number, format!("it stays {value}"))),
            Err(error) => stuck.push((number, error.to_string())),
        }
    }
    stuck
}

/// What became of an undo.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Undone {
    /// Steps whose old value is back.
    pub restored: Vec<usize>,
    /// Steps that had their old value already.
    pub already: Vec<usize>,
    /// Steps that somebody else changed since, and what they are now; they are left alone.
    pub foreign: Vec<(usize, String)>,
    /// Steps that could not be undone, with the reason.
    pub stuck: Vec<(usize, String)>,
}

impl Undone {
    /// Every setting is as it was.
    pub fn whole(&self) -> bool {
        self.foreign.is_empty() && self.stuck.is_empty()
    }
}

/// Puts back what the steps changed, and only that.
pub fn undo(machine: &mut dyn Machine, steps: &[Step]) -> Undone {
    let mut undone = Undone::default();
    let mut ours = Vec::new();
    for (number, state) in states(machine, steps).into_iter().enumerate() {
        match state {
            State::New => ours.push(number),
            State::Old => undone.already.push(number),
            State::Other(value) => undone.foreign.push((number, value.to_string())),
            State::Unreadable(reason) => undone.stuck.push((number, reason)),
        }
    }
    let steps_of: Vec<Step> = ours
        .iter()
        .filter_map(|number| steps.get(*number).cloned())
        .collect();
    let stuck = back(machine, &steps_of);
    for (place, number) in ours.into_iter().enumerate() {
        match stuck.iter().find(|(other, _)| *other == place) {
            Some((_, reason)) => undone.stuck.push((number, reason.clone())),
            None => undone.restored.push(number),
        }
    }
    undone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Setting;
    use std::collections::BTreeMap;

    /// A host of numbers, on which some settings do not take.
    #[derive(Default)]
    struct Fake {
        values: BTreeMap<Setting, Value>,
        refuses: Option<(Setting, Value)>,
        ignores: Option<Setting>,
        written: Vec<(Setting, Value)>,
    }

    impl Machine for Fake {
        fn read(&mut self, setting: &Setting) -> io::Result<Value> {
            self.values
                .get(setting)
                .cloned()
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn write(&mut self, setting: &Setting, value: &Value) -> io::Result<()> {
            if self.refuses == Some((setting.clone(), value.clone())) {
                return Err(io::Error::from_raw_os_error(95));
            }
            self.written.push((setting.clone(), value.clone()));
            if self.ignores.as_ref() != Some(setting) {
                self.values.insert(setting.clone(), value.clone());
            }
            Ok(())
        }
    }

    fn setting(name: &str) -> Setting {
        Setting::Mtu {
            device: name.into(),
        }
    }

    fn steps() -> Vec<Step> {
        let step = |name: &str| {
            Step::new(
                setting(name),
                Value::Number(1500),
                Value::Number(9000),
                "MTU001",
            )
        };
        ["a", "b", "c"].map(step).to_vec()
    }

    fn fake() -> Fake {
        Fake {
            values: steps()
                .into_iter()
                .map(|step| (step.setting, step.old))
                .collect(),
            ..Fake::default()
        }
    }

    fn values(fake: &Fake) -> Vec<&Value> {
        fake.values.values().collect()
    }

    #[test]
    fn all_steps_are_done_and_undone_in_reverse() {
        let mut fake = fake();
        assert_eq!(perform(&mut fake, &steps()), Ok(()));
        assert_eq!(
            states(&mut fake, &steps()),
            [State::New, State::New, State::New]
        );
        fake.written.clear();
        let undone = undo(&mut fake, &steps());
        assert_eq!((undone.restored.len(), undone.whole()), (3, true));
        let order: Vec<_> = fake.written.iter().map(|(one, _)| one.clone()).collect();
        assert_eq!(order, [setting("c"), setting("b"), setting("a")]);
        assert!(
            values(&fake)
                .iter()
                .all(|value| **value == Value::Number(1500))
        );
    }

    #[test]
    fn a_refused_step_leaves_nothing_behind() {
        let mut fake = fake();
        fake.refuses = Some((setting("c"), Value::Number(9000)));
        let failure = perform(&mut fake, &steps()).expect_err("refused");
        assert_eq!((failure.step, failure.stuck.len()), (2, 0));
        assert!(failure.what.contains("not supported"), "{}", failure.what);
        assert!(
            values(&fake)
                .iter()
                .all(|value| **value == Value::Number(1500))
        );
    }

    #[test]
    fn a_step_that_is_accepted_and_ignored_is_a_failure() {
        let mut fake = fake();
        fake.ignores = Some(setting("b"));
        let failure = perform(&mut fake, &steps()).expect_err("ignored");
        assert_eq!(
            (failure.step, failure.what.as_str()),
            (1, "it was accepted and is 1500 all the same")
        );
        assert!(
            values(&fake)
                .iter()
                .all(|value| **value == Value::Number(1500))
        );
    }

    #[test]
    fn what_does_not_go_back_is_named() {
        let mut fake = fake();
        fake.refuses = Some((setting("b"), Value::Number(9000)));
        let first = &steps()[..1];
        perform(&mut fake, first).expect("done");
        fake.refuses = Some((setting("a"), Value::Number(1500)));
        let undone = undo(&mut fake, first);
        assert_eq!(undone.stuck.len(), 1);
        assert!(!undone.whole());
    }

    #[test]
    fn undo_leaves_alone_what_somebody_else_changed() {
        let mut fake = fake();
        perform(&mut fake, &steps()).expect("done");
        fake.values.insert(setting("b"), Value::Number(4000));
        fake.values.insert(setting("c"), Value::Number(1500));
        let undone = undo(&mut fake, &steps());
        assert_eq!(undone.foreign, [(1, "4000".to_owned())]);
        assert_eq!((undone.restored, undone.already), (vec![0], vec![2]));
        assert_eq!(fake.values[&setting("b")], Value::Number(4000));
    }
}
