"""What MkDocs calls while it builds: pages that are generated join those that are written."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# MkDocs loads this file by its path, wherever it is started.
sys.path.insert(0, str(Path(__file__).parents[2]))

from docs.generate import command_lines, groups, options, records, tables

PAGES = {
    "reference/command_lines.md": command_lines.page,
    "reference/groups.md": groups.page,
    "reference/options.md": options.page,
    "reference/records.md": records.page,
    "reference/tables.md": tables.page,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The written pages and the generated ones."""
    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files
