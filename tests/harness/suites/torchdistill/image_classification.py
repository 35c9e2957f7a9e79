"""What a user types for torchdistill's image-classification script, which its wheel leaves out, stated anew."""

import argparse

from torchdistill.common.main_util import import_dependencies
from torchdistill.common.yaml_util import load_yaml_file
from torchdistill.models.registry import get_model

from mekd_plugin.harness.torchdistill import train

parser = argparse.ArgumentParser()
parser.add_argument("--config", required=True)
parser.add_argument("--run_log")
parser.add_argument("--device", default="cuda")
parser.add_argument("--start_epoch", type=int, default=0)
parser.add_argument("--seed", type=int)
args = parser.parse_args()
assert args.device == "cpu", "no GPU"

config = load_yaml_file(args.config)
import_dependencies(config["dependencies"])
models = config["models"]
teacher, student = (
    get_model(key=models[role]["key"], **models[role]["kwargs"]) for role in ("teacher_model", "student_model")
)
train(teacher, student, config, start_epoch=args.start_epoch)
