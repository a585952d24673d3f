# Recipes for daily work: https://just.systems/

# List the recipes
default:
    @just --list

# Check format, lints and tests
check: format lint test

# Check the format of all Rust code
format:
    # By name, since cargo fmt does not see modules that a macro declares.
    find src tests benches fuzz/targets -name '*.rs' -exec rustfmt --check --edition 2024 {} +

# Run the lints as CI does
lint:
    cargo clippy --locked --all-targets -- -D warnings

# Run the tests that need no other program
test:
    cargo test --locked

# Build a Debian package in target/debian (needs jq, cargo-deb and the tools of `just dist`)
deb:
    packaging/build
    packaging/prepare
    CARGO_TARGET_DIR=target/dist cargo deb --locked --no-build --output target/debian/

# Pack an archive in target/dist (needs jq: cargo install --locked cargo-cyclonedx; cargo install --locked cargo-about --features cli)
dist:
    packaging/dist

# Build a container image (needs podman)
image:
    podman build --format docker -t resttool -f packaging/Containerfile .

# Run everything that must hold before a change lands (needs Debian and root)
ci:
    .ci/run
