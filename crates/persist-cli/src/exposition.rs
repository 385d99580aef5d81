use std::collections::BTreeMap;
use std::fmt::Write;

use persist_core::Stats;

/// The figures of some storages as Prometheus reads them: the text format 0.0.4, each metric once with all its samples.
///
/// `persist_up` is 1 for a storage that answered. Whether a storage's own number only ever grows is its own affair, so these
/// have the type `untyped`.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    /// Name, type and what it is, and the value for each storage.
    metrics: BTreeMap<String, Metric>,
}

#[derive(Debug)]
struct Metric {
    kind: &'static str,
    help: String,
    samples: Vec<(String, u64)>,
}

impl Exposition {
    /// A storage that answered.
    pub(crate) fn add(&mut self, storage: &str, stats: &Stats) {
        self.up(storage, true);
        let mut gauge = |name: &str, help: &str, value: Option<u64>| {
            if let Some(value) = value {
                self.sample(name, "gauge", help, storage, value);
            }
        };
        gauge("persist_keys", "How many keys are stored.", stats.keys);
        gauge("persist_value_bytes", "How many bytes of plain values are stored.", stats.bytes);
        for (name, value) in &stats.counters {
            let help = format!("The figure {name} of the storage.");
            self.sample(&format!("persist_storage_{name}"), "untyped", &help, storage, *value);
        }
    }

    /// A storage that did not.
    pub(crate) fn down(&mut self, storage: &str) {
        self.up(storage, false);
    }

    fn up(&mut self, storage: &str, is_up: bool) {
        self.sample("persist_up", "gauge", "1 if the storage told its figures.", storage, u64::from(is_up));
    }

    fn sample(&mut self, name: &str, kind: &'static str, help: &str, storage: &str, value: u64) {
        let metric = self.metrics.entry(name.to_owned());
        let metric = metric.or_insert_with(|| Metric { kind, help: help.to_owned(), samples: Vec::new() });
        metric.samples.push((storage.to_owned(), value));
    }

    /// The text, without a line break at its end.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, Metric { kind, help, samples }) in &self.metrics {
            // Writing into a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (storage, value) in samples {
                let _ = writeln!(text, "{name}{{storage=\"{}\"}} {value}", escaped(storage));
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// The text of a label, as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_stands_once_with_all_its_samples() {
        let mut exposition = Exposition::default();
        let stats = |keys, hits| Stats { keys, bytes: None, counters: [("hits", hits)].into() };
        exposition.add("a", &stats(Some(3), 7));
        exposition.add("b\"\\\n", &stats(None, 9));
        exposition.down("c");
        let expected = "# HELP persist_keys How many keys are stored.\n# TYPE persist_keys gauge\npersist_keys{storage=\"a\"} 3\n\
                        # HELP persist_storage_hits The figure hits of the storage.\n# TYPE persist_storage_hits untyped\n\
                        persist_storage_hits{storage=\"a\"} 7\npersist_storage_hits{storage=\"b\\\"\\\\\\n\"} 9\n\
                        # HELP persist_up 1 if the storage told its figures.\n# TYPE persist_up gauge\n\
                        persist_up{storage=\"a\"} 1\npersist_up{storage=\"b\\\"\\\\\\n\"} 1\npersist_up{storage=\"c\"} 0";
        assert_eq!(exposition.text(), expected);
    }
}
