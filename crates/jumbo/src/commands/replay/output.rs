//! Results as packets of a pcapng file. No decisions, no accounting.

use std::path::Path;

use jumbo_engine::arena::{Pieces, SliceMemory};
use jumbo_engine::complete::{Plan, complete};
use jumbo_engine::packet::{HEADERS_MAX, Packet};
use jumbo_engine::pending::Csum;
use jumbo_ports::capture::{CaptureError, CaptureWriter, LinkType, OutPacket, Record};

/// What a packet leaves in: taken from a packet it was made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope<'a> {
    pub(crate) link: LinkType,
    /// The cooked header, if the capture has one.
    pub(crate) cooked: &'a [u8],
    pub(crate) ts_ns: u64,
}

/// The file being written.
#[derive(Debug)]
pub(crate) struct Output {
    writer: CaptureWriter,
    data: Vec<u8>,
}

impl Output {
    /// Begins the file; `input` is not overwritten.
    pub(crate) fn create(path: &Path, input: Option<&Path>) -> Result<Self, CaptureError> {
        let writer = CaptureWriter::create(path, input)?;
        Ok(Self {
            writer,
            data: Vec::new(),
        })
    }

    /// Writes a record as it came.
    pub(crate) fn pass(&mut self, record: &Record<'_>) -> Result<(), CaptureError> {
        self.writer.write_packet(&OutPacket {
            link: record.link,
            ts_ns: record.ts_ns.unwrap_or(0),
            orig_len: record.orig_len,
            data: record.data,
            comment: None,
        })
    }

    /// Writes a packet, its checksum finished if it was pending and its bytes are there.
    pub(crate) fn packet(
        &mut self,
        envelope: Envelope<'_>,
        packet: &Packet,
        payload: Pieces<'_>,
        memory: &SliceMemory<'_>,
        comment: Option<&str>,
    ) -> Result<(), CaptureError> {
        let mut result = Ok(());
        let plan = match packet.pending().csum {
            Csum::Partial { .. } => Plan::Checksum,
            _ => Plan::AsIs,
        };
        let done = complete(packet, payload, plan, memory, |packet, payload| {
            result = self.write(envelope, packet, payload, memory, comment);
        });
        if done.is_err() {
            // The payload was not captured: the sum stays as it was.
            return self.write(envelope, packet, payload, memory, comment);
        }
        result
    }

    fn write(
        &mut self,
        envelope: Envelope<'_>,
        packet: &Packet,
        payload: Pieces<'_>,
        memory: &SliceMemory<'_>,
        comment: Option<&str>,
    ) -> Result<(), CaptureError> {
        let mut header = [0; HEADERS_MAX];
        let header_len = packet.write_header(&mut header).unwrap_or(0);
        self.data.clear();
        self.data.extend_from_slice(envelope.cooked);
        self.data.extend_from_slice(&header[..header_len]);
        for bytes in payload.map_while(|piece| memory.bytes(piece)) {
            self.data.extend_from_slice(bytes);
        }
        let orig_len = envelope.cooked.len() + packet.wire_len();
        self.writer.write_packet(&OutPacket {
            link: envelope.link,
            ts_ns: envelope.ts_ns,
            orig_len: u32::try_from(orig_len).unwrap_or(u32::MAX),
            data: &self.data,
            comment,
        })
    }

    /// Gives the file its name.
    pub(crate) fn finish(self) -> Result<(), CaptureError> {
        self.writer.finish().map(|_| ())
    }
}
