//! One packet, field by field.

use crate::oracle::checksum;

/// What a packet begins with.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header of 14 bytes.
    Ethernet,
    /// The IP header, as on a TUN device.
    RawIp,
}

/// The TCP flags, as [`PacketBuilder::flags`] takes them (RFC 9293 section 3.1).
pub mod tcp_flags {
    pub const FIN: u16 = 0x001;
    pub const SYN: u16 = 0x002;
    pub const RST: u16 = 0x004;
    pub const PSH: u16 = 0x008;
    pub const ACK: u16 = 0x010;
    pub const URG: u16 = 0x020;
    pub const ECE: u16 = 0x040;
    pub const CWR: u16 = 0x080;
    /// Accurate ECN (RFC 9768), once NS.
    pub const AE: u16 = 0x100;
}

/// An IPv6 extension header (RFC 8200 section 4). Bodies are what follows the length byte; zeros,
/// which are Pad1 options, fill them up to a multiple of 8 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extension {
    HopByHop(Vec<u8>),
    /// The body begins with the routing type and the segments left. Keep the latter at zero: the
    /// builder takes the header's destination for the final one.
    Routing(Vec<u8>),
    Destination(Vec<u8>),
    /// The offset is in units of 8 bytes.
    Fragment {
        offset: u16,
        more: bool,
        id: u32,
    },
}

impl Extension {
    fn number(&self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Routing(_) => 43,
            Self::Fragment { .. } => 44,
            Self::Destination(_) => 60,
        }
    }

    fn to_bytes(&self, next: u8) -> Vec<u8> {
        match self {
            Self::HopByHop(body) | Self::Routing(body) | Self::Destination(body) => {
                let len = (2 + body.len()).next_multiple_of(8);
                let mut bytes = vec![next, u8::try_from(len / 8 - 1).expect("at most 2048 bytes")];
                bytes.extend(body);
                bytes.resize(len, 0);
                bytes
            }
            Self::Fragment { offset, more, id } => {
                let mut bytes = vec![next, 0];
                bytes.extend((offset << 3 | u16::from(*more)).to_be_bytes());
                bytes.extend(id.to_be_bytes());
                bytes
            }
        }
    }
}

/// What ARP says (RFC 826, for Ethernet and IPv4).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// 1 asks, 2 answers.
    pub operation: u16,
    pub sender_mac: [u8; 6],
    pub sender_ip: [u8; 4],
    pub target_mac: [u8; 6],
    pub target_ip: [u8; 4],
}

#[derive(Clone, Debug)]
enum Net {
    V4 {
        src: [u8; 4],
        dst: [u8; 4],
    },
    V6 {
        src: [u8; 16],
        dst: [u8; 16],
    },
    Arp(ArpPacket),
    /// The payload follows the Ethernet header.
    Other(u16),
}

#[derive(Clone, Debug)]
enum Transport {
    Tcp,
    Udp,
    /// The payload follows the IP header.
    Other(u8),
}

#[derive(Copy, Clone, Debug, PartialEq)]
enum Check {
    Right,
    Partial,
    Wrong,
    None,
}

/// Builds one packet. Without further ado it is a TCP segment without payload, over IPv4 and
/// Ethernet, whose checksums are right.
///
/// ```
/// use jumbo_testkit::PacketBuilder;
///
/// let packet = PacketBuilder::ethernet()
///     .vlan(0x8100, 7)
///     .ipv4([192, 0, 2, 1], [192, 0, 2, 2])
///     .tcp(40000, 80)
///     .seq(1000)
///     .timestamps(1, 2)
///     .payload_len(1000)
///     .build();
/// assert_eq!(packet.len(), 14 + 4 + 20 + 32 + 1000);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder is not a packet"]
pub struct PacketBuilder {
    link: Link,
    dst_mac: [u8; 6],
    src_mac: [u8; 6],
    tags: Vec<(u16, u16)>,
    net: Net,
    tos: u8,
    ttl: u8,
    id: u16,
    df: bool,
    mf: bool,
    fragment_offset: u16,
    ip_options: Vec<u8>,
    ip_len: Option<u16>,
    flow_label: u32,
    extensions: Vec<Extension>,
    transport: Transport,
    src_port: u16,
    dst_port: u16,
    seq: u32,
    ack: u32,
    flags: u16,
    window: u16,
    urgent: u16,
    tcp_options: Vec<u8>,
    udp_len: Option<u16>,
    payload: Vec<u8>,
    l4_check: Check,
    bad_ip_checksum: bool,
    trailing: Vec<u8>,
    min_len: usize,
}

