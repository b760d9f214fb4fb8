//! Dates for templates that tell the model what day it is.

use minijinja::{Error, ErrorKind};

const SECONDS_PER_DAY: u64 = 86_400;
/// The longest format, in bytes.
const FORMAT_BYTES_MAX: usize = 256;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];

/// A moment in the form that `strftime` of C gives it, UTC.
pub(super) fn format(now_s: u64, format: &str) -> Result<String, Error> {
    if format.len() > FORMAT_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "the date's format is too long",
        ));
    }
    let (year, month, day) = date(now_s / SECONDS_PER_DAY);
    let seconds = now_s % SECONDS_PER_DAY;
    let weekday = DAYS[(now_s / SECONDS_PER_DAY % 7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        text += &match characters.next() {
            Some('Y') => format!("{year}"),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('-') => match characters.next() {
                Some('d') => format!("{day}"),
                Some('m') => format!("{month}"),
                other => format!("%-{}", other.map_or(String::new(), String::from)),
            },
            Some('B') => month_name.to_owned(),
            Some('b' | 'h') => month_name[..3].to_owned(),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('H') => format!("{:02}", seconds / 3_600),
            Some('M') => format!("{:02}", seconds / 60 % 60),
            Some('S') => format!("{:02}", seconds % 60),
            Some('T') => format!(
                "{:02}:{:02}:{:02}",
                seconds / 3_600,
                seconds / 60 % 60,
                seconds % 60
            ),
            Some('Z') => "UTC".to_owned(),
            Some('%') => "%".to_owned(),
            Some(other) => format!("%{other}"),
            None => "%".to_owned(),
        };
    }
    Ok(text)
}

/// Year, month and day of a day since 1970-01-01 (Gregorian; the algorithm of Howard Hinnant's
/// `civil_from_days`).
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
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
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let shown = |now_s| format(now_s, "%A %d %B %Y %H:%M:%S").unwrap();
        assert_eq!(shown(0), "Thursday 01 January 1970 00:00:00");
        assert_eq!(shown(951_782_399), "Monday 28 February 2000 23:59:59");
        assert_eq!(shown(951_782_400), "Tuesday 29 February 2000 00:00:00");
        assert_eq!(shown(1_790_000_000), "Monday 21 September 2026 14:13:20");
        assert_eq!(format(0, "%d %b %y %% %q %").unwrap(), "01 Jan 70 % %q %");
        assert_eq!(format(u64::MAX / 2, "%S").unwrap(), "07");
        assert!(format(0, &"%Y".repeat(200)).is_err());
    }
}
