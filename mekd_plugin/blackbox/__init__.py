"""The boundary: a teacher that can only be asked, what was spent on asking it, and the answers that were kept.

Read ``teacher.py`` first (:class:`BlackBox`, and the order intend, ask, check, keep, settle), then ``backends.py``
(what can stand behind it), ``ledger.py`` (what was spent), ``journal.py`` (how a resumed run asks nothing twice),
``bank.py`` (answers that are kept), ``degradation.py`` (what an API does to its answers) and ``meter.py`` (a count
under other people's scripts). ``remote/`` has teachers behind a network, and recorded answers.
"""

from mekd_plugin.blackbox import remote as remote
from mekd_plugin.blackbox.bank import Bank, FreshQueries
from mekd_plugin.blackbox.columns import Origin
from mekd_plugin.blackbox.degradation import Degradation
from mekd_plugin.blackbox.journal import Forgotten, Journal
from mekd_plugin.blackbox.ledger import Ledger, Peers
from mekd_plugin.blackbox.meter import TeacherModule, meter
from mekd_plugin.blackbox.onnx_file import onnx_teacher
from mekd_plugin.blackbox.patience import RateLimit, Retry
from mekd_plugin.blackbox.spending import Question
from mekd_plugin.blackbox.teacher import BlackBox
from mekd_plugin.blackbox.whitebox import WhiteBox

__all__ = [
    "Bank",
    "BlackBox",
    "Degradation",
    "Forgotten",
    "FreshQueries",
    "Journal",
    "Ledger",
    "Origin",
    "Peers",
    "Question",
    "RateLimit",
    "Retry",
    "TeacherModule",
    "WhiteBox",
    "meter",
    "onnx_teacher",
]
