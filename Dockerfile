# The image with a daemon: `docker build -t evenkeel .`; `cargo xtask image` makes the same without.
# Static, no shell, not root; its root file system may be read-only.
FROM docker.io/library/rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools \
    && rustup target add x86_64-unknown-linux-musl
WORKDIR /src
COPY . .
ENV CC_x86_64_unknown_linux_musl=musl-gcc
RUN cargo build --profile image --locked --target x86_64-unknown-linux-musl --package evenkeel \
    && mkdir -p /image/etc/ssl/certs /data \
    && cp target/x86_64-unknown-linux-musl/image/evenkeel /image/ \
    && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
    && echo 'evenkeel:x:65532:65532::/data:' >/image/etc/passwd \
    && echo 'evenkeel:x:65532:' >/image/etc/group

FROM scratch
COPY --from=build /image /
COPY --from=build --chown=65532:65532 /data /data
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
ENTRYPOINT ["/evenkeel"]