/// The packet as a whole, and Ethernet.
impl PacketBuilder {
    /// A packet with an Ethernet header.
    pub fn ethernet() -> Self {
        Self {
            link: Link::Ethernet,
            dst_mac: [2, 0, 0, 0, 0, 2],
            src_mac: [2, 0, 0, 0, 0, 1],
            tags: Vec::new(),
            net: Net::V4 {
                src: [192, 0, 2, 1],
                dst: [192, 0, 2, 2],
            },
            tos: 0,
            ttl: 64,
            id: 0,
            df: true,
            mf: false,
            fragment_offset: 0,
            ip_options: Vec::new(),
            ip_len: None,
            flow_label: 0,
            extensions: Vec::new(),
            transport: Transport::Tcp,
            src_port: 40000,
            dst_port: 5001,
            seq: 1,
            ack: 1,
            flags: tcp_flags::ACK,
            window: 512,
            urgent: 0,
            tcp_options: Vec::new(),
            udp_len: None,
            payload: Vec::new(),
            l4_check: Check::Right,
            bad_ip_checksum: false,
            trailing: Vec::new(),
            min_len: 0,
        }
    }

    /// A packet that begins with its IP header.
    pub fn raw_ip() -> Self {
        Self {
            link: Link::RawIp,
            ..Self::ethernet()
        }
    }

    /// What the packet begins with.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    pub fn macs(self, dst: [u8; 6], src: [u8; 6]) -> Self {
        Self {
            dst_mac: dst,
            src_mac: src,
            ..self
        }
    }

    /// Adds a tag behind the ones there are: the outermost comes first. `tpid` is 0x8100 (802.1Q)
    /// or 0x88A8 (802.1ad); `tci` is priority, drop flag and VLAN.
    pub fn vlan(mut self, tpid: u16, tci: u16) -> Self {
        self.tags.push((tpid, tci));
        self
    }

    /// Another EtherType, followed by the payload.
    pub fn ethertype(self, ethertype: u16) -> Self {
        Self {
            net: Net::Other(ethertype),
            ..self
        }
    }

    pub fn arp(self, arp: ArpPacket) -> Self {
        Self {
            net: Net::Arp(arp),
            ..self
        }
    }

    /// Bytes behind the end that IP knows of, such as Ethernet padding.
    pub fn trailing(self, bytes: &[u8]) -> Self {
        Self {
            trailing: bytes.to_vec(),
            ..self
        }
    }

    /// Pads with zeros to Ethernet's minimum of 60 bytes (without the FCS).
    pub fn pad_to_minimum(self) -> Self {
        Self {
            min_len: 60,
            ..self
        }
    }
}

/// IP.
impl PacketBuilder {
    pub fn ipv4(self, src: [u8; 4], dst: [u8; 4]) -> Self {
        Self {
            net: Net::V4 { src, dst },
            ..self
        }
    }

    pub fn ipv6(self, src: [u8; 16], dst: [u8; 16]) -> Self {
        Self {
            net: Net::V6 { src, dst },
            ..self
        }
    }

    /// IPv4's type of service, IPv6's traffic class: DSCP and ECN.
    pub fn tos(self, tos: u8) -> Self {
        Self { tos, ..self }
    }

    /// IPv4's time to live, IPv6's hop limit.
    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// IPv4's identification.
    pub fn id(self, id: u16) -> Self {
        Self { id, ..self }
    }

    /// IPv4's "don't fragment", which is set unless this says otherwise.
    pub fn df(self, df: bool) -> Self {
        Self { df, ..self }
    }

    /// IPv4's "more fragments".
    pub fn mf(self, mf: bool) -> Self {
        Self { mf, ..self }
    }

    /// IPv4's fragment offset in units of 8 bytes. What follows the header stays what it was: for
    /// a later fragment say [`ip_proto`](Self::ip_proto) and give the bytes as payload.
    pub fn fragment_offset(self, fragment_offset: u16) -> Self {
        Self {
            fragment_offset,
            ..self
        }
    }

    /// IPv4's options, filled up with zeros (End of Options) to a multiple of 4 bytes.
    pub fn ip_options(self, options: &[u8]) -> Self {
        let mut ip_options = options.to_vec();
        ip_options.resize(options.len().next_multiple_of(4), 0);
        assert!(
            ip_options.len() <= 40,
            "IPv4 has room for 40 bytes of options"
        );
        Self { ip_options, ..self }
    }

    /// IPv6's flow label, 20 bits.
    pub fn flow_label(self, flow_label: u32) -> Self {
        Self { flow_label, ..self }
    }

    /// Adds an IPv6 extension header behind the ones there are.
    pub fn extension(mut self, extension: Extension) -> Self {
        self.extensions.push(extension);
        self
    }

    /// Writes this into IPv4's total length or IPv6's payload length, true or not.
    pub fn ip_len(self, len: u16) -> Self {
        Self {
            ip_len: Some(len),
            ..self
        }
    }

