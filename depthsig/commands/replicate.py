"""Put a paper's claims to the test: measure the networks of each role, judge by criteria fixed beforehand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from depthsig.arguments import check_arguments
from depthsig.checkpoint.loading import LoadOptions
from depthsig.commands.analysis.record import recorded_warnings
from depthsig.commands.analyze import analyze
from depthsig.commands.opening import ready_prompts
from depthsig.commands.replicating.pieces import Pieces
from depthsig.commands.replicating.pruned_steps import pruning_runs
from depthsig.commands.replicating.repeated_block import BLOCK, repeat_runs
from depthsig.commands.replicating.solved_examples import shots_runs
from depthsig.commands.replicating.taking_part import Key, Member, joined, read_members, roles_typed
from depthsig.engine.memory import parse_memory
from depthsig.errors import CertificateError, InputError
from depthsig.measure.request import Names, as_tuple, check_least
from depthsig.metrics import entry
from depthsig.model import Model
from depthsig.progress import Progress
from depthsig.prompts.primitives import TASKS
from depthsig.replication.claim_tests import claim_tests
from depthsig.replication.criteria import Claim, as_record, criteria, criteria_hash
from depthsig.replication.gathered import Gathered
from depthsig.replication.held_quantities import held_table
from depthsig.replication.judging import judge
from depthsig.replication.members import TrainedNetwork, alike, means
from depthsig.replication.needs import (
    PRIMITIVE,
    WORD_PROBLEMS,
    Wanted,
    concerning,
    measured,
    prompts_of,
    wanted,
    wanted_runs,
)
from depthsig.signature import Signature
from depthsig.signature.folders.choosing import IDENTITY, identity_of
from depthsig.signature.folders.kinds import REPLICATION
from depthsig.signature.folders.writing import ensure_writable
from depthsig.signature.provenance import versions
from depthsig.signature.replications.replication import RUN_COLUMNS, SCHEMA, Replication
from depthsig.signature.tested import TestedSpan, choose_span
from depthsig.statistics.resampling import RESAMPLES
from depthsig.untrusted import made_visible

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Amounts:
    """How much is measured.

    Attributes:
        prompts, max_tokens: of an analysis. items: of each task. chosen_on: prompts that steps to leave out are
            chosen on.
    """

    prompts: int = 20
    max_tokens: int = 256
    items: int = 100
    chosen_on: int = 16


FEW = Amounts(prompts=8, max_tokens=64, items=20, chosen_on=4)
RUN_ROWS = {name: kind for name, kind in RUN_COLUMNS.items() if name != "network"}
"""Columns of one network's runs."""


def replicate(
    paper: str, *, roles: str | Mapping[str, Any] | None = None, only: Names | None = None, quick: bool = False,
    dtype: str | torch.dtype | None = None, device: str = "auto", device_map: str | dict[str, Any] | None = None,
    revision: str | None = None, trust_remote_code: bool = False, allow_pickle: bool = False,
    memory: str | int = "4GiB", seed: int = 0, resamples: int = RESAMPLES, out: str | Path | None = None,
    resume: bool = False, progress: bool | Progress | None = None,
) -> Replication:  # fmt: skip
    """Put a paper's claims to the test on networks given by their roles.

    Criteria are fixed beforehand: they are data of the package, and their hash is recorded. What tables
    can tell is read from results folders where these are given; the rest is measured on checkpoints.

    Args:
        paper: its arXiv number: ``2602.16490``, ``2512.08819`` or ``2505.13898``.
        roles: who is who: ``{"looped": "path", "midas": [...], "baseline": [...]}`` with checkpoints (anything
            that :func:`depthsig.load` takes), models, signatures or results folders; or the command's text
            ``looped=A+B,midas=C,baseline=D``. Roles are looped, midas, lidas, grown and baseline, each also
            with ``-before`` and ``-after`` (of fine-tuning, say). A checkpoint's order or labels follow it
            in brackets: ``PATH[order=0:4,4:8x4,8:12]``, ``PATH[grown=0:24/4]``. Default: the reference family.
        only: experiments, as ``E4,E8``. Default: all that the paper's claims are about.
        quick: 8 prompts of at most 64 tokens and 20 items a task, instead of 20, 256 and 100.
        dtype, device, device_map: how and where checkpoints are loaded, as for :func:`depthsig.analyze`.
        revision, trust_remote_code, allow_pickle: as for :func:`depthsig.analyze`, for every checkpoint.
        memory: to use beside a model, in bytes or as ``4GiB``.
        seed: of generated prompts and of the bootstrap. resamples: how many.
        out: folder to save everything in; checked before anything is measured.
        resume: go on from what an interrupted run with the same ``out`` left.
        progress: show how far it is (the default): bars, or a line every half minute.

    Raises:
        InputError: for an unknown paper, experiment or role, networks that cannot be opened, or a network
            that is given twice.
    """
    check_arguments(replicate, locals())
    parse_memory(memory)
    check_least("resamples", resamples, 1)
    if out is not None:
        ensure_writable(out, REPLICATION)
    job = asked(
        paper, roles=roles, only=only, quick=quick, dtype=dtype, device=device, device_map=device_map,
        revision=revision, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle, memory=memory, seed=seed,
        resamples=resamples,
    )  # fmt: skip
    found = job.run(None if out is None else lambda *_: out, resume, Progress.of(progress))
    if out is not None:
        found.save(out)
    return found


