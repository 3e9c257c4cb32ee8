#!/bin/sh
# Sets up the Autobahn WebSocket test suite (wstest 25.10.1, Python 2 code) on PyPy 2.7, without Docker.
#
#   sh install.sh DIR        then:  DIR/wstest -m fuzzingclient -s fuzzingclient.json
#
# For Debian 12 on amd64. Everything lands below DIR and nothing in the system: PyPy 2.7, OpenSSL 1.1 and a
# Python 2 pip come out of Debian 11's packages, from the mirror that apt is set up with, and are only
# unpacked; the Python packages come from the package index that pip is set up with. Needs no root, but apt,
# dpkg, cc (gcc and libc6-dev, to build one extension) and ca-certificates. Takes about a minute and a half and
# 140 MB. Run again, it does what is missing. BULLSEYE_URI names another mirror, for when Debian 11 has moved
# to the archive.
set -eu
[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
mkdir -p "$1"
D=$(cd "$1" && pwd -P)
VERSION=25.10.1

works() { [ -x "$D/wstest" ] && "$D/wstest" -a 2>/dev/null | grep -qx "AutobahnTestSuite $VERSION"; }
if works; then echo "wstest $VERSION is already in $D"; exit 0; fi
command -v cc >/dev/null || { echo "no C compiler: install gcc and libc6-dev first" >&2; exit 1; }

# --- PyPy 2.7 and OpenSSL 1.1 from Debian 11, unpacked below DIR -------------------------------
A=$D/apt R=$D/root
if [ ! -e "$R/.done" ]; then
    CODENAME=$(. /etc/os-release && echo "$VERSION_CODENAME")
    URI=${BULLSEYE_URI:-$(apt-get indextargets --format '$(REPO_URI)' \
        'Identifier: Packages' "Release: $CODENAME" 'Component: main' | head -n 1)}
    [ -n "$URI" ] || { echo "no Debian mirror found in the apt sources; set BULLSEYE_URI" >&2; exit 1; }
    KEY=/usr/share/keyrings/debian-archive-keyring.gpg
    rm -rf "$A" "$R"
    mkdir -p "$A/lists/partial" "$A/cache/archives/partial" "$A/none" "$A/debs"
    : >"$A/status"
    if [ -r "$KEY" ]; then SIGNED="[signed-by=$KEY] "; else SIGNED=; fi
    echo "deb ${SIGNED}$URI bullseye main" >"$A/sources.list"
    apt() {
        apt-get -q -o Dir::Etc::sourcelist="$A/sources.list" -o Dir::Etc::sourceparts="$A/none" \
            -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts="$A/none" \
            -o Dir::State="$A" -o Dir::State::lists="$A/lists" -o Dir::State::status="$A/status" \
            -o Dir::Cache="$A/cache" -o APT::Sandbox::User="$(id -un)" -o APT::Architecture=amd64 \
            -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
            -o APT::Update::Post-Invoke::= -o APT::Update::Post-Invoke-Success::= \
            -o APT::Update::Error-Mode=any "$@"
    }
    apt update
    (cd "$A/debs" && apt download pypy pypy-lib pypy-dev python-pip-whl \
        libssl1.1 libssl-dev libffi7 libexpat1)
    for deb in "$A"/debs/*.deb; do dpkg -x "$deb" "$R"; done
    rm -rf "$A"
    touch "$R/.done"
fi

L=$R/usr/lib:$R/usr/lib/x86_64-linux-gnu:$R/lib/x86_64-linux-gnu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
ln -s "$R/usr" "$T/usr" # a name without blanks for the compiler flags
pip() {
    CFLAGS="-I$T/usr/include -I$T/usr/include/x86_64-linux-gnu" \
        LDFLAGS="-L$T/usr/lib/x86_64-linux-gnu" LD_LIBRARY_PATH=$L PYTHONNOUSERSITE=1 \
        "$R/usr/bin/pypy" -m pip --disable-pip-version-check -q install \
        --no-cache-dir --no-compile --no-deps "$@" 2>"$T/err" || { cat "$T/err" >&2; return 1; }
}

# --- pip and what the builds need (Debian's own Python 2 wheels start it) ----------------------
# incremental: else Twisted's setup.py fetches 22.10, which Python 2 cannot import.
# --no-compile: else pip 20.3 fails on PyPy at its .pyc check.
if [ ! -e "$D/build/.done" ]; then
    rm -rf "$D/build"
    PYTHONPATH=$(ls "$R"/usr/share/python-wheels/*.whl | tr '\n' ':') \
        pip --target "$D/build" pip==20.3.4 setuptools==44.1.1 wheel==0.37.1 incremental==16.10.1
    touch "$D/build/.done"
fi

# --- the suite and all it imports, pinned; cffi is part of PyPy --------------------------------
rm -rf "$D/site"
PYTHONPATH=$D/build pip --no-build-isolation --target "$D/site" \
    autobahntestsuite==$VERSION autobahn==0.10.9 txaio==2.1.0 six==1.16.0 \
    Twisted==19.10.0 zope.interface==4.6.0 incremental==16.10.1 constantly==15.1.0 \
    Automat==22.10.0 attrs==21.4.0 hyperlink==21.0.0 idna==2.10 typing==3.10.0.0 \
    pyOpenSSL==19.1.0 cryptography==3.3.2 enum34==1.1.10 ipaddress==1.0.23 \
    service_identity==18.1.0 pyasn1==0.5.1 pyasn1-modules==0.3.0 \
    Jinja2==2.11.3 MarkupSafe==1.1.1 setuptools==44.0.0 \
    unittest2==1.1.0 traceback2==1.4.0 linecache2==1.0.0

cat >"$D/wstest.tmp" <<'W'
#!/bin/sh
D=$(dirname -- "$(readlink -f -- "$0")")
R=$D/root
export LD_LIBRARY_PATH="$R/usr/lib:$R/usr/lib/x86_64-linux-gnu:$R/lib/x86_64-linux-gnu"
unset PYTHONPATH PYTHONHOME
exec "$R/usr/bin/pypy" -c 'import site, sys
d = sys.argv.pop(1); sys.argv[0] = "wstest"
site.addsitedir(d); sys.path.insert(0, d)
from autobahntestsuite.wstest import run
run()' "$D/site" "$@"
W
chmod +x "$D/wstest.tmp" && mv "$D/wstest.tmp" "$D/wstest"
works || { echo "wstest does not start:" >&2; "$D/wstest" -a; exit 1; }
echo "wstest $VERSION is ready: $D/wstest"
