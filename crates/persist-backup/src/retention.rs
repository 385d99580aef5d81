use std::time::Duration;

use persist_core::Timestamp;

/// Which snapshots of a storage are kept. Without a limit all are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// At most this many, the newest.
    pub count: Option<u32>,
    /// Only those that are not older than this.
    pub age: Option<Duration>,
}

impl Retention {
    /// The newest `count`.
    pub fn count(count: u32) -> Self {
        Self { count: Some(count), age: None }
    }

    /// Those not older than `age`.
    pub fn age(age: Duration) -> Self {
        Self { count: None, age: Some(age) }
    }

    /// Which of the snapshots made at these times (in order, oldest first) are to go, as the number of the oldest. The
    /// newest always stays.
    ///
    /// # Errors
    /// Why nothing is to be removed at all: the clock cannot be right.
    pub(crate) fn surplus(&self, times: &[Timestamp], now: Timestamp) -> Result<usize, String> {
        let Some((newest, before)) = times.split_last() else { return Ok(0) };
        if *newest > now {
            return Err(format!(
                "the newest snapshot is of {newest} and it is {now} now: the clock went back, so nothing is removed"
            ));
        }
        let by_count = self.count.map_or(0, |count| times.len().saturating_sub(count.max(1) as usize));
        let by_age = match (self.age, before.last()) {
            (Some(age), Some(last)) => aged(before, *last, age, now)?,
            _ => 0,
        };
        Ok(by_count.max(by_age))
    }
}

fn aged(before: &[Timestamp], last: Timestamp, age: Duration, now: Timestamp) -> Result<usize, String> {
    let is_old = |time: &Timestamp| now.saturating_since(*time) > age;
    // A clock that jumped ahead makes everything look old at once.
    if now.saturating_since(last) > age.saturating_mul(2) {
        return Err(format!(
            "no snapshot was made for a long time before this one (since {last}), or the clock jumped ahead: \
             nothing is removed this time"
        ));
    }
    Ok(before.iter().take_while(|time| is_old(time)).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn day(n: i64) -> Timestamp {
        Timestamp::from_millis(n * 86_400_000)
    }

    fn days(range: std::ops::RangeInclusive<i64>) -> Vec<Timestamp> {
        range.map(day).collect()
    }

    #[test]
    fn the_newest_are_kept() {
        assert_eq!(Retention::count(3).surplus(&days(1..=10), day(10)), Ok(7));
        assert_eq!(Retention::count(30).surplus(&days(1..=10), day(10)), Ok(0));
        assert_eq!(Retention::count(0).surplus(&days(1..=10), day(10)), Ok(9));
        assert_eq!(Retention::default().surplus(&days(1..=10), day(1000)), Ok(0));
        assert_eq!(Retention::count(1).surplus(&[], day(1)), Ok(0));
    }

    #[test]
    fn the_old_go_and_the_newest_stays() {
        assert_eq!(Retention::age(DAY * 3).surplus(&days(1..=10), day(10)), Ok(6));
        assert_eq!(Retention::age(DAY).surplus(&days(1..=10), day(10)), Ok(8));
        assert_eq!(Retention::age(Duration::ZERO).surplus(&[day(1)], day(10)), Ok(0));
        let both = Retention { count: Some(2), age: Some(DAY * 3) };
        assert_eq!(both.surplus(&days(1..=10), day(10)), Ok(8));
    }

    #[test]
    fn a_wrong_clock_removes_nothing() {
        let keep = Retention { count: Some(1), age: Some(DAY) };
        // Back to 1970: what there is lies in the future.
        assert!(keep.surplus(&days(1..=10), day(0)).unwrap_err().contains("the clock went back"));
        // Ahead by decades: the newest was made by the same clock.
        let mut times = days(1..=10);
        times.push(day(30_000));
        assert!(keep.surplus(&times, day(30_000)).unwrap_err().contains("the clock jumped ahead"));
        // Afterwards right again: the one of the future holds everything back.
        assert!(keep.surplus(&times, day(11)).unwrap_err().contains("the clock went back"));
    }
}
