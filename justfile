# Each line calls cargo; no logic here.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo xtask tidy

test:
    cargo test --workspace

sim:
    cargo run --release -- demo --virtual

bench name:
    cargo xtask bench {{name}}

run:
    cargo run --release -- demo

# Against a real Kubernetes; building it takes half an hour once.
realk8s *TESTS:
    cargo xtask realk8s {{TESTS}}
