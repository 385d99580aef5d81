# Recipes for people who work on persist; `just` lists them.

default:
    @just --list

# Everything that must pass before a change lands.
ci:
    bash .ci/run

# All tests and examples.
test:
    bash tests/run

# Formatting and lints, quickly.
lint:
    cargo fmt --all
    cargo clippy --workspace --exclude persist-benches --all-targets --features full -- -D warnings

# Ten times as many kills, power cuts and faults.
crash scale="10":
    PERSIST_CRASH_SCALE={{scale}} cargo test -p persist-file --test crash

# The same work over every backend and its peers.
bench *args:
    cargo build --release --manifest-path benches/opendal-sqlite/Cargo.toml --target-dir target
    cargo run --release -p persist-benches -- {{args}}

# Arrays beside a plain file, h5py, zarr-python and zarrs; `--python` names the Python that has the two.
bench-hdf5 *args:
    cargo run --release --manifest-path benches/hdf5/Cargo.toml --target-dir target -- {{args}}

# A million records in packs, and in what else keeps many records in few files.
bench-packs *args:
    cargo run --release --manifest-path benches/packs/Cargo.toml --target-dir target -- {{args}}

# The documents that come from code.
generate:
    UPDATE_SCHEMA=1 cargo test --features full --test config_samples

# Licences, sources and bans (needs cargo-deny).
deny:
    cargo deny --all-features check licenses bans sources
