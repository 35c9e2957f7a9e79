"""Source-blind baselines, one method per file, each registered like anyone else's in the group ``mekd.distillers``.

The files are in the folder ``baselines/`` at the top of the repository. A wheel carries them in this package; in a
checkout (an editable install) this package finds them there. No package named ``baselines`` is installed, since a
folder of that name beside the user's script would hide it.
"""

from pathlib import Path

_checkout = Path(__file__).parents[2]
if (_checkout / "pyproject.toml").is_file() and (_checkout / "baselines" / "kd.py").is_file():
    __path__.append(str(_checkout / "baselines"))
