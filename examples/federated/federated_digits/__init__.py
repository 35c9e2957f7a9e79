"""A Flower app. Read ``task.py`` (data, networks, training), ``client_app.py``, ``server_app.py``, ``strategies.py``."""
