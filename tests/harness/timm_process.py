"""One of several processes of a timm task, for test_timm.py: ``timm_process.py DIRECTORY``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from mekd_plugin.errors import NeedsNotMet
from mekd_plugin.harness.timm import task
from mekd_plugin.testing import CLASSES, ToyTeacher, toy_images

folder = Path(sys.argv[1])
alone = os.environ.get("MEKD_ALONE")
rank = int(os.environ.get("RANK", "0"))
world = int(os.environ.get("WORLD_SIZE", "1"))
toy, report = ToyTeacher(), {}
if alone == "spawned":  # two processes of which nothing in the environment tells
    rank = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    other = None if rank else subprocess.Popen([sys.executable, *sys.argv, "1"])
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
elif world > 1:
    torch.distributed.init_process_group("gloo")

torch.manual_seed(0)
student = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.GELU(), nn.Linear(16, CLASSES))
guest = task("distribution_alignment", student, toy, toy_images(60, seed=1), budget=300, progress=False)
rows = []
try:
    if alone != "1":
        guest.prepare_distributed()
    optimizer = create_optimizer_v2(guest.get_trainable_module(), opt="momentum", lr=0.02, weight_decay=0.0)
    for step, (input, target) in enumerate(guest.loader(32 // world, steps=8)):
        result = guest(input, target)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        if step == 0:
            rows = target.tolist()
    guest.players.settle()
    report["weights"] = torch.cat([value.flatten() for value in student.parameters()]).tolist()
    report["critic"] = torch.cat([value.flatten() for value in guest.players.parameters()]).tolist()
except NeedsNotMet as error:
    report["refused"] = str(error)
report |= {"rows": rows, "asked": toy.count, "batches": len(guest.loader(16)), "ledger": guest.hosted.ledger.total}
for number in (0, 1) if alone == "1" else (rank,):
    (folder / f"report-{number}.json").write_text(json.dumps(report))
if alone == "spawned" and rank == 0:
    sys.exit(other.wait())
