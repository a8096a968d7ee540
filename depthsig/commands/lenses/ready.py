"""What a lens is fitted to: a model, prompts as token ids, and what its record says of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from depthsig.checkpoint.fingerprint import fingerprint
from depthsig.checkpoint.translators import SCHEMA
from depthsig.engine.certificates import Certificate, Verdict, certify, judge
from depthsig.model import Model
from depthsig.prompts import TokenPrompt
from depthsig.signature.folders.choosing import IDENTITY, identity_of
from depthsig.signature.provenance import versions
from depthsig.untrusted import made_visible


@dataclass
class ReadyFit:
    """A model and prompts, ready to fit a lens of some kind.

    Attributes:
        asked: the options, as the record keeps them.
        certificates: those that were issued; none before :meth:`certified`.
    """

    model: Model
    prompts: list[TokenPrompt]
    kind: str
    asked: Mapping[str, Any]
    certificates: list[Certificate] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    @property
    def identity(self) -> str:
        """One word for the lens: checkpoint, prompts, options."""
        checkpoint = self.model.checkpoint
        made_of = {
            "checkpoint": checkpoint.content_hash or self._weights(), "dtype": str(self.model.dtype),
            "layers": list(self.model.plan.layers), "prompts": [p.tokens_sha256 for p in self.prompts],
        }  # fmt: skip
        own = {"kind": self.kind, "tokens": made_of["prompts"]}
        return identity_of({**made_of, **self.asked} if self.kind == "tuned" else {**made_of, **self.asked, **own})

    def _weights(self) -> list[Any]:
        """Of a model that came as an object: what it is called, and digests of its weights."""
        return [self.model.checkpoint.source, sorted(fingerprint(self.model.module).items())]

    def certified(self) -> Verdict:
        """Prove on some of the prompts that the numbers can be trusted.

        Raises:
            CertificateError: where they cannot.
        """
        self.certificates = list(certify(self.model, [p.ids for p in self.prompts]))
        return judge(self.certificates)

    def record(self, **found: Any) -> dict[str, Any]:
        """What ``lens.json`` says; ``found``: of the lens itself."""
        checkpoint = self.model.checkpoint
        kind = {} if self.kind == "tuned" else {"kind": self.kind}
        said = {
            "schema": SCHEMA, **kind,
            IDENTITY: self.identity,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "checkpoint": {"id": checkpoint.source, "content_hash": checkpoint.content_hash},
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "layers": list(self.model.plan.layers),
            "options": dict(self.asked),
            "certificates": [c.record() for c in self.certificates],
            **found,
            "seconds": round(time.perf_counter() - self.started, 3),
        }  # fmt: skip
        shown: dict[str, Any] = made_visible(said)
        return shown
