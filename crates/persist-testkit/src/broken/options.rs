use std::time::Duration;

use persist_core::{
    Checksum, Clock, Condition, Descriptor, Entry, Expiry, Metadata, StoreOptions, SystemClock, Tags,
    Timestamp, Version,
};

use super::Bug;

/// A lifetime beyond what a careless program counts with.
const LONG: Duration = Duration::from_secs(86_400 * 365 * 100);

/// What a bug makes of an expiry.
pub(super) fn expiry(bug: Option<Bug>, expiry: Expiry, now: Timestamp) -> Expiry {
    match (bug, expiry) {
        (Some(Bug::NeverExpires), _) => Expiry::Never,
        (Some(Bug::ZeroIsForever), Expiry::After(Duration::ZERO)) => Expiry::Never,
        (Some(Bug::PastIsForever), Expiry::At(moment)) if moment <= now => Expiry::Never,
        (Some(Bug::WholeSeconds), Expiry::At(moment)) => Expiry::At(whole_seconds(moment)),
        (Some(Bug::WholeSeconds), Expiry::After(lifetime)) => {
            Expiry::At(whole_seconds(now.saturating_add(lifetime)))
        }
        (Some(Bug::EndsLate), Expiry::After(lifetime)) => {
            Expiry::After(lifetime.saturating_add(Duration::from_millis(1)))
        }
        (Some(Bug::LongLifeOverflows), Expiry::After(lifetime)) if lifetime > LONG => {
            Expiry::At(Timestamp::from_millis(i64::MIN))
        }
        (Some(Bug::NeverTakesDefault), Expiry::Never) => Expiry::Default,
        _ => expiry,
    }
}

fn whole_seconds(moment: Timestamp) -> Timestamp {
    Timestamp::from_millis(moment.as_millis() / 1000 * 1000)
}

/// What a bug makes of the options of a store over an entry (which may have expired).
pub(super) fn mangled(
    bug: Option<Bug>,
    mut options: StoreOptions,
    old: Option<&Entry>,
    descriptor: &Descriptor,
) -> StoreOptions {
    options.expiry = expiry(bug, options.expiry, descriptor.now());
    let live = descriptor.live(old.map(|entry| &entry.metadata));
    let kept = live.and_then(|metadata| metadata.expires_at).map(Expiry::At);
    match (bug, options.condition) {
        (Some(Bug::RewriteKeepsTtl), _) if options.expiry == Expiry::Default => {
            options.expiry = kept.unwrap_or_default();
        }
        (Some(Bug::FirstTtlStays), _) if options.expiry != Expiry::Default => {
            options.expiry = kept.unwrap_or(options.expiry);
        }
        (Some(Bug::LosesTags), _) => options.tags = Tags::new(),
        (Some(Bug::TagsByLine), _) => options.tags = by_line(&options.tags),
        (Some(Bug::TagsMerged), _) => options.tags = merged(live, &options.tags),
        (Some(Bug::LosesEncodings), _) => options.encodings.clear(),
        (Some(Bug::IgnoresIfAbsent), Condition::IfAbsent) => options.condition = Condition::None,
        (Some(Bug::IgnoresIfVersion), Condition::IfVersion(_)) => options.condition = Condition::None,
        (Some(Bug::VersionCreates), Condition::IfVersion(_)) if live.is_none() => {
            options.condition = Condition::None;
        }
        _ => {}
    }
    options
}

fn by_line(tags: &Tags) -> Tags {
    tags.iter().map(|(name, text)| (name, text.lines().next().unwrap_or_default())).collect()
}

fn merged(live: Option<&Metadata>, new: &Tags) -> Tags {
    let old = live.map(|metadata| metadata.tags.clone()).unwrap_or_default();
    old.iter().chain(new.iter()).collect()
}

/// What a bug makes of the metadata of a value that was just stored over an entry (which may have expired).
pub(super) fn metadata(bug: Bug, metadata: &mut Metadata, old: Option<&Entry>, descriptor: &Descriptor) {
    let old = old.map(|entry| &entry.metadata);
    match (bug, old) {
        (Bug::KeepsTheOldKind, Some(old)) => metadata.kind = old.kind,
        (Bug::WrongSize, _) => metadata.size += 1,
        (Bug::WrongChecksum, _) => metadata.checksum = Checksum::from_bytes([7; 32]),
        (Bug::CreatedReset, _) => metadata.created_at = metadata.modified_at,
        (Bug::ExpiredLends, Some(old)) => metadata.created_at = old.created_at,
        (Bug::SystemTime, _) => {
            let now = SystemClock.now();
            (metadata.created_at, metadata.modified_at) = (now, now);
        }
        (Bug::VersionStandsStill, Some(old)) => metadata.version = old.version,
        (Bug::VersionRestarts, old) => {
            metadata.version = Version::from_u64(old.map_or(1, |old| old.version.as_u64() + 1));
        }
        (Bug::VersionByClock, _) => {
            let micros = u64::try_from(descriptor.now().as_millis()).unwrap_or(0) * 1000;
            metadata.version = Version::from_u64(micros);
        }
        _ => {}
    }
}
