//! `Get-NetAdapterRsc | ConvertTo-Json`: one object, or a list of them.

use serde_json::Value;

use super::{Guest, Line, NoGuest, Side};

pub(super) fn read(text: &str) -> Result<Guest, NoGuest> {
    let value: Value = serde_json::from_str(text).map_err(|error| NoGuest(error.to_string()))?;
    let adapters = match value {
        Value::Array(list) => list,
        one => vec![one],
    };
    let lines: Vec<Line> = adapters
        .iter()
        .flat_map(|adapter| {
            ["IPv4", "IPv6"]
                .into_iter()
                .filter_map(|family| line(adapter, family))
        })
        .collect();
    match lines.is_empty() {
        true => Err(NoGuest("there is no IPv4OperationalState in it".into())),
        false => Ok(Guest {
            system: "windows",
            lines,
        }),
    }
}

fn line(adapter: &Value, family: &str) -> Option<Line> {
    let flag = |name: &str| {
        adapter
            .get(format!("{family}{name}"))
            .and_then(Value::as_bool)
    };
    let operational = flag("OperationalState")?;
    let reason = reason(adapter, family, operational);
    let (side, remedy) = judge(&reason);
    Some(Line {
        adapter: adapter
            .get("Name")
            .and_then(Value::as_str)
            .map(str::to_owned),
        what: format!("receive_coalescing {}", family.to_lowercase()),
        operational,
        side,
        remedy: remedy.into(),
        reason,
    })
}

/// The reason by its name. ConvertTo-Json writes it as a number unless it was made text; then the other properties say
/// as much as they can.
fn reason(adapter: &Value, family: &str, operational: bool) -> String {
    let flag = |name: &str| {
        adapter
            .get(format!("{family}{name}"))
            .and_then(Value::as_bool)
    };
    let said = adapter.get(format!("{family}FailureReason"));
    match said {
        _ if operational => "NoFailure".into(),
        Some(Value::String(name)) => name.clone(),
        _ if flag("Supported") == Some(false) => "Capability".into(),
        _ if flag("Enabled") == Some(false) => "NicPropertyDisabled".into(),
        Some(Value::Number(number)) => format!("Unknown ({number})"),
        _ => "Unknown".into(),
    }
}

fn judge(reason: &str) -> (Side, &'static str) {
    match reason {
        "NoFailure" => (Side::None, "none needed"),
        "NicPropertyDisabled" => (Side::Guest, "Enable-NetAdapterRsc -Name ADAPTER"),
        "WFPCompatibility" => (
            Side::Guest,
            "remove the filter driver that forbids it: a firewall, antivirus or VPN client (netsh wfp show filters names them)",
        ),
        "NDISCompatibility" => (
            Side::Guest,
            "a driver for NDIS 6.30 or later: update NetKVM",
        ),
        "ForwardingEnabled" => (
            Side::Guest,
            "stop forwarding: Set-NetIPInterface -InterfaceAlias ADAPTER -Forwarding Disabled",
        ),
        "NetOffloadGlobalDisabled" => (
            Side::Guest,
            "Set-NetOffloadGlobalSetting -ReceiveSegmentCoalescing Enabled",
        ),
        "Capability" => (
            Side::Host,
            "the TAP has no checksum and TSO offload: jumbo check on the host (TAP001, TAP002), QEMU: guest_csum=on,guest_tso4=on,guest_tso6=on",
        ),
        _ => (
            Side::Unknown,
            "name the reason: Get-NetAdapterRsc | Select Name,IPv4*,IPv6* | ConvertTo-Json -EnumsAsStrings (PowerShell 7), or read IPv4FailureReason on its screen",
        ),
    }
}
