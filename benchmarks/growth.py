"""What 8, 64 and 512 GPUs would do, on paper: from times measured on one, bytes read from programs, published links.

    python -m benchmarks.growth

No such cluster has been used. An iteration takes as long as the work of one device, measured on an H200
(`results/accelerator_nvidia-h200_a_b_d_f.json`), and its collectives, one after the other: each a latency, and
2 (N - 1) / N times its bytes over the slowest link (all-gather: (N - 1) / N), bytes and numbers from
`benchmarks.device_scaling`. Nothing overlaps.

strong  10,240 tasks of ProMP in all; a device's time for fewer is a line through those measured for 40, 640 and 10,240
weak    every device does what the one did: 10,240 tasks, 4,096 trials, 4,096 members
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
GPUS = (1, 8, 64, 512)
HOST = 8  # GPUs that NVLink joins
# Bytes a second in one direction, of one GPU. NVLink 4: 900 GB/s both ways. One 400 Gb/s NDR port a GPU.
NVLINK, NETWORK = 450e9, 50e9
LATENCY, PER_DOUBLING = 10e-6, 5e-6  # seconds of a collective within a host, and for each doubling of hosts: assumed
COLUMNS = {
    "work": "", "gpus": ",d", "compute_ms": ",.1f", "exchange_ms": ",.2f", "speedup": ",.1f", "efficiency": ".0%",
}  # fmt: skip


def measured() -> dict[str, float]:
    """Seconds an iteration on one H200."""
    rows = json.loads((RESULTS / "accelerator_nvidia-h200_a_b_d_f.json").read_text())["rows"]
    return {r["work"]: r["run_s"] / (r.get("iterations") or 1) for r in rows if r.get("run_s")}


def collectives(work: str) -> dict[str, tuple[float, float]]:
    """{collective: (number, bytes)} an iteration, of the program for two devices."""
    rows = json.loads((RESULTS / "device_scaling_cpu.json").read_text())["rows"]
    row = next(r for r in rows if (r["work"], r["devices"], r["processes"]) == (work, 2, 1))
    return {name: (number, size) for name, (number, size) in row["all"][0]["exchanged"].items()}


def exchange(found: dict[str, tuple[float, float]], gpus: int, larger: float = 1.0) -> float:
    """Seconds of the collectives on so many GPUs; what is gathered is `larger` times what was read, on one GPU."""
    if gpus == 1:
        return 0.0
    latency = LATENCY + PER_DOUBLING * math.log2(max(1, gpus // HOST))
    link = NVLINK if gpus <= HOST else NETWORK
    total = 0.0
    for name, (number, size) in found.items():
        times = 1 if name == "all-gather" else 2
        bytes_moved = size * (larger if name == "all-gather" else 1) * times * (gpus - 1) / gpus
        total += number * latency + bytes_moved / link
    return total


def line(times: dict[str, float]) -> tuple[float, float]:
    """(seconds that any number of tasks takes, seconds a task) of a ProMP iteration: relative errors least."""
    tasks = np.array([40, 640, 10240])
    seconds = np.array([times[f"ProMP iteration, {n} tasks"] for n in tasks])
    rows = np.stack([np.ones(3), tasks], axis=1) / seconds[:, None]
    fixed, each = np.linalg.lstsq(rows, np.ones(3), rcond=None)[0]
    return float(fixed), float(each)


def rows() -> list[dict[str, Any]]:
    times = measured()
    promp, rl2 = collectives("promp"), collectives("rl2")
    fixed, each = line(times)
    found = []

    def add(work: str, gpus: int, compute: float, talk: float, alone: float, share: float) -> None:
        speedup = share * alone / (compute + talk)
        found.append(
            {
                "work": work, "gpus": gpus, "compute_ms": 1e3 * compute, "exchange_ms": 1e3 * talk,
                "speedup": speedup, "efficiency": speedup / gpus,
            }
        )  # fmt: skip

    for gpus in GPUS:
        compute = fixed + each * 10240 / gpus
        add("ProMP, 10,240 tasks in all", gpus, compute, exchange(promp, gpus), fixed + each * 10240, 1)
    for gpus in GPUS:
        alone = times["ProMP iteration, 10240 tasks"]
        add("ProMP, 10,240 tasks each", gpus, alone, exchange(promp, gpus), alone, gpus)
    for gpus in GPUS:
        alone = times["RL2 gru, trials of 100"]
        add("RL2, 4,096 trials of 100 each", gpus, alone, exchange(rl2, gpus, 4096 / 400 * gpus), alone, gpus)
    for gpus in GPUS:
        alone = times["PPO CartPole, 4096 members"]
        add("PPO, 4,096 members each", gpus, alone, 0.0, alone, gpus)
    return found


def main() -> None:
    from benchmarks import common

    found = rows()
    print(common.table(found, COLUMNS))
    fixed, each = line(measured())
    print(f"\na ProMP iteration on one H200: {1e3 * fixed:.1f} ms and {1e6 * each:.1f} us a task")


if __name__ == "__main__":
    main()
