"""Lets one virtual environment see the packages of another one behind its own, editable installs included.

python borrow_site_packages.py path/to/the/other/environment
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

if __name__ == "__main__":
    lender = Path(sysconfig.get_path("purelib", vars={"base": sys.argv[1], "platbase": sys.argv[1]}))
    if not lender.is_dir():
        sys.exit(f"{lender} is missing: make that environment first, tox run -e {Path(sys.argv[1]).name} --notest")
    line = f"import site; site.addsitedir({str(lender)!r})\n"
    Path(sysconfig.get_path("purelib"), "borrowed.pth").write_text(line)
