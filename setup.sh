#!/usr/bin/env bash
# makes .venv beside this file, installs mathllm and its development tools there, and runs a command inside;
# `./setup.sh --help` says more. written for bash 3.2, which is the one that macOS has.
set -euo pipefail

usage() {
    cat <<'EOF'
usage: ./setup.sh [CMD ARGS...]

Makes the virtual environment .venv beside this script and installs mathllm and its development tools into it,
in the versions of constraints.txt. When that is done already, it does nothing.

With CMD it then runs CMD inside the environment, in the folder you are in:

    ./setup.sh mathllm demo
    ./setup.sh pytest

What the set-up has to say goes to stderr; stdout is CMD's alone.

environment:
  PYTHON   the interpreter to use, 3.10 to 3.13 (default: that of .venv if there is one, else the first that
           works of python3, python3.13, python3.12, python3.11, python3.10). Another one makes .venv anew.
  PIP_*    pip's own settings. On Linux, PyTorch comes with CUDA (several GB). For the small CPU build, give
           PyTorch's CPU index in PIP_EXTRA_INDEX_URL; the "Get started" page of pytorch.org has its address.

To start over, delete .venv.
EOF
}

say() { printf 'setup.sh: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

case ${1-} in
    -h | --help)
        usage
        exit 0
        ;;
    -*)
        say "no such option: $1 (./setup.sh --help explains)"
        exit 2
        ;;
esac

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
venv=$root/.venv
stamp=$venv/setup-stamp # written last: where .venv was made, from which files, by which python
files=$(cat "$root/pyproject.toml" "$root/constraints.txt" | cksum)
unset PYTHONHOME

# of a python that works and is one of ours, two lines: the interpreter itself, never one inside a virtual
# environment (it could be the .venv that we are about to make anew), and what tells it from other ones
describe='
import ensurepip, os, sys, venv
if not (3, 10) <= sys.version_info[:2] <= (3, 13):
    sys.exit(1)
home = os.path.join(sys.base_prefix, "bin", "python%d.%d" % sys.version_info[:2])
print(sys.executable if sys.prefix == sys.base_prefix else home)
print(sys.base_prefix, sys.version.split()[0])
'

find_python() { # sets python and identity
    local candidate found
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- "$venv/bin/python" python3 python3.13 python3.12 python3.11 python3.10
    fi
    for candidate; do
        # running it is the only test that counts: a pyenv shim may exist and fail
        if found=$("$candidate" -c "$describe" 2>/dev/null); then
            python=${found%%$'\n'*}
            identity=${found#*$'\n'}
            return
        fi
    done
    if [ -n "${PYTHON:-}" ]; then
        die "PYTHON=$PYTHON does not run, is not Python 3.10 to 3.13, or lacks the venv module"
    fi
    die "found no Python 3.10 to 3.13 that runs and has the venv module (Debian, Ubuntu: apt install python3-venv);" \
        "if you have one elsewhere: PYTHON=/path/to/python ./setup.sh"
}

up_to_date() {
    local made_in='' made_from='' made_by=''
    [ -x "$venv/bin/python" ] && [ -f "$stamp" ] || return 1
    { IFS= read -r made_in && IFS= read -r made_from && IFS= read -r made_by; } <"$stamp" || return 1
    # made_in, because a virtual environment does not survive being moved
    [ "$made_in" = "$root" ] && [ "$made_from" = "$files" ] && [ "${identity:-$made_by}" = "$made_by" ]
}

install() {
    local kept='' quiet=-q
    [ ! -t 2 ] || quiet=
    # what a finished set-up left here is brought up to date; anything else is made anew
    if [ -x "$venv/bin/python" ] && [ -f "$stamp" ]; then
        kept=$(sed -n -e 1p -e 3p "$stamp")
    fi
    rm -f "$stamp"
    if [ "$kept" != "$root"$'\n'"$identity" ]; then
        say "making .venv with $python (${identity##* })"
        "$python" -m venv --clear "$venv" || die "could not make the virtual environment $venv"
    fi
    say "installing mathllm and its development tools (the first time, PyTorch may take some minutes)"
    (
        export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1
        cd -- "$root" && # so that no path with spaces or brackets has to pass through pip
            .venv/bin/python -m pip install ${quiet:+-q} -c constraints.txt --upgrade pip &&
            .venv/bin/python -m pip install ${quiet:+-q} \
                -c constraints.txt --build-constraint constraints.txt -e '.[dev]'
    ) || die "the installation failed, see above; once that is mended, run it again"
    printf '%s\n' "$root" "$files" "$identity" >"$stamp"
    say "done"
}

python='' identity=''
if [ -n "${PYTHON:-}" ]; then
    find_python
fi
if ! up_to_date; then
    [ -n "$python" ] || find_python
    # one at a time: a lock on this file, which the system drops when we end, however we end
    exec 9<"${BASH_SOURCE[0]}"
    "$python" - >&2 <<'EOF' || true
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("setup.sh: another set-up is running here; waiting for it", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
EOF
    up_to_date || install </dev/null >&2
    exec 9<&-
fi

if [ $# -gt 0 ]; then
    export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
    exec "$@"
fi
