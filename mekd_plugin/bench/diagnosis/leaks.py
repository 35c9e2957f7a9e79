"""A question about what was sent: does it say which images stayed at home?"""

from __future__ import annotations

import torch

from mekd_plugin.bench.diagnosis.findings import Finding
from mekd_plugin.bench.diagnosis.subject import Subject
from mekd_plugin.bench.privacy import MOST_SENT, attack, shrunk

__all__ = ["membership"]

_PART = 1000


def membership(subject: Subject) -> Finding:
    """A membership attack with the rows that the student learnt from, which are what was sent.

    Raises:
        CheckpointError: nothing is kept of what was sent.
    """
    images = subject.require_rows().images
    chosen = torch.arange(len(images))
    if len(images) > MOST_SENT:
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(subject.seed))[:MOST_SENT]
    # A part at a time: they may lie in a file that memory would not hold.
    sent = torch.cat([shrunk(images[part]) for part in chosen.split(_PART)])
    others = subject.held_out if subject.strangers is None else subject.strangers
    found = attack(sent, subject.edge, others, seed=subject.seed)
    question = "Does what was sent say which images stayed at home?"
    if found is None:
        return Finding("membership", question, "What was sent has another shape than the edge's images.", {}, {})
    auc, hits = found.auc, found.true_positives
    low, high = found.nearest_ratio_chance
    verdict = "more than guessing" if auc.low > 0.5 else "no better than guessing"
    sentence = (
        f"An attacker who sees what was sent tells one of the edge's images from another in {100 * auc.value:.0f} % of "
        f"pairs (95 % interval {100 * auc.low:.0f} to {100 * auc.high:.0f}), {verdict}; taking 1 % of others for the "
        f"edge's, it finds {100 * hits.value:.1f} % of them ({100 * hits.low:.1f} to {100 * hits.high:.1f}). Images "
        f"sent are {found.nearest_ratio:.2f} times as far from the nearest of the edge's as from the nearest other "
        f"one ({low:.2f} to {high:.2f} where they know nothing of the edge's). A stronger attack may find more."
    )
    return Finding("membership", question, sentence, {"membership": found.as_record()}, {"membership": found})
