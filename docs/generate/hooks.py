"""What MkDocs calls while it builds: pages that are generated join those that are written."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES: dict[str, str] = {
    "reference/groups.md": "# Groups\n",
    "reference/options.md": "# Options\n",
    "reference/records.md": "# Records\n",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The written pages and the generated ones."""
    for path, text in PAGES.items():
        files.append(File.generated(config, path, content=text))
    return files
