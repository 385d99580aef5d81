//! How much a run tries, as whoever starts it says.

/// How many times as many cases as in a short run: `PERSIST_CRASH_SCALE`, 1 unless set.
pub fn scale() -> usize {
    number("PERSIST_CRASH_SCALE").unwrap_or(1)
}

/// Which cases are drawn: `PERSIST_CRASH_SEED`, 1 unless set.
pub fn seed() -> u64 {
    number("PERSIST_CRASH_SEED").unwrap_or(1)
}

/// One thing in a long run, with a scale above 1, and another in a short one.
pub fn if_long<T>(long: T, short: T) -> T {
    if scale() > 1 { long } else { short }
}

fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    std::env::var(variable).ok()?.parse().ok()
}
