"""Source-blind baselines, one method a file, each registered like anybody's in the group ``mekd.distillers``.

The files lie in the folder ``baselines/`` at the top of the repository. A wheel carries them in this package; in a
checkout (an editable install) this package finds them there. No package of the name ``baselines`` is installed, which a
folder of that name beside the user's script would hide.
"""

from pathlib import Path

_checkout = Path(__file__).parents[2]
if (_checkout / "pyproject.toml").is_file() and (_checkout / "baselines" / "kd.py").is_file():
    __path__.append(str(_checkout / "baselines"))
