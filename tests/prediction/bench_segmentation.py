"""The full network for VOC on a picture of 500 × 500 pixels: time and memory.

In a process of its own, with all cores. ``make bench`` runs it.
"""

import os
import subprocess
import sys

CODE = """
import time
import torch
from PIL import Image
from skimage import data
import dilated_lib as dl

network = dl.networks.dilation8_pascal_voc()
photo = Image.fromarray(data.astronaut()[:500, :500])
begin = time.perf_counter()
found = dl.predict(photo, network)
seconds = time.perf_counter() - begin
with open("/proc/self/status") as status:
    peak = next(line for line in status if line.startswith("VmHWM")).split()[1]
assert found.labels.shape == (500, 500)
print(seconds, int(peak) / 2**20, torch.get_num_threads())
"""


def test_a_picture_through_the_full_network_takes_seconds_and_little_memory():
    machine = {name: one for name, one in os.environ.items() if name[:3] != "OMP"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=machine
    )
    assert not done.returncode, done.stderr
    seconds, peak, threads = map(float, done.stdout.split())
    print(f"{seconds:.1f} s, at most {peak:.2f} GiB, {threads:.0f} threads")
    assert seconds < 60 and peak < 6
