"""The clients of a Flower federation as one teacher: each answers by a model of its own, and meters itself.

Read ``client.py`` first (a client's reply to a question), then ``server.py`` (:class:`Federation`, all clients behind
one boundary) and ``messages.py`` (what travels, and how many bytes of it). ``examples/federated`` is an app.

Run with flwr 1.42. On a client, whose data and model stay where they are::

    app = flwr.clientapp.ClientApp()

    @app.query("teacher")
    def teacher(message, context):
        box = mekd_plugin.BlackBox(load_model(context), "probabilities", budget=5000)
        return answer_question(message, box, directory="ledger", name="hospital 3")

On the server, in one round of messages or a few::

    @app.main()
    def main(grid, context):
        federation = Federation(grid, num_classes=10)
        mekd_plugin.distill(student, federation.black_box(budget=2000), images, method="mekd", emulation="mixture")
        print(federation)  # who answered what

What this relies on: a ``ClientApp`` routes messages of the type ``query.teacher`` to the function that is registered
for them, and replies with an error where it raises one; ``Grid.push_messages`` returns the number of a message, by
which ``Grid.pull_messages`` finds its reply, once.

What this does not promise: a client that lies moves the mean of the answers by its share of it, and nothing here finds
out; the server sees each client's answers, since there is no secure aggregation; and answers, to which no noise is
added, tell something about the data that a client's model was trained on. A client's own budget limits how much.
"""

from mekd_plugin.integrations.flower.client import answer_question
from mekd_plugin.integrations.flower.messages import QUESTION, CountedGrid
from mekd_plugin.integrations.flower.server import ClientAccount, Federation

__all__ = ["QUESTION", "ClientAccount", "CountedGrid", "Federation", "answer_question"]