def asked(
    paper: str, *, roles: str | Mapping[str, Any] | None, only: Names | None, quick: bool,
    dtype: str | torch.dtype | None, device: str, device_map: str | dict[str, Any] | None, revision: str | None,
    trust_remote_code: bool, allow_pickle: bool, memory: str | int, seed: int, resamples: int = RESAMPLES,
) -> Replicating:  # fmt: skip
    """What :func:`replicate` is asked for, read; nothing is opened yet."""
    experiments = as_tuple(only) if only else ()
    chosen = criteria().of_paper(paper, experiments)
    loading = LoadOptions(dtype, device, device_map, revision, trust_remote_code, allow_pickle)
    members = read_members(roles, loading)
    whose = "as given" if roles else "the reference family"
    return Replicating(paper, chosen, members, quick, memory, seed, resamples, loading, experiments, whose)


Place = Callable[[str, str], "str | Path"]
"""From a result's name and its identity to the folder that will be written."""


@dataclass
class Replicating:
    """A replication that was asked for.

    Attributes:
        only: experiments, as they were asked for; empty: all of the paper.
    """

    paper: str
    claims: Sequence[Claim]
    members: list[Member]
    quick: bool
    memory: str | int
    seed: int
    resamples: int
    loading: LoadOptions
    only: tuple[str, ...]
    roles_from: str
    made: dict[str, Signature] = field(default_factory=dict)
    roles: dict[str, list[str]] = field(default_factory=dict)
    block: int = 0

    @property
    def sizes(self) -> Amounts:
        """How much is measured."""
        return FEW if self.quick else Amounts()

    @property
    def identity(self) -> str:
        """One word for what was asked for: what is known of it before anything is measured."""
        asked = {
            "paper": self.paper, "criteria": criteria_hash(self.claims), "roles": self.roles, "quick": self.quick,
            "loading": self.loading.record(), "seed": self.seed, "resamples": self.resamples,
        }  # fmt: skip
        return identity_of(asked)

    def run(self, place: Place | None, resume: bool, show: Progress) -> Replication:
        """Measure what is lacking, judge, and say what was done.

        Args:
            place: where the result goes, beside which unfinished work is kept. None: nowhere.
        """
        self.roles = roles_typed(self.members)  # before folders join the checkpoints that they are of
        with recorded_warnings() as messages:
            units = Pieces(None if place is None else place(f"replicate-{self.paper}", self.identity), resume)
            units.tell(self.identity)
            try:
                evidence = self.gather(units, show)
                networks, runs = evidence.networks, evidence.runs
                with show.stage("claims", len(self.claims)) as tick:
                    judged = judge(evidence, self.claims, tick)
                    tested = claim_tests(evidence, self.claims, judged.claims)
                held = held_table(networks, [*dict.fromkeys(n.role for n in networks), "grown"])
            except InputError:
                units.clear()
                raise
            except BaseException:
                units.leave()
                raise
        said = [why for network in networks for why in network.reasons.values()]
        info = self._record(networks, [*alike(networks), *said, *messages])
        return Replication(info, judged.claims, judged.networks, judged.curves, held, tested, runs, dict(self.made))

    def gather(self, units: Pieces, show: Progress) -> Gathered:
        """Measure what is lacking: everything that the claims are judged by, of which nothing is judged yet."""
        networks, frames = [], []
        names: list[str] = []
        # Checkpoints first: they join their folders; baselines last: their blocks are as long as those of the others.
        taking_part = [m for m in self.members if self._named(m.role)]
        order = sorted(taking_part, key=lambda m: (m.given is None, m.role.startswith("baseline")))
        for member in order:
            if member.given is not None:
                network, runs = self._measured(member, names, units, show)
                frames += runs
            elif member.signatures:
                network = _network(member, _unique(str(member.signatures[0].info["checkpoint"]["name"]), names))
            else:
                continue  # its folders joined a checkpoint
            networks.append(network)
        empty = pd.DataFrame(columns=list(RUN_COLUMNS))
        runs = pd.concat([f for f in frames if len(f)], ignore_index=True) if frames else empty
        return Gathered(tuple(networks), runs, self.seed, self.resamples)

    def _named(self, role: str) -> bool:
        """Whether any claim is about networks of a role."""
        return any(means(one, role) for claim in self.claims for named in claim.roles for one in claim.arms(named))

    def _measured(
        self, member: Member, names: list[str], units: Pieces, show: Progress
    ) -> tuple[TrainedNetwork, list[pd.DataFrame]]:
        """A checkpoint: analyses of what its results folders lack, and the runs beside them.

        What cannot be measured of it is no reason to measure nothing of the others: the claims say why.
        """
        assert member.given is not None
        model = member.given.open(self.seed, show)
        key: Key = (
            str(model.checkpoint.content_hash or id(model)), tuple(int(layer) for layer in model.plan.layers)
        )  # fmt: skip
        joined(self.members, member, key)
        name = _unique(model.checkpoint.name, names)
        network = _network(member, name, model)
        self.block = self.block or (network.span.block if network.span is not None else 0)
        claims = concerning(self.claims, network, {m.role for m in self.members})
        stamp = [
            *key, model.plan.spans, str(model.dtype), versions()["depthsig"], self.seed, self.sizes, self.block,
        ]  # fmt: skip
        reasons: dict[str, str] = {}
        for one in wanted(claims, spans=network.span is not None):
            lacking = one.lacking(member.signatures)
            if lacking is None:
                continue
            most = self._max_tokens(lacking)
            at = f"{name}-{one.prompts}"
            try:
                signature = units.signature(
                    at, [*stamp, lacking, most], partial(self._analysis, model, lacking, most, show)
                )  # fmt: skip
            except (InputError, CertificateError) as error:
                reasons[one.prompts] = f"{name}: {error}"
                continue
            member.signatures = [*member.signatures, signature]
            self.made[_unique(re.sub(r"[^\w.,() -]+", "-", at)[-100:].strip(". "), list(self.made))] = signature
        frames, cut = [], ""
        for kind in wanted_runs(claims):
            try:
                frame = units.table(
                    f"{name}-{kind}", [*stamp, kind], RUN_ROWS, partial(self._runs, model, network.span, kind, show)
                )
                cut = cut or _tokens(model, self.seed)
            except InputError as error:
                reasons[kind] = f"{name}: {error}"
                continue
            if len(frame):
                frames.append(frame.assign(network=name))
        return replace(network, signatures=tuple(member.signatures), tokens=cut, reasons=reasons), frames

    def _max_tokens(self, want: Wanted) -> int:
        """Where prompts are cut: as in results folders of others that answer the same, so that they can be paired."""
        for member in self.members:
            for one in member.signatures:
                if prompts_of(one) == want.prompts and any(n.held(one, measured(one)) for n in want.needs):
                    return int(one.info["options"].get("max_tokens", self.sizes.max_tokens))
        return self.sizes.max_tokens

    def _analysis(self, model: Model, want: Wanted, max_tokens: int, show: Progress) -> Signature:
        """One analysis. Without a span, blocks that are exchanged are as long as those of the other networks."""
        control = want.control and bool(model.plan.spans)
        blocks = any(entry(name).rows == "block" for name in want.metrics)
        if blocks and not model.plan.spans:
            block, layers = self.block or BLOCK, len(model.anatomy.layers)
            model = model.relabelled(grown=f"0:{layers // block * block}/{block}") if layers >= 2 * block else model
        metrics = [*want.metrics, *(["period"] if control else [])]
        return analyze(
            model, want.prompts, n=self.sizes.prompts, max_tokens=max_tokens, metrics=metrics,
            parts=want.parts, scopes=want.scopes, control=None if control else False, memory=self.memory,
            seed=self.seed, progress=show,
        )  # fmt: skip

    def _runs(self, model: Model, span: TestedSpan | None, kind: str, show: Progress) -> pd.DataFrame:
        sizes = self.sizes
        if kind == "repeat":
            return repeat_runs(
                model, span, list(TASKS), block=self.block or BLOCK, n=sizes.items, seed=self.seed, max_tokens=256,
                memory=self.memory, show=show,
            )  # fmt: skip
        if kind == "pruning":
            prompts = ready_prompts(
                WORD_PROBLEMS, model, n_named=sizes.prompts + sizes.chosen_on, max_tokens=sizes.max_tokens,
                seed=self.seed,
            ).tokens  # fmt: skip
            measured_on, chosen_on = prompts[: sizes.prompts], prompts[sizes.prompts :]
            return pruning_runs(model, chosen_on, measured_on, WORD_PROBLEMS, memory=self.memory, show=show)
        return shots_runs(
            model, list(TASKS), n=sizes.items, seed=self.seed, max_tokens=256, memory=self.memory, show=show
        )

    def _record(self, networks: Sequence[TrainedNetwork], messages: Sequence[str]) -> dict[str, Any]:
        told = criteria()
        paper = told.papers[self.paper]
        experiments = dict.fromkeys(c.experiment for c in self.claims)
        info = {
            "schema": SCHEMA, IDENTITY: self.identity,
            "created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions(),
            "paper": {"id": paper.id, "title": paper.title, "authors": paper.authors, "year": paper.year},
            "experiments": [vars(told.experiments[e]) for e in experiments],
            "claims": [as_record(c) for c in self.claims], "criteria_sha256": criteria_hash(told.of_paper(self.paper)),
            "networks": [_told(n) for n in networks], "roles_from": self.roles_from, "roles": self.roles,
            "options": {
                "quick": self.quick, "seed": self.seed, "resamples": self.resamples, "only": list(self.only),
                "memory": str(self.memory), **vars(self.sizes),
            },
            "loading": self.loading.record(),
            "warnings": list(dict.fromkeys(messages)),
        }  # fmt: skip
        made: dict[str, Any] = made_visible(info)
        return made