    /// Breaks the IPv4 header's checksum.
    pub fn bad_ip_checksum(self) -> Self {
        Self {
            bad_ip_checksum: true,
            ..self
        }
    }

    /// Another protocol, followed by the payload.
    pub fn ip_proto(self, proto: u8) -> Self {
        Self {
            transport: Transport::Other(proto),
            ..self
        }
    }
}

/// TCP, UDP and the payload.
impl PacketBuilder {
    pub fn tcp(self, src_port: u16, dst_port: u16) -> Self {
        Self {
            transport: Transport::Tcp,
            src_port,
            dst_port,
            ..self
        }
    }

    pub fn udp(self, src_port: u16, dst_port: u16) -> Self {
        Self {
            transport: Transport::Udp,
            src_port,
            dst_port,
            ..self
        }
    }

    pub fn seq(self, seq: u32) -> Self {
        Self { seq, ..self }
    }

    pub fn ack(self, ack: u32) -> Self {
        Self { ack, ..self }
    }

    /// All flags at once, from [`tcp_flags`]. The default is ACK alone.
    pub fn flags(self, flags: u16) -> Self {
        Self { flags, ..self }
    }

    pub fn window(self, window: u16) -> Self {
        Self { window, ..self }
    }

    /// The urgent pointer; the flag is [`flags`](Self::flags)' affair.
    pub fn urgent(self, urgent: u16) -> Self {
        Self { urgent, ..self }
    }

    /// TCP's options, filled up with zeros (End of Option List) to a multiple of 4 bytes.
    pub fn tcp_options(self, options: &[u8]) -> Self {
        let mut tcp_options = options.to_vec();
        tcp_options.resize(options.len().next_multiple_of(4), 0);
        assert!(
            tcp_options.len() <= 40,
            "TCP has room for 40 bytes of options"
        );
        Self {
            tcp_options,
            ..self
        }
    }

    /// The options NOP, NOP, Timestamps (RFC 7323 appendix A), and no others.
    pub fn timestamps(self, value: u32, echo: u32) -> Self {
        let mut options = vec![1, 1, 8, 10];
        options.extend(value.to_be_bytes());
        options.extend(echo.to_be_bytes());
        self.tcp_options(&options)
    }

    /// Writes this into UDP's length, true or not.
    pub fn udp_len(self, len: u16) -> Self {
        Self {
            udp_len: Some(len),
            ..self
        }
    }

    pub fn payload(self, payload: &[u8]) -> Self {
        Self {
            payload: payload.to_vec(),
            ..self
        }
    }

    /// As many bytes of [`pattern`](crate::pattern), from its beginning.
    pub fn payload_len(self, len: usize) -> Self {
        Self {
            payload: crate::pattern(0, len),
            ..self
        }
    }

    /// Leaves the folded sum of the pseudo header in the checksum field, as `NEEDS_CSUM` wants it
    /// (virtio 1.3 section 5.1.6.2).
    pub fn partial_checksum(self) -> Self {
        Self {
            l4_check: Check::Partial,
            ..self
        }
    }

    /// Breaks the checksum of TCP or UDP.
    pub fn bad_checksum(self) -> Self {
        Self {
            l4_check: Check::Wrong,
            ..self
        }
    }

    /// Leaves zero in the field, which over IPv4 is UDP's "no checksum".
    pub fn no_checksum(self) -> Self {
        Self {
            l4_check: Check::None,
            ..self
        }
    }
}

