"""Write the generated pages into a folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from fairgate.reference.metrics import metrics_page
from fairgate.reference.settings import settings_page

PAGES: Mapping[str, Callable[[], str]] = {
    "metrics.md": metrics_page,
    "configuration.md": settings_page,
}


def main() -> None:
    """Write them all."""
    parser = argparse.ArgumentParser(prog="python -m fairgate.reference", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    for name, page in PAGES.items():
        (folder / name).write_text(page())
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    main()
