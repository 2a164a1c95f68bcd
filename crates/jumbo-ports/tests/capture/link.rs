//! Link headers come off, or there is a reason.

use jumbo_ports::capture::{LinkReason, LinkType, Normalised, Record, ip_or_ethernet};

fn normalise(link: u32, data: &[u8]) -> Normalised<'_> {
    let (link, orig_len) = (LinkType::from(link), data.len() as u32);
    ip_or_ethernet(&Record {
        number: 1,
        ts_ns: None,
        link,
        orig_len,
        data,
    })
}

fn sll(protocol: u16) -> Vec<u8> {
    [&[0; 14][..], &protocol.to_be_bytes(), b"ip"].concat()
}

fn sll2(protocol: u16) -> Vec<u8> {
    [&protocol.to_be_bytes()[..], &[0; 18], b"ip"].concat()
}

#[test]
fn ethernet_and_raw_pass() {
    assert_eq!(normalise(1, b"x"), Normalised::Ethernet(b"x"));
    for link in [12, 14, 101, 228, 229] {
        assert_eq!(normalise(link, b"x"), Normalised::Ip(b"x"));
    }
}

#[test]
fn cooked() {
    for (link, cooked) in [(113, sll as fn(u16) -> Vec<u8>), (276, sll2)] {
        for protocol in [0x0800, 0x86dd] {
            assert_eq!(normalise(link, &cooked(protocol)), Normalised::Ip(b"ip"));
        }
        for protocol in [0x8100, 0x88a8] {
            let unusable = Normalised::Unusable(LinkReason::CookedVlan);
            assert_eq!(normalise(link, &cooked(protocol)), unusable);
        }
        let arp = Normalised::Unusable(LinkReason::NotIp(0x0806));
        assert_eq!(normalise(link, &cooked(0x0806)), arp);
    }
}

#[test]
fn cut_headers() {
    for (link, need) in [(113, 16), (276, 20), (0, 4), (108, 4)] {
        for have in 0..need {
            let reason = LinkReason::TruncatedLinkHeader { need, have };
            let data = vec![0; have as usize];
            assert_eq!(normalise(link, &data), Normalised::Unusable(reason));
        }
    }
}

#[test]
fn families() {
    for family in [2_u32, 24, 28, 30] {
        let little = [&family.to_le_bytes()[..], b"ip"].concat();
        let big = [&family.to_be_bytes()[..], b"ip"].concat();
        assert_eq!(normalise(0, &little), Normalised::Ip(b"ip"));
        assert_eq!(normalise(0, &big), Normalised::Ip(b"ip"));
        assert_eq!(normalise(108, &big), Normalised::Ip(b"ip"));
        assert!(matches!(
            normalise(108, &little),
            Normalised::Unusable(LinkReason::NotIp(_))
        ));
    }
    let appletalk = Normalised::Unusable(LinkReason::NotIp(16));
    assert_eq!(normalise(0, &[16, 0, 0, 0, 1]), appletalk);
    assert_eq!(normalise(0, &[0, 0, 0, 16, 1]), appletalk);
}

#[test]
fn others_are_named() {
    let reason = LinkReason::UnsupportedLink(LinkType::Other(127));
    assert_eq!(normalise(127, b"radiotap"), Normalised::Unusable(reason));
    assert!(reason.to_string().contains("127"));
}

#[test]
fn numbers_survive() {
    for number in [0, 1, 101, 108, 113, 127, 228, 229, 276, 65_535] {
        assert_eq!(LinkType::from(number).number(), number);
    }
}
