use persist_core::{BaseStorage, Key, ListOptions, Page, Result};

use super::{BrokenStorage, Bug};

impl BrokenStorage {
    pub(super) async fn list_mangled(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        if self.place.is_down() && self.is(Bug::UnavailableAsAbsent) {
            return Ok(Page::default());
        }
        let limit = match self.admit(prefix, &options) {
            Err(_) if self.is(Bug::WorksAfterClose) => options.limit,
            result => result?,
        };
        // Whatever cannot be reached says so before anything else does.
        self.inner
            .flush()
            .await
            .or_else(|error| if self.is(Bug::WorksAfterClose) { Ok(()) } else { Err(error) })?;
        let keys: Vec<Key> = self.candidates().into_iter().filter(|key| self.matches(key, prefix)).collect();
        let keys = self.after(keys, prefix, options.after.as_ref());
        Ok(self.page(Page::collect(keys, limit), options.after.as_ref()))
    }

    fn admit(&self, prefix: &str, options: &ListOptions) -> Result<usize> {
        let about = self.inner.describe();
        let lax = match self.bug {
            Some(Bug::AcceptsLimitZero) if options.limit == 0 => Some(usize::MAX),
            Some(Bug::AcceptsAnyPrefix) => Some(options.limit),
            Some(Bug::UnboundedPages) if options.limit > 0 => Some(options.limit),
            _ => None,
        };
        match lax {
            Some(limit) => about.admit("list_keys").map(|()| limit),
            None => about.admit_list(prefix, options),
        }
    }

    /// All keys in the order of the listing.
    fn candidates(&self) -> Vec<Key> {
        let mut keys = self.place.keys();
        if !self.is(Bug::ListsExpired) {
            keys.retain(|key| self.live(key).is_some());
        }
        match self.bug {
            Some(Bug::ListsDeleted) => {
                keys.extend(self.past.deleted.lock().iter().map(|(key, _)| key.clone()));
            }
            Some(Bug::ListsTempFiles) => keys.extend(self.leftovers.lock().iter().cloned()),
            Some(Bug::HidesOwnNames) => keys.retain(|key| !key.ends_with(".json") && !key.ends_with(".tmp")),
            _ => {}
        }
        keys.sort_unstable();
        keys.dedup();
        match self.bug {
            Some(Bug::Unordered) => keys.sort_unstable_by_key(|key| (key.len(), key.clone())),
            Some(Bug::OrderedByUtf16) => {
                keys.sort_by_cached_key(|key| key.encode_utf16().collect::<Vec<_>>());
            }
            _ => {}
        }
        keys
    }

    fn matches(&self, key: &str, prefix: &str) -> bool {
        match self.bug {
            Some(Bug::PrefixByLike) => like(&format!("{prefix}%").to_lowercase(), &key.to_lowercase()),
            Some(Bug::PrefixIgnoresCase) => key.to_lowercase().starts_with(&prefix.to_lowercase()),
            Some(Bug::PrefixByLevel) => {
                let rest = key.strip_prefix(prefix);
                rest.is_some_and(|rest| {
                    prefix.is_empty() || prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/')
                })
            }
            _ => key.starts_with(prefix),
        }
    }

    fn after(&self, keys: Vec<Key>, prefix: &str, after: Option<&Key>) -> Vec<Key> {
        let Some(after) = after else { return keys };
        let position = keys.iter().position(|key| key == after);
        match self.bug {
            Some(Bug::PageIncludesAfter) => keys.into_iter().filter(|key| key >= after).collect(),
            Some(Bug::PageDropsBorder) => keys.into_iter().filter(|key| key > after).skip(1).collect(),
            Some(Bug::AfterMustExist) => keys[position.map_or(0, |at| at + 1)..].to_vec(),
            Some(Bug::AfterLeavesPrefix) if !prefix.is_empty() => {
                self.candidates().into_iter().filter(|key| key > after).collect()
            }
            Some(Bug::CursorByOffset) => {
                let offset = self.offsets.lock().get(after).copied();
                keys[offset.unwrap_or_else(|| position.map_or(0, |at| at + 1)).min(keys.len())..].to_vec()
            }
            Some(Bug::Unordered | Bug::OrderedByUtf16) => keys[position.map_or(0, |at| at + 1)..].to_vec(),
            _ => keys.into_iter().filter(|key| key > after).collect(),
        }
    }

    fn page(&self, mut page: Page, after: Option<&Key>) -> Page {
        match self.bug {
            Some(Bug::NextAlwaysNone) => page.next = None,
            Some(Bug::NextUntilEmpty) => page.next = page.keys.last().cloned(),
            Some(Bug::CursorByOffset) => {
                let mut offsets = self.offsets.lock();
                let before = after.and_then(|key| offsets.get(key).copied()).unwrap_or(0);
                offsets.extend(page.next.clone().map(|key| (key, before + page.keys.len())));
            }
            _ => {}
        }
        page
    }
}

/// SQL's LIKE without an escape character.
fn like(pattern: &str, text: &str) -> bool {
    let mut pattern_chars = pattern.chars();
    match pattern_chars.next() {
        None => text.is_empty(),
        Some('%') => {
            let rest = pattern_chars.as_str();
            text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| like(rest, &text[at..]))
        }
        Some(wanted) => {
            let mut chars = text.chars();
            chars.next().is_some_and(|c| {
                (wanted == '_' || c == wanted) && like(pattern_chars.as_str(), chars.as_str())
            })
        }
    }
}
