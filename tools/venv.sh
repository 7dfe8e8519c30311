#!/bin/sh
# Make the virtual environment FOLDER from PYTHON, pip install the remaining arguments into it, and then the packages in
# ALONE without their dependencies, at the versions in the file CONSTRAINTS. With TORCH, the arguments of a pip install
# that names a build of torch, that is installed first, and kept in place of the version in CONSTRAINTS:
#     [TORCH='torch --index-url URL'] [ALONE='PACKAGE...'] [CONSTRAINTS=FILE] sh tools/venv.sh FOLDER PYTHON ARGUMENT...
# A folder without the file `installed` is incomplete and is made again. Each failure prints one line on stderr.
set -eu
folder=$1 python=$2
shift 2
log=$folder-install.log
choose="choose another Python: make venv PYTHON=python3.12"

stop() {
    echo "make: $*" >&2
    exit 1
}

complete() {
    [ -e "$folder/installed" ] && "$folder/bin/python" -c '' 2>/dev/null
}

if ! complete; then
    need=$(sed -n 's/^requires-python = ">=3\.\([0-9]*\)"$/\1/p' pyproject.toml)
    found=$("$python" --version 2>&1) || found=none
    version=${found#Python }
    case $version in
        3.[0-9]*) minor=${version#3.} minor=${minor%%[!0-9]*} ;;
        2.[0-9]*) minor=0 ;;
        *) stop "'$python' does not run as Python; $choose" ;;
    esac
    [ "$minor" -ge "$need" ] || stop "Python 3.$need or newer is needed, '$python' is $version; $choose"
fi

echo "installing packages into $folder, log in $log"
# Wait for any other installation. pip inherits the lock, so this also waits for one whose shell was killed.
exec 9>"$folder.lock"
"$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' 2>/dev/null || true

if ! complete && ! "$python" -m venv --clear "$folder" >"$log" 2>&1; then
    if grep -q -e 'No module named' -e ensurepip "$log"; then
        stop "'$python' ($version) lacks the venv module; install it (Debian: python3-venv) or $choose"
    fi
    stop "'$python' ($version) cannot make $folder: $(tail -n 1 "$log")"
fi

install() {
    "$folder/bin/python" -m pip install --disable-pip-version-check "$@" >>"$log" 2>&1
}

# shellcheck disable=SC2086
install_all() {
    pins=${CONSTRAINTS-}
    if [ -n "${TORCH-}" ]; then
        install $TORCH || return
        pins=$folder/constraints.txt
        grep -v '^torch==' "${CONSTRAINTS:-/dev/null}" >"$pins" || true
        "$folder/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >>"$pins" || return
    fi
    install ${pins:+-c "$pins"} "$@" || return
    [ -z "${ALONE-}" ] || install ${pins:+-c "$pins"} --no-deps $ALONE
}

rm -f "$folder/installed"
: >"$log"
if ! install_all "$@"; then
    error=$(grep -ai '^ *error:' "$log" | grep -av subprocess-exited | tail -n 1 | sed 's/^ *//')
    ! grep -aq 'connection broken' "$log" || reason=" (no connection to a package index)"
    stop "packages could not be installed${reason-}, log in $log: ${error:-$(tail -n 1 "$log")}"
fi
touch "$folder/installed"
