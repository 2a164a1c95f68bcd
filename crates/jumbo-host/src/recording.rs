//! A recorded host: one or two readings in one reviewable file.

use serde::{Deserialize, Serialize};

use crate::datum::Datum;
use crate::snapshot::{Snapshot, VERSION};

/// What `jumbo record` writes and `jumbo check --from` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// The earlier reading, for rules that judge a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Snapshot>,
    /// The host as it was.
    pub now: Snapshot,
}

/// A recording that this version cannot judge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Recorded in a form of another version.
    #[error("it has form {0}, this version reads form {VERSION}")]
    OtherForm(u32),
    /// The two readings are of different hosts, or in the wrong order.
    #[error("its two readings do not follow one another")]
    NotOneHost,
}

/// What stands for a word that was taken out.
pub const REDACTED: &str = "redacted";

/// Programs whose names say nothing about who uses the host.
const COMMON_PROGRAMS: [&str; 7] = [
    "qemu",
    "cloud-hyp",
    "firecracker",
    "crosvm",
    "jumbo",
    "vhost",
    "openvpn",
];

impl Recording {
    /// Takes out what names the host or its users: the host's name, and names of uncommon programs that hold a TAP.
    /// Addresses, MACs and hash keys are never recorded. Names of devices stay: the rules' answers are about them.
    pub fn redact(&mut self) {
        let readings = [Some(&mut self.now), self.before.as_mut()];
        for reading in readings.into_iter().flatten() {
            if let Datum::Known { value, .. } = &mut reading.hostname {
                *value = REDACTED.into();
            }
            for device in &mut reading.devices {
                let Datum::Known { value, .. } = &mut device.owners else {
                    continue;
                };
                let common =
                    |name: &str| COMMON_PROGRAMS.iter().any(|known| name.starts_with(known));
                for owner in value.iter_mut().filter(|owner| !common(&owner.program)) {
                    owner.program = REDACTED.into();
                }
            }
        }
    }

    /// Whether it can be judged.
    pub fn usable(&self) -> Result<(), Unusable> {
        let readings = [Some(&self.now), self.before.as_ref()];
        for reading in readings.into_iter().flatten() {
            if reading.version != VERSION {
                return Err(Unusable::OtherForm(reading.version));
            }
        }
        match &self.before {
            Some(before)
                if before.hostname != self.now.hostname
                    || before.uptime_ms >= self.now.uptime_ms =>
            {
                Err(Unusable::NotOneHost)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::scene::Scene;

    #[test]
    fn a_recording_comes_back_as_it_was() {
        let Scene { before, now, .. } = Scene::healthy();
        let recording = Recording {
            before: Some(before),
            now,
        };
        let text = serde_json::to_string(&recording).expect("written");
        let read: Recording = serde_json::from_str(&text).expect("read");
        assert_eq!(read, recording);
        assert_eq!(read.usable(), Ok(()));
    }

    #[test]
    fn a_redacted_recording_names_nobody_and_is_judged_the_same() {
        let mut scene = Scene::healthy();
        scene.now.hostname = Datum::known("acme-db-1".into(), "test");
        scene.before.hostname = scene.now.hostname.clone();
        if let Datum::Known { value, .. } = &mut scene.device("vnet0").owners {
            let mut other = value[0].clone();
            other.program = "acme-agent".into();
            value.push(other);
        }
        let Scene { before, now, .. } = scene;
        let mut recording = Recording {
            before: Some(before),
            now,
        };
        recording.redact();
        let text = serde_json::to_string(&recording).expect("written");
        assert!(!text.contains("acme"), "{text}");
        assert!(text.contains("qemu-system-x86"));
        assert_eq!(recording.usable(), Ok(()));
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        let Scene {
            before, mut now, ..
        } = Scene::healthy();
        let swapped = Recording {
            before: Some(now.clone()),
            now: before,
        };
        assert_eq!(swapped.usable(), Err(Unusable::NotOneHost));
        now.version = 99;
        assert_eq!(
            Recording { before: None, now }.usable(),
            Err(Unusable::OtherForm(99))
        );
        assert!(
            serde_json::from_str::<Recording>(r#"{"now":{"devices":[{"nmae":"x"}]}}"#).is_err()
        );
    }
}
