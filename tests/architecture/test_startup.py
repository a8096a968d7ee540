"""What is imported when: the command answers at once, and light rooms work without torch."""

from __future__ import annotations

import resource

from sources import fresh

BLOCKED = "import sys\nfor name in ('torch', 'transformers', 'transformer_lens'): sys.modules[name] = None\n"


def test_importing_depthsig_imports_nothing_heavy() -> None:
    fresh(
        "import sys, depthsig, depthsig.metrics\n"
        "assert len(depthsig.metrics.all_metrics()) > 70\n"
        "from depthsig.metrics import kl_divergence, topk_overlap, settling_depth, depth_score\n"
        "from depthsig import metric\n"
        "assert not {'torch', 'matplotlib', 'transformers'} & set(sys.modules)"
    )


def test_tables_comparison_signature_and_report_work_with_torch_blocked() -> None:
    fresh(
        BLOCKED + "import importlib, pkgutil\n"
        "for room in ('statistics', 'metrics', 'signature', 'tables', 'comparison', 'replication', 'report'):\n"
        "    package = importlib.import_module(f'depthsig.{room}')\n"
        "    for info in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(info.name)\n"
        "from depthsig import compare, Signature, Comparison"
    )


def test_help_answers_in_under_a_third_of_a_second() -> None:
    """Once among a few, in processor time: what counts is what the command costs, not what else the machine does."""
    code = "import sys; from depthsig.cli.main import main; sys.exit(main(['--help']))"
    fresh(code)
    taken = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        fresh(code)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if taken[-1] < 0.3:
            return
    raise AssertionError(taken)
