//! What is checked before a request is looked into: that it may come at all, its length, its files.

use super::super::VhostError;
use super::super::feature::protocol;
use super::super::message::{
    CONFIG_HEAD_LEN, CONFIG_LEN_MAX, InflightArea, Message, REGION_LEN, Region, Request, VringAddr,
    VringState,
};
use super::Session;

/// A protocol feature that must be there.
enum Gate {
    /// "present in GET_PROTOCOL_FEATURES": offered is enough.
    Offered(u64),
    /// "successfully negotiated".
    Negotiated(u64, &'static str),
}

impl Session {
    pub(super) fn admit(&self, message: &Message) -> Result<(), VhostError> {
        let request = message.request;
        self.admit_request(request)?;
        self.admit_log(message)?;
        let len = message.payload.len();
        if !has_len(request, len) {
            return Err(VhostError::PayloadLen { request, len });
        }
        admit_fds(message)
    }

    fn admit_request(&self, request: Request) -> Result<(), VhostError> {
        match gate(request) {
            Some(Gate::Offered(bit)) if self.offer.protocol_features & bit == 0 => {
                Err(VhostError::NotOffered(request))
            }
            Some(Gate::Negotiated(bit, feature)) if self.device.protocol_features & bit == 0 => {
                Err(VhostError::NotNegotiated { request, feature })
            }
            _ => Ok(()),
        }
    }

    /// Without LOG_SHMFD the message is an address in the front end's memory, where nobody can write.
    fn admit_log(&self, message: &Message) -> Result<(), VhostError> {
        let by_file = self.device.protocol_features & protocol::LOG_SHMFD != 0;
        if message.request == Request::SetLogBase && !by_file {
            return Err(VhostError::LogWithoutFile(message.request));
        }
        Ok(())
    }
}

fn gate(request: Request) -> Option<Gate> {
    Some(match request {
        Request::GetQueueNum => Gate::Offered(protocol::MQ),
        Request::SendRarp => Gate::Offered(protocol::RARP),
        Request::NetSetMtu => Gate::Offered(protocol::MTU),
        Request::SetBackendReqFd => Gate::Offered(protocol::BACKEND_REQ),
        Request::ResetDevice => Gate::Offered(protocol::RESET_DEVICE),
        Request::GetConfig | Request::SetConfig => Gate::Negotiated(protocol::CONFIG, "CONFIG"),
        Request::GetStatus | Request::SetStatus => Gate::Negotiated(protocol::STATUS, "STATUS"),
        Request::GetInflightFd | Request::SetInflightFd => {
            Gate::Negotiated(protocol::INFLIGHT_SHMFD, "INFLIGHT_SHMFD")
        }
        Request::GetMaxMemSlots | Request::AddMemReg | Request::RemMemReg => {
            Gate::Negotiated(protocol::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS")
        }
        _ => return None,
    })
}

/// Whether a payload of `len` bytes can be that request's. Requests that are never offered are refused later, by name.
fn has_len(request: Request, len: usize) -> bool {
    match request {
        Request::SetFeatures
        | Request::SetProtocolFeatures
        | Request::SetVringKick
        | Request::SetVringCall
        | Request::SetVringErr
        | Request::SendRarp
        | Request::NetSetMtu
        | Request::SetStatus => len == 8,
        Request::SetLogBase => len == 16,
        Request::SetVringNum
        | Request::SetVringBase
        | Request::GetVringBase
        | Request::SetVringEnable => len == VringState::LEN,
        Request::SetVringAddr => len == VringAddr::LEN,
        Request::SetMemTable => len >= 8 && (len - 8).is_multiple_of(REGION_LEN),
        Request::AddMemReg | Request::RemMemReg => len == Region::SINGLE_LEN,
        Request::GetConfig | Request::SetConfig => {
            (CONFIG_HEAD_LEN..=CONFIG_HEAD_LEN + CONFIG_LEN_MAX).contains(&len)
        }
        Request::GetInflightFd | Request::SetInflightFd => InflightArea::LENS.contains(&len),
        Request::GetFeatures
        | Request::SetOwner
        | Request::ResetOwner
        | Request::SetLogFd
        | Request::GetProtocolFeatures
        | Request::GetQueueNum
        | Request::SetBackendReqFd
        | Request::ResetDevice
        | Request::GetMaxMemSlots
        | Request::GetStatus => len == 0,
        _ => true,
    }
}

/// Files that come with it; those whose number depends on the payload are counted where that is read.
fn admit_fds(message: &Message) -> Result<(), VhostError> {
    let got = message.fds.len();
    let expected = match message.request {
        Request::SetMemTable
        | Request::SetVringKick
        | Request::SetVringCall
        | Request::SetVringErr => got,
        // "the back-end MAY accept messages with one file descriptor"
        Request::RemMemReg => got.min(1),
        Request::AddMemReg
        | Request::SetLogBase
        | Request::SetLogFd
        | Request::SetBackendReqFd
        | Request::SetInflightFd => 1,
        _ => 0,
    };
    if got == expected {
        return Ok(());
    }
    let request = message.request;
    Err(VhostError::FdCount {
        request,
        got,
        expected,
    })
}
