use serde::Serialize;

/// What a storage promises beyond the contract. Each fact is either tested by the conformance suite or not claimed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// An acknowledged change survives the death of the process (and, where the storage says `strict`, power loss).
    pub durable: bool,
    /// Several processes may have it open at once, and conditions hold across them.
    pub shared: bool,
    /// `transact` is all or nothing, also when the process dies in the middle.
    pub atomic_transact: bool,
    /// Expired values leave by themselves, without a call to `maintain`.
    pub native_expiry: bool,
    /// `retrieve_range` of a large value reads the range alone.
    pub native_ranges: bool,
    /// Arrays lie in a form that other tools open as arrays.
    pub native_arrays: bool,
    /// `watch` is told of every change as it takes place, whoever makes it, and does not look again and again.
    pub native_watch: bool,
    /// Values may vanish before they expire, to make room.
    pub evicts: bool,
    /// It refuses every change.
    pub read_only: bool,
}

impl Capabilities {
    /// Nothing beyond the contract.
    pub const NONE: Self = Self {
        durable: false,
        shared: false,
        atomic_transact: false,
        native_expiry: false,
        native_ranges: false,
        native_arrays: false,
        native_watch: false,
        evicts: false,
        read_only: false,
    };

    /// The facts by name, for reports.
    pub fn facts(&self) -> [(&'static str, bool); 9] {
        [
            ("durable", self.durable),
            ("shared", self.shared),
            ("atomic_transact", self.atomic_transact),
            ("native_expiry", self.native_expiry),
            ("native_ranges", self.native_ranges),
            ("native_arrays", self.native_arrays),
            ("native_watch", self.native_watch),
            ("evicts", self.evicts),
            ("read_only", self.read_only),
        ]
    }
}
