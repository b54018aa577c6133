"""scripts/check_sources.py reports each kind of violation in a small tree, and nothing in a clean one."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import check_sources  # noqa: E402

CLEAN = {
    "include/gsa/error.h": "#pragma once\n#include <string>\n",
    "src/core/log.h": '#pragma once\n#include "gsa/error.h"\n',
    "src/model/model.cpp": '#include "core/log.h"\n#include <ATen/core/Tensor.h>\n#include <nlohmann/json.hpp>\n',
    "src/model/model.h": "#pragma once\n",
    "src/engine/session.h": '#pragma once\n#include "model/model.h"\n',
    "src/train/trainer.cpp": '#include "model/model.h"\n',
    "apps/gsa/main.cpp": '#include "engine/session.h"\n#include "apps_local.h"\n#include <CLI/CLI.hpp>\n',
    "apps/gsa/apps_local.h": "#pragma once\n",
    "README.md": "See `src/core/log.h`, `src/<layer>/`, `bf16/f32`, `build/release/gsa` and [log](src/core/log.h#top).\n"
    "```sh\n# A comment\n```\n## The `end`, or not\nIt is [here](#the-end-or-not) and [there](docs/b.md#b).\n",
    "docs/b.md": "# B\n",
}

VIOLATIONS = [
    ("src/core/a.cpp", '#include "model/model.h"\n', "core may not include model/model.h"),
    ("src/train/b.cpp", '#include "engine/session.h"\n', "train may not include engine/session.h"),
    ("src/core/a.cpp", "#include <c10/util/Half.h>\n", "core does not use LibTorch"),
    ("src/model/a.cpp", "#include <torch/torch.h>\n", "torch/torch.h costs"),
    ("src/model/a.h", "#pragma once\n#include <nlohmann/json.hpp>\n", "belongs in .cpp files only"),
    ("src/model/a.cpp", "#include <CLI/CLI.hpp>\n", "belongs in apps only"),
    ("src/model/a.cpp", '#include "core/gone.h"\n', '"core/gone.h" does not exist'),
    ("src/model/a.h", "int a;\n", "no #pragma once"),
    ("include/gsa/a.h", "#pragma once\n#include <ATen/core/Tensor.h>\n", "a public header may not include"),
    ("DESIGN.md", "The file `src/core/gone.h` reads.\n", "src/core/gone.h does not exist"),
    ("docs/a.md", "[gone](gone.md)\n", "link to gone.md"),
    ("docs/a.md", "[gone](b.md#gone)\n", "no such heading"),
    ("docs/a.md", "```\n# Gone\n```\n[gone](#gone)\n", "no such heading"),
]


def findings_with(extra):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, text in {**CLEAN, **extra}.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return list(check_sources.findings(root))


class CheckSources(unittest.TestCase):
    def test_clean_tree(self):
        self.assertEqual(findings_with({}), [])

    def test_each_violation_is_the_one_finding(self):
        for name, text, message in VIOLATIONS:
            with self.subTest(message):
                found = findings_with({name: text})
                self.assertEqual(len(found), 1, found)
                self.assertIn(message, found[0])
                self.assertTrue(found[0].startswith(name))


if __name__ == "__main__":
    unittest.main()
