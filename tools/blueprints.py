"""`make blueprints`: writes subgraphs/*.json, one node for each wish, and what is made of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from .blueprint_edits import caption_edit, change_only_that, remove
from .blueprint_paintings import draw_it, morph, move_it, train_predictor
from .blueprint_parts import Wish
from .blueprint_templates import TEMPLATES, folder_template, for_programs, template
from .examples import EXAMPLES
from .places import ROOT
from .stamp import text_of

FOLDER = ROOT / "subgraphs"
WISHES = (caption_edit, change_only_that, remove, move_it, draw_it, train_predictor, morph)


def wishes(info: Mapping[str, dict]) -> list[Wish]:
    return [make(info) for make in WISHES]


def files(info: Mapping[str, dict]) -> dict[Path, str]:
    """All that is made: blueprints, templates, and prompts for programs. info: the host's `/object_info`."""
    made = {}
    for wish in wishes(info):
        name = TEMPLATES[wish.name].name
        made[FOLDER / f"{wish.name}.json"] = text_of(wish.file())
        made[EXAMPLES / f"{name}.json"] = text_of(template(wish, info))
        made[EXAMPLES / "api" / f"{name}.json"] = lines_of(for_programs(wish, info))
    folder = folder_template(caption_edit(info), info)
    made[EXAMPLES / "techniques" / "Edit a folder of pictures.json"] = text_of(folder)
    return made


def lines_of(prompt: dict) -> str:
    """A prompt with a line for each node."""
    nodes = (f" {json.dumps(key)}: {json.dumps(node, ensure_ascii=False)}" for key, node in prompt.items())
    return "{\n" + ",\n".join(nodes) + "\n}\n"


def main() -> int:
    from .server import Host
    from .setup import read_record

    with Host.start(read_record()) as host:
        for path, text in files(host.client.object_info()).items():
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
