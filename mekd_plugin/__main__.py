"""``python -m mekd_plugin`` is ``mekd``."""

from mekd_plugin.cli import main

if __name__ == "__main__":  # a process that a run starts imports this file under another name
    main()
