"""Teachers behind a network, and recorded answers: functions from images to answers that go into a ``BlackBox``.

Read ``service.py`` first (one connection, and what each reply means for the count), then ``inference.py`` (models
behind the Open Inference Protocol), ``endpoint.py`` with ``labels.py`` and ``pictures.py`` (one encoded image a call,
labels and scores back). How often is asked again, how fast, and how many calls are open at a time, say ``retry=``,
``rate_limit=`` and ``concurrent=`` of the black box, where every attempt is counted. Answers that somebody has bought
earlier need no network: ``recorded.py``, with ``tables.py`` for the forms in which they are kept.
"""

from mekd_plugin.blackbox.remote.endpoint import ImageEndpoint, image_endpoint
from mekd_plugin.blackbox.remote.inference import InferenceTeacher, TensorSpec, open_inference_teacher
from mekd_plugin.blackbox.remote.labels import LabelMap
from mekd_plugin.blackbox.remote.recorded import RecordedTeacher, recorded_teacher
from mekd_plugin.blackbox.remote.service import Reply, Service
from mekd_plugin.blackbox.remote.tables import Table

__all__ = [
    "ImageEndpoint",
    "InferenceTeacher",
    "LabelMap",
    "RecordedTeacher",
    "Reply",
    "Service",
    "Table",
    "TensorSpec",
    "image_endpoint",
    "open_inference_teacher",
    "recorded_teacher",
]
