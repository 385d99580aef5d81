/// Writes methods of [`BaseStorage`](persist_core::BaseStorage) that hand every call to another storage as it is:
/// `forward!(inner: store, retrieve);` inside an `impl` whose `self.inner` holds that storage.
///
/// The signatures are those that `#[async_trait]` makes, so that the future of the other storage is given back itself and a
/// forwarded call allocates nothing. `clippy::missing_trait_methods` finds a method that is neither listed nor written.
macro_rules! forward {
    ($to:tt: $($method:ident),+ $(,)?) => { $(forward!(@ $method $to);)+ };
    (@ describe $to:tt) => {
        fn describe(&self) -> &persist_core::Descriptor {
            self.$to.describe()
        }
    };
    (@ store $to:tt) => {
        forward!(@keyed $to store(value: persist_core::Value, options: persist_core::StoreOptions)
            -> persist_core::Result<persist_core::Metadata>);
    };
    (@ retrieve $to:tt) => {
        forward!(@keyed $to retrieve() -> persist_core::Result<Option<persist_core::Entry>>);
    };
    (@ delete $to:tt) => {
        forward!(@keyed $to delete(options: persist_core::DeleteOptions) -> persist_core::Result<bool>);
    };
    (@ metadata $to:tt) => {
        forward!(@keyed $to metadata() -> persist_core::Result<Option<persist_core::Metadata>>);
    };
    (@ contains $to:tt) => { forward!(@keyed $to contains() -> persist_core::Result<bool>); };
    (@ touch $to:tt) => {
        forward!(@keyed $to touch(expiry: persist_core::Expiry)
            -> persist_core::Result<Option<persist_core::Metadata>>);
    };
    (@ retrieve_range $to:tt) => {
        forward!(@keyed $to retrieve_range(range: std::ops::Range<u64>)
            -> persist_core::Result<Option<bytes::Bytes>>);
    };
    (@ list_keys $to:tt) => {
        fn list_keys<'s, 'p, 'f>(
            &'s self,
            prefix: &'p str,
            options: persist_core::ListOptions,
        ) -> $crate::forward::Answer<'f, persist_core::Result<persist_core::Page>>
        where
            's: 'f,
            'p: 'f,
            Self: 'f,
        {
            self.$to.list_keys(prefix, options)
        }
    };
    (@ retrieve_many $to:tt) => {
        forward!(@keys $to retrieve_many -> Vec<persist_core::Result<Option<persist_core::Entry>>>);
    };
    (@ delete_many $to:tt) => { forward!(@keys $to delete_many -> Vec<persist_core::Result<bool>>); };
    (@ store_many $to:tt) => {
        forward!(@plain $to store_many(items: Vec<persist_core::StoreItem>)
            -> Vec<persist_core::Result<persist_core::Metadata>>);
    };
    (@ transact $to:tt) => {
        forward!(@plain $to transact(operations: Vec<persist_core::Operation>)
            -> persist_core::Result<Vec<persist_core::Outcome>>);
    };
    (@ flush $to:tt) => { forward!(@plain $to flush() -> persist_core::Result<()>); };
    (@ health $to:tt) => { forward!(@plain $to health() -> persist_core::Health); };
    (@ stats $to:tt) => { forward!(@plain $to stats() -> persist_core::Result<persist_core::Stats>); };
    (@ maintain $to:tt) => {
        forward!(@plain $to maintain() -> persist_core::Result<persist_core::Maintenance>);
    };
    (@ verify $to:tt) => {
        forward!(@plain $to verify() -> persist_core::Result<persist_core::Verification>);
    };
    (@ close $to:tt) => { forward!(@plain $to close() -> persist_core::Result<()>); };
    (@ snapshot $to:tt) => {
        fn snapshot<'s, 'p, 'f>(
            &'s self,
            sink: &'p mut dyn persist_core::SnapshotSink,
        ) -> $crate::forward::Answer<'f, persist_core::Result<persist_core::SnapshotSummary>>
        where
            's: 'f,
            'p: 'f,
            Self: 'f,
        {
            self.$to.snapshot(sink)
        }
    };
    (@ watch $to:tt) => {
        fn watch<'s, 'p, 'f>(
            &'s self,
            prefix: &'p str,
        ) -> $crate::forward::Answer<'f, persist_core::Result<persist_core::Watch<'s>>>
        where
            's: 'f,
            'p: 'f,
            Self: 'f,
        {
            self.$to.watch(prefix)
        }
    };
    (@keyed $to:tt $method:ident($($name:ident: $type:ty),*) -> $answer:ty) => {
        fn $method<'s, 'k, 'f>(
            &'s self,
            key: &'k persist_core::Key,
            $($name: $type),*
        ) -> $crate::forward::Answer<'f, $answer>
        where
            's: 'f,
            'k: 'f,
            Self: 'f,
        {
            self.$to.$method(key, $($name),*)
        }
    };
    (@keys $to:tt $method:ident -> $answer:ty) => {
        fn $method<'s, 'k, 'f>(&'s self, keys: &'k [persist_core::Key]) -> $crate::forward::Answer<'f, $answer>
        where
            's: 'f,
            'k: 'f,
            Self: 'f,
        {
            self.$to.$method(keys)
        }
    };
    (@plain $to:tt $method:ident($($name:ident: $type:ty),*) -> $answer:ty) => {
        fn $method<'s, 'f>(&'s self, $($name: $type),*) -> $crate::forward::Answer<'f, $answer>
        where
            's: 'f,
            Self: 'f,
        {
            self.$to.$method($($name),*)
        }
    };
}

/// Makes a storage of a type whose first field is one and does all the work: `forward_all!(Compress);`.
#[cfg(feature = "compress")]
macro_rules! forward_all {
    ($type:ty) => {
        #[deny(clippy::missing_trait_methods)]
        impl persist_core::BaseStorage for $type {
            forward!(0: describe, store, retrieve, delete, list_keys, metadata, contains, touch, retrieve_range);
            forward!(0: store_many, retrieve_many, delete_many, transact, flush, health, stats, maintain, verify);
            forward!(0: snapshot, watch, close);
        }
    };
}

/// What `#[async_trait]` makes of the answer of an async method.
pub(crate) type Answer<'f, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'f>>;
