"""Makes `import bezel` in this virtual environment take the package from a build folder.

A .pth file does it: edits of python/bezel/*.py count at once, and nothing is copied.
usage: .venv/bin/python cmake/link_into_venv.py build/python
"""

import sys
import sysconfig
from pathlib import Path


def main() -> int:
    package_root = Path(sys.argv[1]).resolve()
    site_packages = Path(sysconfig.get_path("purelib"))
    if (site_packages / "bezel").exists():
        print(
            f"{site_packages}/bezel is an installed copy and would hide this build; "
            "remove it: .venv/bin/python -m pip uninstall bezel",
            file=sys.stderr,
        )
        return 1
    link = site_packages / "bezel-development.pth"
    wanted = f"{package_root}\n"
    if not link.exists() or link.read_text() != wanted:
        link.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
