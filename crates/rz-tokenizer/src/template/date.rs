//! A moment for the templates that show today's date.

/// A moment as a calendar and a clock show it. Templates get it from the caller: nothing
/// here asks the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalTime {
    /// Seconds since the start of 1970 on the local clock.
    seconds: i64,
}

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
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

impl LocalTime {
    /// The moment `seconds` after the start of 1970 in UTC, where local clocks are
    /// `offset` seconds ahead of it.
    pub fn from_unix(seconds: i64, offset: i32) -> Self {
        // Years of more than four digits help nobody and are not exact in all steps.
        const LIMIT: i64 = 250_000_000_000;
        LocalTime { seconds: seconds.saturating_add(offset.into()).clamp(-50_000_000_000, LIMIT) }
    }

    /// The moment as `strftime` shows it. What is no directive stays as it is.
    pub(crate) fn format(self, format: &str) -> String {
        let day = self.seconds.div_euclid(86400);
        let (year, month, date) = civil(day);
        let second = self.seconds.rem_euclid(86400);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let weekday = DAYS[(day + 4).rem_euclid(7) as usize];
        let month_name = MONTHS[(month - 1) as usize];
        let half = (hour + 11) % 12 + 1;
        let day_of_year = day - days_before(year, 1, 1) + 1;
        let mut text = String::with_capacity(format.len() * 2);
        let mut rest = format.chars();
        while let Some(letter) = rest.next() {
            if letter != '%' {
                text.push(letter);
                continue;
            }
            let mut directive = rest.next();
            let padded = directive != Some('-');
            if !padded {
                directive = rest.next();
            }
            let number = |value: i64, width: usize| {
                if padded { format!("{value:0width$}") } else { value.to_string() }
            };
            match directive {
                Some('Y') => text.push_str(&number(year, 4)),
                Some('y') => text.push_str(&number(year.rem_euclid(100), 2)),
                Some('m') => text.push_str(&number(month, 2)),
                Some('d') => text.push_str(&number(date, 2)),
                Some('e') => text.push_str(&format!("{date:2}")),
                Some('j') => text.push_str(&number(day_of_year, 3)),
                Some('H') => text.push_str(&number(hour, 2)),
                Some('I') => text.push_str(&number(half, 2)),
                Some('M') => text.push_str(&number(minute, 2)),
                Some('S') => text.push_str(&number(second, 2)),
                Some('p') => text.push_str(if hour < 12 { "AM" } else { "PM" }),
                Some('A') => text.push_str(weekday),
                Some('a') => text.push_str(&weekday[..3]),
                Some('B') => text.push_str(month_name),
                Some('b' | 'h') => text.push_str(&month_name[..3]),
                Some('F') => text.push_str(&self.format("%Y-%m-%d")),
                Some('T') => text.push_str(&self.format("%H:%M:%S")),
                Some('R') => text.push_str(&self.format("%H:%M")),
                Some('D') => text.push_str(&self.format("%m/%d/%y")),
                Some('%') => text.push('%'),
                other => {
                    text.push_str(if padded { "%" } else { "%-" });
                    text.extend(other);
                }
            }
        }
        text
    }
}

/// Year, month and day of month of the day `day` days after the first of 1970.
fn civil(day: i64) -> (i64, i64, i64) {
    let mut year = 1970 + day.div_euclid(366);
    while days_before(year + 1, 1, 1) <= day {
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days_before(year, month + 1, 1) <= day {
        month += 1;
    }
    (year, month, day - days_before(year, month, 1) + 1)
}

/// Days from the first of 1970 to a date of the Gregorian calendar.
fn days_before(year: i64, month: i64, date: i64) -> i64 {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leaps = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let leap_day = i64::from(month > 2 && leaps(year) > leaps(year - 1));
    let days = (year - 1970) * 365 + leaps(year - 1) - leaps(1969);
    days + BEFORE[(month - 1) as usize] + leap_day + date - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected texts come from Python's `datetime.strftime`.
    #[test]
    fn dates_are_those_of_strftime() {
        let shown = |seconds, offset, format| LocalTime::from_unix(seconds, offset).format(format);
        let all = "%Y-%m-%d %H:%M:%S|%d %b %Y|%A %a %B|%j|%I %p|%y|%-d %-m %-H|%e|%%";
        assert_eq!(
            shown(1767323045, 0, all),
            "2026-01-02 03:04:05|02 Jan 2026|Friday Fri January|002|03 AM|26|2 1 3| 2|%"
        );
        assert_eq!(
            shown(1709251199, 3600, all),
            "2024-03-01 00:59:59|01 Mar 2024|Friday Fri March|061|12 AM|24|1 3 0| 1|%"
        );
        assert_eq!(shown(951782400, 0, "%F %T"), "2000-02-29 00:00:00");
        assert_eq!(shown(-1, 0, "%F %T"), "1969-12-31 23:59:59");
        assert_eq!(shown(4102444800, -1, "%F %R %D"), "2099-12-31 23:59 12/31/99");
        assert_eq!(shown(0, 0, "%Q %-Q %"), "%Q %-Q %");
        assert_eq!(shown(i64::MAX, i32::MAX, "%Y").len(), 4);
        assert_eq!(shown(i64::MIN, i32::MIN, "%Y").len(), 4);
    }
}