def _network(member: Member, name: str, model: Model | None = None) -> TrainedNetwork:
    info = next((s.info for s in member.signatures), None)
    if model is not None:
        spans = [{"start": s.start, "end": s.end, "size": s.size, "count": s.count, "kind": s.kind,
                  "executed": s.executed, "source": s.source} for s in model.plan.spans]  # fmt: skip
        info = {
            "spans": {"executed": [s for s in spans if s["kind"] == "loop" and s["executed"]],
                      "labelled": [s for s in spans if s["kind"] != "loop" or not s["executed"]]},
            "plan": model.plan.records(),
        }  # fmt: skip
    assert info is not None  # a member has a checkpoint or a signature
    looped = sum(s["end"] - s["start"] for s in info["spans"].get("executed", ()))
    labelled = [info, *([] if model is not None else [s.info for s in member.signatures])]
    span = next((found for one in labelled if (found := choose_span(one)) is not None), None)
    contents = [model.checkpoint.content_hash] if model is not None else []
    contents += [s.info["checkpoint"].get("content_hash") for s in member.signatures]
    content = next(filter(None, contents), "")
    return TrainedNetwork(
        name, member.role, len(info["plan"]), span, looped, tuple(member.signatures), model is not None, content
    )


def _tokens(model: Model, seed: int) -> str:
    """A hash of how a tokenizer cuts questions."""
    some = ready_prompts(PRIMITIVE, model, n_named=4, seed=seed).tokens
    return hashlib.sha256("".join(p.tokens_sha256 for p in some).encode()).hexdigest()


def _told(network: TrainedNetwork) -> dict[str, Any]:
    """A network as the record keeps it."""
    return {
        "name": network.name, "role": network.role, "steps": network.steps,
        "checkpoint": network.name if network.checkpoint else None, "content_hash": network.content or None,
        "signatures": [f"{s.info['checkpoint']['name']} on {prompts_of(s)}" for s in network.signatures],
    }  # fmt: skip


def _unique(name: str, names: list[str]) -> str:
    """A name that nobody has yet."""
    number, found = 2, name
    while found in names:
        found = f"{name} ({number})"
        number += 1
    names.append(found)
    return found
