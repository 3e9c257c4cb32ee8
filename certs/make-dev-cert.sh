#!/usr/bin/env bash
# Makes certs/dev.crt and certs/dev.key: self-signed, for localhost and the names or addresses given.
# The server makes the same by itself where they are missing; this is for other names or another lifetime (DAYS).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
command -v openssl >/dev/null || { echo "no openssl here: sudo apt-get install -y openssl" >&2; exit 1; }

names=DNS:localhost,IP:127.0.0.1,IP:::1
for name in "$@"; do
    case $name in
        *[!0-9A-Za-z.:*_-]* | '' | -*) echo "not a host name or address: '$name'" >&2; exit 2 ;;
        *:*) kind=IP ;;
        *[!0-9.]*) kind=DNS ;;
        *) kind=IP ;;
    esac
    names+=",$kind:$name"
done

# Written beside and moved into place, key first: a server that watches the files never reads half of one.
new=$(mktemp -d ./.new.XXXXXX)
trap 'rm -rf "$new"' EXIT
# A configuration of our own: the system's would add extensions of its own choice.
cat >"$new/openssl.cnf" <<EOF
[req]
distinguished_name = name
x509_extensions = leaf
[name]
[leaf]
subjectAltName = $names
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
EOF
(
    umask 077
    # P-256: a handshake costs the server a fifth of what RSA-2048 does. Not an authority: rustls refuses one
    # as a server's certificate, while every client takes a self-signed leaf that it was shown.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 \
        -days "${DAYS:-90}" -subj "/CN=Tidegate development" -config "$new/openssl.cnf" \
        -keyout "$new/dev.key" -out "$new/dev.crt" 2>"$new/log" || { cat "$new/log" >&2; exit 1; }
)
chmod 644 "$new/dev.crt"
mv "$new/dev.key" dev.key
mv "$new/dev.crt" dev.crt
echo "certs/dev.crt and certs/dev.key: $names"
