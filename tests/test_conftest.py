"""The tests' own surroundings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_no_cache_that_somebody_has_set_is_looked_into_by_tests(tmp_path: Path):
    script = (
        "import os, tests.conftest; from huggingface_hub import constants; import datasets.config; "
        "print(os.environ['HF_HOME'], constants.HF_HUB_CACHE, constants.HF_ASSETS_CACHE, "
        "datasets.config.HF_DATASETS_CACHE, datasets.config.HF_MODULES_CACHE)"
    )
    names = ("HF_HOME", "HF_HUB_CACHE", "HF_ASSETS_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE")
    printed = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **dict.fromkeys(names, str(tmp_path))},
        capture_output=True,
        text=True,
        check=True,
    )
    home, *caches = printed.stdout.split()
    assert home != str(tmp_path) and len(caches) == 4
    assert all(Path(cache).is_relative_to(home) for cache in caches)
