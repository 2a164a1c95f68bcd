//! Netlink attributes: length, kind, bytes.

use netlink_packet_core::{NLA_F_NESTED, NlasIterator};

/// One attribute of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute<'a> {
    /// Its number within its message.
    pub(crate) kind: u16,
    /// Its value.
    pub(crate) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub(crate) fn u8(&self) -> Option<u8> {
        self.value.first().copied()
    }

    pub(crate) fn u32(&self) -> Option<u32> {
        self.value
            .first_chunk()
            .map(|bytes| u32::from_ne_bytes(*bytes))
    }

    /// Also of an attribute with variable width (NLA_UINT), which has 4 bytes when the number fits.
    pub(crate) fn u64(&self) -> Option<u64> {
        match self.value.first_chunk() {
            Some(bytes) => Some(u64::from_ne_bytes(*bytes)),
            None => self.u32().map(u64::from),
        }
    }

    pub(crate) fn text(&self) -> String {
        let end = self.value.iter().position(|byte| *byte == 0);
        let bytes = self.value.get(..end.unwrap_or(self.value.len()));
        String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
    }

    pub(crate) fn nested(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes(self.value)
    }
}

/// The attributes in a payload, up to the first that is damaged.
pub(crate) fn attributes(payload: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    NlasIterator::new(payload)
        .map_while(Result::ok)
        .map(|attribute| {
            // The iterator's own value() borrows from the item.
            let len = usize::from(attribute.length());
            let bytes = attribute.into_inner();
            Attribute {
                kind: kind_of(bytes),
                value: bytes.get(4..len).unwrap_or_default(),
            }
        })
}

/// The kind without the flags for nesting and byte order.
fn kind_of(attribute: &[u8]) -> u16 {
    let kind = attribute.get(2..4).and_then(<[u8]>::first_chunk);
    kind.map_or(0, |bytes| u16::from_ne_bytes(*bytes) & 0x3fff)
}

/// Builds the attributes of a question.
#[derive(Debug, Default)]
pub(crate) struct Builder(pub(crate) Vec<u8>);

impl Builder {
    /// After a fixed header.
    pub(crate) fn after(header: &[u8]) -> Self {
        Self(header.to_vec())
    }

    /// Questions are a few dozen bytes; a value that does not fit in an attribute cannot occur and is left out.
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        if let Ok(len) = u16::try_from(4 + value.len()) {
            self.0.extend(len.to_ne_bytes());
            self.0.extend(kind.to_ne_bytes());
            self.0.extend(value);
            self.0.resize(self.0.len().next_multiple_of(4), 0);
        }
        self
    }

    pub(crate) fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(crate) fn nest(self, kind: u16, inside: Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inside.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read() {
        let inside = Builder::default().u32(1, 7).text(2, "eth0");
        let built = Builder::default().nest(3, inside).bytes(4, &[9]);
        let read: Vec<_> = attributes(&built.0).collect();
        assert_eq!(read.iter().map(|one| one.kind).collect::<Vec<_>>(), [3, 4]);
        let nested: Vec<_> = read[0].nested().collect();
        assert_eq!(
            (nested[0].u32(), nested[1].text().as_str()),
            (Some(7), "eth0")
        );
        assert_eq!(read[1].u8(), Some(9));
    }

    #[test]
    fn damage_ends_the_list() {
        assert_eq!(attributes(&[200, 0, 1, 0, 1, 2]).count(), 0);
        assert_eq!(attributes(&[2, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[5]).count(), 0);
    }
}
