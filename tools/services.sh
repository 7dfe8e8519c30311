#!/bin/sh
# Install the programs that some tests need, on Debian as root: a one-node SLURM and a headless browser.
# Returns at once if they are installed. If they cannot be installed it prints why, and the tests are skipped.
set -u
missing=
command -v slurmctld >/dev/null 2>&1 || [ -x /usr/sbin/slurmctld ] || missing="$missing slurm-wlm"
command -v mungekey >/dev/null 2>&1 || [ -x /usr/sbin/mungekey ] || missing="$missing munge"
command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || missing="$missing chromium"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "services: not installed:$missing (this needs apt-get and root); their tests will be skipped"
    exit 0
fi
echo "services: installing$missing"
log=$(mktemp)
if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends $missing; } >"$log" 2>&1
then
    echo "services: could not install$missing: $(tail -n 1 "$log"); their tests will be skipped"
fi
rm -f "$log"