/// The bytes.
impl PacketBuilder {
    /// The packet.
    ///
    /// # Panics
    ///
    /// If a header outgrows its length field. An IP or UDP length that does not fit is written as
    /// zero, which is what Linux does with super-packets beyond 64 KB.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = match self.link {
            Link::Ethernet => self.ethernet_header(),
            Link::RawIp => Vec::new(),
        };
        bytes.extend(match &self.net {
            Net::V4 { src, dst } => self.ipv4_packet(*src, *dst),
            Net::V6 { src, dst } => self.ipv6_packet(*src, *dst),
            Net::Arp(arp) => arp_packet(arp),
            Net::Other(_) => self.payload.clone(),
        });
        bytes.extend(&self.trailing);
        bytes.resize(bytes.len().max(self.min_len), 0);
        bytes
    }

    fn ethernet_header(&self) -> Vec<u8> {
        let mut bytes = [self.dst_mac, self.src_mac].concat();
        for (tpid, tci) in &self.tags {
            bytes.extend(tpid.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        let ethertype: u16 = match self.net {
            Net::V4 { .. } => 0x0800,
            Net::V6 { .. } => 0x86DD,
            Net::Arp(_) => 0x0806,
            Net::Other(ethertype) => ethertype,
        };
        bytes.extend(ethertype.to_be_bytes());
        bytes
    }

    fn ipv4_packet(&self, src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
        let mut pseudo = [src, dst].concat();
        pseudo.extend([0, self.proto()]);
        let l4 = self.l4_packet(pseudo);

        let header_len = 20 + self.ip_options.len();
        let total_len = self.ip_len.unwrap_or(fit(header_len + l4.len()));
        let fragment =
            u16::from(self.df) << 14 | u16::from(self.mf) << 13 | self.fragment_offset & 0x1FFF;
        let mut bytes = vec![0x40 | (header_len / 4) as u8, self.tos];
        bytes.extend(total_len.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([self.ttl, self.proto(), 0, 0]);
        bytes.extend(src);
        bytes.extend(dst);
        bytes.extend(&self.ip_options);
        let check = checksum(&bytes) ^ u16::from(self.bad_ip_checksum);
        bytes[10..12].copy_from_slice(&check.to_be_bytes());
        bytes.extend(l4);
        bytes
    }

    fn ipv6_packet(&self, src: [u8; 16], dst: [u8; 16]) -> Vec<u8> {
        let mut pseudo = [src, dst].concat();
        pseudo.extend([0, self.proto()]);
        let l4 = self.l4_packet(pseudo);

        let (first, extensions) = self.extension_chain();
        let payload_len = self.ip_len.unwrap_or(fit(extensions.len() + l4.len()));
        let line = 6 << 28 | u32::from(self.tos) << 20 | self.flow_label & 0xF_FFFF;
        let mut bytes = line.to_be_bytes().to_vec();
        bytes.extend(payload_len.to_be_bytes());
        bytes.extend([first, self.ttl]);
        bytes.extend(src);
        bytes.extend(dst);
        bytes.extend(extensions);
        bytes.extend(l4);
        bytes
    }

    /// The number of the first header behind IPv6's, and all of them but the transport's.
    fn extension_chain(&self) -> (u8, Vec<u8>) {
        self.extensions
            .iter()
            .rev()
            .fold((self.proto(), Vec::new()), |(next, rest), extension| {
                (
                    extension.number(),
                    [extension.to_bytes(next), rest].concat(),
                )
            })
    }

    fn proto(&self) -> u8 {
        match self.transport {
            Transport::Tcp => 6,
            Transport::Udp => 17,
            Transport::Other(proto) => proto,
        }
    }

    /// Transport header and payload. `pseudo` is the pseudo header without its length.
    fn l4_packet(&self, mut pseudo: Vec<u8>) -> Vec<u8> {
        let (header, check_at) = match self.transport {
            Transport::Tcp => (self.tcp_header(), 16),
            Transport::Udp => (self.udp_header(), 6),
            Transport::Other(_) => return self.payload.clone(),
        };
        let mut bytes = [header, self.payload.clone()].concat();
        pseudo.extend((bytes.len() as u32).to_be_bytes());
        let mut right = checksum(&[&pseudo[..], &bytes].concat());
        if check_at == 6 && right == 0 {
            right = 0xFFFF;
        }
        let check = match self.l4_check {
            Check::Right => right,
            Check::Partial => !checksum(&pseudo),
            Check::Wrong => right ^ 0x0101,
            Check::None => 0,
        };
        bytes[check_at..check_at + 2].copy_from_slice(&check.to_be_bytes());
        bytes
    }

    fn tcp_header(&self) -> Vec<u8> {
        let words = (20 + self.tcp_options.len() as u16) / 4;
        let mut bytes = [self.src_port.to_be_bytes(), self.dst_port.to_be_bytes()].concat();
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.ack.to_be_bytes());
        bytes.extend((words << 12 | self.flags & 0xFFF).to_be_bytes());
        bytes.extend(self.window.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(self.urgent.to_be_bytes());
        bytes.extend(&self.tcp_options);
        bytes
    }

    fn udp_header(&self) -> Vec<u8> {
        let len = self.udp_len.unwrap_or(fit(8 + self.payload.len()));
        [self.src_port, self.dst_port, len, 0]
            .map(u16::to_be_bytes)
            .concat()
    }
}

fn arp_packet(arp: &ArpPacket) -> Vec<u8> {
    // Hardware 1 (Ethernet), protocol 0x0800 (IPv4), addresses of 6 and 4 bytes.
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(arp.operation.to_be_bytes());
    bytes.extend(arp.sender_mac);
    bytes.extend(arp.sender_ip);
    bytes.extend(arp.target_mac);
    bytes.extend(arp.target_ip);
    bytes
}

/// A length for a field of 16 bits: zero if it does not fit.
fn fit(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(0)
}
