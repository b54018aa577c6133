#!/usr/bin/env python3
"""Checks rules that no compiler checks: includes point downward, and the documents name files that exist.

usage: check_sources.py [root]      prints one line per finding and exits with 1 if there is any
"""

import re
import sys
from pathlib import Path

# An include may name the file's own layer or one further down (to the left).
LAYERS = ["core", "text", "kernels", "attention", "model", "engine", "apps"]
# Users of the model that stand beside each other: what each may include on top of model and below.
BESIDE = {"train": [], "engine": [], "eval": ["engine"]}

TORCH = re.compile(r"(ATen|c10|torch|caffe2)/")
WITHOUT_TORCH = {"core", "text", "kernels"}
ONLY_IN_SOURCES = ("nlohmann/json.hpp", "pcre2.h", "utf8proc.h")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
MD_CODE = re.compile(r"`([^`\s]+)`")
MD_LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")
MD_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
MD_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SOURCE_SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
GENERATED = {"build"}


def allowed_layers(layer):
    """Layers whose headers a file of `layer` may include."""
    if layer in BESIDE:
        return LAYERS[: LAYERS.index("model") + 1] + [layer] + BESIDE[layer]
    if layer == "apps":
        return LAYERS + list(BESIDE)
    return LAYERS[: LAYERS.index(layer) + 1]


def sources(root, folder):
    return sorted(p for p in (root / folder).rglob("*") if p.suffix in SOURCE_SUFFIXES)


def layer_of(root, path):
    parts = path.relative_to(root).parts
    return parts[1] if parts[0] == "src" else parts[0]


def check_include(root, path, layer, quote, name):
    """Yields what is wrong with one #include of a file in src/ or apps/."""
    top = name.split("/")[0]
    if TORCH.match(name):
        if layer in WITHOUT_TORCH:
            yield f"{layer} does not use LibTorch, but includes {name}"
        if name == "torch/torch.h":
            yield "torch/torch.h costs 20 s per file: include ATen/core/Tensor.h and ATen/ops/*.h"
    if path.suffix == ".h" and name.startswith(ONLY_IN_SOURCES):
        yield f"{name} belongs in .cpp files only"
    if name.startswith("CLI/") and layer != "apps":
        yield f"{name} belongs in apps only"
    if quote == '"':
        places = [root / "src" / name, root / "include" / name, path.parent / name]
        if not any(p.is_file() for p in places):
            yield f'"{name}" does not exist'
        elif top != "gsa" and (root / "src" / name).is_file() and top not in allowed_layers(layer):
            yield f"{layer} may not include {name}: includes point downward ({' < '.join(LAYERS)})"


def check_file(root, path):
    layer = layer_of(root, path)
    text = path.read_text(encoding="utf-8")
    where = path.relative_to(root)
    if path.suffix == ".h" and "#pragma once" not in text:
        yield f"{where}: no #pragma once"
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quote, name = match.groups()
        if layer == "include":  # public headers: the standard library and one another
            if "/" in name and not name.startswith("gsa/"):
                yield f"{where}:{number}: a public header may not include {name}"
            continue
        for problem in check_include(root, path, layer, quote, name):
            yield f"{where}:{number}: {problem}"


def looks_like_path(root, name):
    """True for `src/core/gguf.h`, false for `bf16/f32`, `src/<layer>/`, `tests/*_test.cpp`, `build/release/gsa`."""
    if not re.fullmatch(r"[\w.\-/]+", name) or "/" not in name:
        return False
    top = name.split("/")[0]
    return top not in GENERATED and (root / top).is_dir()


def anchors(path):
    """Names of a document's headings, as sites that show Markdown make them."""
    headings = MD_HEADING.findall(MD_FENCED.sub("", path.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def check_document(root, path):
    where = path.relative_to(root)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for name in MD_CODE.findall(line):
            if looks_like_path(root, name) and not (root / name).exists():
                yield f"{where}:{number}: {name} does not exist"
        for name, anchor in MD_LINK.findall(line):
            target = path.parent / name if name else path
            if "://" in name:
                continue
            if not target.exists():
                yield f"{where}:{number}: link to {name}, which does not exist"
            elif anchor and target.suffix == ".md" and anchor not in anchors(target):
                yield f"{where}:{number}: link to {name}#{anchor}, which has no such heading"


def findings(root):
    for folder in ("include", "src", "apps"):
        for path in sources(root, folder):
            yield from check_file(root, path)
    for path in sorted([*root.glob("*.md"), *(root / "docs").rglob("*.md")]):
        yield from check_document(root, path)


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    found = list(findings(root))
    print("\n".join(found) or "sources: nothing to report")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
