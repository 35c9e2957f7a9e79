"""A Flower app: read ``task.py`` first (data, networks, training), then ``client_app.py`` and ``server_app.py``."""
