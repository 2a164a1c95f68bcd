//! Works, engines, and rounds in which each has its turn.

use std::time::Duration;

/// What a pass took, for how many packets, segments, sums or hashes.
#[derive(Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) time: Duration,
    pub(crate) units: usize,
}

/// An engine at a work.
pub(crate) struct Contender {
    pub(crate) engine: String,
    /// What it does of what others may leave out.
    pub(crate) does: &'static str,
    /// What came of it, such as packets per aggregate.
    pub(crate) note: String,
    pub(crate) pass: Box<dyn FnMut() -> Spent>,
    /// Nanoseconds per unit, one of each round.
    pub(crate) samples: Vec<f64>,
}

impl Contender {
    pub(crate) fn new(
        engine: impl Into<String>,
        does: &'static str,
        note: impl Into<String>,
        pass: impl FnMut() -> Spent + 'static,
    ) -> Self {
        Self {
            engine: engine.into(),
            does,
            note: note.into(),
            pass: Box::new(pass),
            samples: Vec::new(),
        }
    }

    /// One sample: passes until they took long enough together.
    fn sample(&mut self) {
        let (mut time, mut units) = (Duration::ZERO, 0);
        while time < SAMPLE {
            let spent = (self.pass)();
            time += spent.time;
            units += spent.units;
        }
        self.samples.push(time.as_nanos() as f64 / units as f64);
    }

    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[half],
            _ => (sorted[half - 1] + sorted[half]) / 2.0,
        }
    }

    pub(crate) fn min(&self) -> f64 {
        self.samples.iter().copied().fold(f64::NAN, f64::min)
    }

    pub(crate) fn max(&self) -> f64 {
        self.samples.iter().copied().fold(f64::NAN, f64::max)
    }
}

/// Short enough that neighbours see the same machine, long enough for the clock.
const SAMPLE: Duration = Duration::from_millis(1);

/// Something to be done, and who does it.
pub(crate) struct Work {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) contenders: Vec<Contender>,
}

impl Work {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            unit,
            contenders: Vec::new(),
        }
    }
}

/// All engines of a work directly one after the other, work by work; the order turns from round to round.
pub(crate) fn run(works: &mut [Work], rounds: usize, mut tick: impl FnMut(usize)) {
    for round in 0..rounds {
        tick(round);
        for work in &mut *works {
            let count = work.contenders.len();
            for turn in 0..count {
                work.contenders[(round + turn) % count].sample();
            }
        }
    }
}
