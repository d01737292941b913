"""Pictures of the book for people to look at: each page, wide and narrow, light and dark.

Usage: python tests/shots.py <html-folder> <out-folder> [page ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

from browser import DESKTOP, PHONE, inspect_page, new_page, open_browser, serve, shoot

#: Pages that Sphinx writes by itself.
OWN = {"genindex", "search", "py-modindex"}


def main(argv: list[str]) -> int:
    """Make the pictures; the exit code is 1 where a page had a problem."""
    if len(argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder, out = Path(argv[0]), Path(argv[1])
    pages = [p.removesuffix(".html") for p in argv[2:]] or [
        page for path in sorted(folder.glob("*.html")) if (page := path.stem) not in OWN
    ]
    trouble = 0
    with serve(folder) as address, open_browser() as browser:
        for name in pages:
            for size_name, size in (("desktop", DESKTOP), ("phone", PHONE)):
                for theme in ("light", "dark"):
                    with new_page(browser, size, theme) as page:
                        report = inspect_page(page, f"{address}/{name}.html", theme)
                        print(shoot(page, out / f"{name}-{size_name}-{theme}.png"))
                    for problem in report.problems():
                        trouble = 1
                        print(f"  {problem}", file=sys.stderr)
    return trouble


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
