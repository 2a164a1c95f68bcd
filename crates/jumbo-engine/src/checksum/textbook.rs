//! The checksum as RFC 1071 section 4.1 writes it: slow, obvious, and the oracle of all the others.

/// The field for a header that covers `bytes`, as the number to write in network order.
///
/// ```c
/// while( count > 1 )  {
///    /*  This is the inner loop */
///        sum += * (unsigned short) addr++;
///        count -= 2;
/// }
///        /*  Add left-over byte, if any */
/// if( count > 0 )
///        sum += * (unsigned char *) addr;
///
///        /*  Fold 32-bit sum to 16 bits */
/// while (sum>>16)
///    sum = (sum & 0xffff) + (sum >> 16);
///
/// checksum = ~sum;
/// ```
///
/// Two differences: the words are read in network order, and the sum has 64 bits, since in 32 it
/// would overflow beyond 128 KB.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(bytes)
}

/// The same without the complement: what [`Sum::fold`](super::Sum::fold) returns.
#[must_use]
pub fn fold(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        sum += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        sum += u64::from(u16::from_be_bytes([*last, 0]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}
