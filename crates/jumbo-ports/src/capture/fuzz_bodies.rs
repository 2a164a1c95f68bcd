//! Fuzz targets as plain functions, for the tests here and for a fuzzer.

use std::io::Cursor;

use super::{CaptureReader, MAX_CAPTURED_LEN, Normalised, Record, ip_or_ethernet};

/// A gzip bomb may hold millions of empty records; that many say enough.
const RECORDS_MAX: u64 = 100_000;

/// Reads `data` as a capture to its end or first error.
///
/// # Panics
/// A promise of the reader is broken.
pub fn fuzz_capture(data: &[u8]) {
    let len = data.len() as u64;
    let input = Cursor::new(data.to_vec());
    let Ok(mut reader) = CaptureReader::from_read("fuzz", input, Some(len)) else {
        return;
    };
    let mut count = 0;
    while count < RECORDS_MAX {
        match reader.next_record() {
            Some(Ok(record)) => {
                count += 1;
                assert_eq!(record.number, count);
                check_record(&record);
            }
            Some(Err(error)) => {
                assert!(error.to_string().starts_with("fuzz"), "{error}");
                break;
            }
            None => break,
        }
        assert!(reader.bytes_read() <= len);
    }
    if count < RECORDS_MAX {
        assert!(
            reader.next_record().is_none(),
            "nothing follows the end or an error"
        );
    }
}

fn check_record(record: &Record<'_>) {
    assert!(record.data.len() <= MAX_CAPTURED_LEN as usize);
    assert!(record.orig_len as usize >= record.data.len());
    match ip_or_ethernet(record) {
        Normalised::Ethernet(bytes) | Normalised::Ip(bytes) => {
            assert!(record.data.ends_with(bytes));
        }
        Normalised::Unusable(reason) => assert!(!reason.to_string().is_empty()),
    }
}
