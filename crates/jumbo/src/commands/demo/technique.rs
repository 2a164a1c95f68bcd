//! What the rows are: settings of the switch, and the kernel's own path beside them.

use jumbo_engine::pending::Caps;
use jumbo_switch::topology::Coalesce;
use serde::Serialize;

/// One way to carry bulk traffic between two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Technique {
    None,
    Gro,
    Tso,
    Gso,
    KernelGro,
    KernelTso,
    Lro,
    Rsc,
}

/// What joins the hosts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Path {
    /// A TAP each, and the switch between them; the same for both ports.
    Switch {
        /// What a host's stack may leave undone.
        hands: Caps,
        /// What is written to a host.
        takes: Caps,
        coalesce: Coalesce,
    },
    /// The kernel's veth pair, with GSO and GRO on at both ends.
    Veth { tso: bool },
}

/// Partial checksums, which every row has.
const CSUM: Caps = Caps::new(true, false, false, false, false);

impl Technique {
    /// All, in the order of the page.
    pub(super) const ALL: [Self; 8] = [
        Self::None,
        Self::Gro,
        Self::Tso,
        Self::Gso,
        Self::KernelGro,
        Self::KernelTso,
        Self::Lro,
        Self::Rsc,
    ];

    /// As in the JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gro => "gro",
            Self::Lro => "lro",
            Self::Rsc => "rsc",
            Self::Tso => "tso",
            Self::Gso => "gso",
            Self::KernelGro => "kernel_gro",
            Self::KernelTso => "kernel_tso",
        }
    }

    /// One line for the page.
    pub(super) fn meaning(self) -> &'static str {
        match self {
            Self::None => "the sender emits packets of MTU size; nothing is merged",
            Self::Gro => "the same packets; the switch coalesces them before the receiver",
            Self::Lro => {
                "as gro, for a receiver that ends its connections: sizes and ACKs may move"
            }
            Self::Rsc => "as lro, by the rules of Windows",
            Self::Tso => "the sender emits super-packets; they pass whole",
            Self::Gso => {
                "the sender emits super-packets; the switch segments them for the receiver"
            }
            Self::KernelGro => {
                "no switch: the kernel's veth pair, packets of MTU size, its own GRO"
            }
            Self::KernelTso => "no switch: the kernel's veth pair, super-packets pass whole",
        }
    }

    pub(super) fn path(self) -> Path {
        let switch = |hands, takes, coalesce| Path::Switch {
            hands,
            takes,
            coalesce,
        };
        match self {
            Self::None => switch(CSUM, CSUM, Coalesce::Off),
            Self::Gro => switch(CSUM, Caps::ALL, Coalesce::Gro),
            Self::Lro => switch(CSUM, Caps::ALL, Coalesce::Lro),
            Self::Rsc => switch(CSUM, Caps::ALL, Coalesce::Rsc),
            Self::Tso => switch(Caps::ALL, Caps::ALL, Coalesce::Gro),
            Self::Gso => switch(Caps::ALL, CSUM, Coalesce::Off),
            Self::KernelGro => Path::Veth { tso: false },
            Self::KernelTso => Path::Veth { tso: true },
        }
    }
}
