//! Findings an operator has decided to live with: by rule and device, with a reason and an end.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// One `[[waive]]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiver {
    /// Rule.
    pub id: String,
    /// Device; all when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Why.
    pub reason: String,
    /// Last day it holds, `2027-01-31`; for ever when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Date>,
}

impl Waiver {
    /// Whether it is about this finding, expired or not.
    pub fn covers(&self, id: &str, device: Option<&str>) -> bool {
        self.id.eq_ignore_ascii_case(id)
            && (self.device.is_none() || self.device.as_deref() == device)
    }

    /// Whether it holds no more.
    pub fn expired(&self, today: Date) -> bool {
        self.until.is_some_and(|until| until < today)
    }
}

/// A day of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

/// Not a day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no date: write it like 2027-01-31")]
pub struct NotADate(String);

impl Date {
    /// The day of a moment.
    pub fn of(time: SystemTime) -> Self {
        let seconds = time
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        // Days to civil date, era by era of 400 years (Howard Hinnant, chrono-Compatible Low-Level Date Algorithms).
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        Self {
            year: u16::try_from(year).unwrap_or(u16::MAX),
            month: u8::try_from(month).unwrap_or(12),
            day: u8::try_from(day).unwrap_or(31),
        }
    }
}

impl TryFrom<String> for Date {
    type Error = NotADate;

    fn try_from(text: String) -> Result<Self, NotADate> {
        let mut parts = text
            .splitn(3, '-')
            .map(|part| (part.len(), part.parse::<u16>()));
        let mut number = |len| match parts.next() {
            Some((is, Ok(number))) if is == len => Some(number),
            _ => None,
        };
        let date = || {
            let (year, month, day) = (number(4)?, number(2)?, number(2)?);
            let fits = (1..=12).contains(&month) && (1..=31).contains(&day);
            fits.then_some(Self {
                year,
                month: month.try_into().ok()?,
                day: day.try_into().ok()?,
            })
        };
        let mut date = date;
        date().ok_or(NotADate(text))
    }
}

impl From<Date> for String {
    fn from(date: Date) -> Self {
        date.to_string()
    }
}

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn date(text: &str) -> Date {
        Date::try_from(text.to_owned()).expect("a date")
    }

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        for (seconds, text) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_794_268_799, "2026-11-09"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(
                Date::of(UNIX_EPOCH + Duration::from_secs(seconds)),
                date(text)
            );
        }
    }

    #[test]
    fn only_dates_are_dates() {
        for bad in [
            "2027-1-31",
            "2027-13-01",
            "tomorrow",
            "2027-01-32",
            "2027-01",
            "2027-01-01x",
        ] {
            assert!(Date::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_waiver_holds_to_the_end_of_its_last_day() {
        let waiver = Waiver {
            id: "TAP001".into(),
            device: Some("vnet0".into()),
            reason: "old".into(),
            until: Some(date("2027-01-31")),
        };
        assert!(waiver.covers("tap001", Some("vnet0")));
        assert!(!waiver.covers("TAP001", Some("vnet1")) && !waiver.covers("TAP001", None));
        assert!(!waiver.expired(date("2027-01-31")));
        assert!(waiver.expired(date("2027-02-01")));
    }
}
