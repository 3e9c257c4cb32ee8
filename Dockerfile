# syntax=docker/dockerfile:1
# The edge in a container: built from source, then the binary alone on a slim Debian, without root.
#
#   docker build -t tidegate .
#   docker run --rm -p 8443:8443 -v ./deploy/tidegate.toml:/etc/tidegate/tidegate.toml:ro … tidegate

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive the layer, hence the copy of the binary out of the target folder.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --package tidegate --bin tidegate \
    && install -D target/release/tidegate /out/tidegate

FROM debian:bookworm-slim
# A number, not a name: Kubernetes' runAsNonRoot can tell only from a number.
RUN groupadd --system --gid 10001 tidegate \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin tidegate \
    && install -d -o 10001 -g 10001 /etc/tidegate
COPY --from=build /out/tidegate /usr/local/bin/tidegate
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/tidegate/
USER 10001:10001
WORKDIR /etc/tidegate
EXPOSE 8443 9464
# SIGTERM begins the drain: give the container longer than `listen.drain` to end (docker stop --time 30).
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["tidegate", "healthcheck", "--config", "/etc/tidegate/tidegate.toml"]
ENTRYPOINT ["tidegate"]
CMD ["serve", "--config", "/etc/tidegate/tidegate.toml"]
