"""Measured constants of a forecast: what takes time and is not the model's own arithmetic.

Seconds of processor time on the machine of reference (one core of a Xeon at 2.1 GHz, one thread), on which
:func:`machine` is 1; elsewhere they are scaled by it. All were measured by ``tests/benchmarks/forecast.py``, which
prints what was said beside what was taken, stage by stage: run it again after a change that makes a stage cheaper.
"""

from __future__ import annotations

import json
import time

import numpy as np

REFERENCE = 0.0095
"""Seconds that :func:`_workload` takes on the machine of reference."""

START = 8.0
"""Imports of a fresh process: torch, transformers, pandas, matplotlib."""

# Certificates, beside their forwards and readouts.
CERTIFICATE, CERTIFICATE_STEP = 0.2, 0.007

# The control: drawing a weight, and finding the layers and tracing a forward of the model that was built.
DRAW_WEIGHT, TRACE, TRACE_STEP = 1.0e-8, 0.15, 0.005

# Tables: a quantity (a metric with its part, scope and aggregation), a bootstrapped cell and prompt, a row of
# per-prompt values, a row of tokens.
QUANTITY, CELL, SAMPLE_ROW, TOKEN_ROW = 0.003, 5.0e-6, 7.0e-7, 1.0e-5
PERIOD_PROFILE, PERIOD_MATRIX = 0.03, 0.03
"""A period test with its interval."""

# Drawing: a figure of each kind as the page shows it, and the page.
FIGURES = {"profile": 0.11, "heatmap": 0.19, "token_map": 0.3, "top_tokens": 0.66, "trajectories": 0.13}
OTHER_FIGURE, PAGE, SAVED_ROW = 0.15, 0.5, 2.0e-6

# Recalibrated readouts, at every k: readouts of all calibration tokens for a temperature, readouts there and back for
# an affine map, what one of these takes beside a readout alone, and eigenvectors a width cubed.
TEMPERATURE_READOUTS, MAP_READOUTS, THERE_AND_BACK, EIGENVECTORS = 7, 70, 2.2, 6.0e-9

# The schedule beside steps and readouts, by the name of the job: filing values, building rows, masks.
OVERHEAD = {
    "skip": 1.1, "maintained": 1.1, "local": 1.1, "order": 1.1, "repeat": 1.1, "truncation": 1.1, "erasure": 1.15,
    "attribution": 1.5,
}  # fmt: skip
EFFECTIVE, EFFECT = ("skip", "maintained", "local"), 2.0
"""Effects on later updates: masks and sums beside the metric's own function."""


def machine() -> float:
    """How much slower than the machine of reference this one is at Python and small arrays: the best of a few."""
    return min(_workload() for _ in range(3)) / REFERENCE


def _workload() -> float:
    started = time.process_time()
    values = {str(i): [float(i), i % 7] for i in range(4000)}
    text = json.dumps(values)
    json.loads(text)
    points = np.linspace(0, 1, 20_000).reshape(-1, 20)
    for _ in range(20):
        np.sort(points, axis=1).mean(0)
    return time.process_time() - started
