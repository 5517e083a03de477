"""The curves of a training run, as a picture."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(work: Path) -> Path:
    """WORK/curves.png: the loss of each epoch, a panel for each stage that is in WORK."""
    stages = sorted(work.glob("*/run.json"))
    figure, panels = plt.subplots(1, max(1, len(stages)), figsize=(4.5 * max(1, len(stages)), 3.2), squeeze=False)
    for panel, path in zip(panels[0], stages, strict=False):
        curve = json.loads(path.read_text())["curve"]
        panel.plot([point["epoch"] for point in curve], [point["loss"] for point in curve], marker="o", markersize=3)
        panel.set_title(path.parent.name)
        panel.set_xlabel("epoch")
        panel.set_ylabel("mean training loss a text")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    figure.tight_layout()
    target = work / "curves.png"
    figure.savefig(target, dpi=120)
    plt.close(figure)
    return target
