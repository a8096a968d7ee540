"""What ``replicate.json`` holds: every field that anything reads, with its type."""

from __future__ import annotations

from pydantic import Field

from depthsig.signature.records import Count, Index, Record, Scalar


class PutToTheTest(Record):
    """One claim as it was judged."""

    id: str
    experiment: str
    statement: str
    criterion: str
    control: str
    source: str
    against: str | float
    above: bool = True


class ReplicatedNetwork(Record):
    """One network that took part."""

    name: str
    role: str
    steps: Count
    checkpoint: str | None = None
    content_hash: str | None = None
    signatures: list[str] = Field(default_factory=list)


class ReplicatedPaper(Record):
    """Whose claims were judged."""

    id: str
    title: str
    authors: str
    year: Index


class ReplicatedExperiment(Record):
    """What claims are judged in one way."""

    id: str
    title: str
    about: str


class ReplicationRecord(Record):
    """``replicate.json``."""

    schema_: str = Field(alias="schema")
    created: str
    versions: dict[str, str]
    paper: ReplicatedPaper
    experiments: list[ReplicatedExperiment]
    claims: list[PutToTheTest]
    criteria_sha256: str
    networks: list[ReplicatedNetwork]
    roles_from: str = ""
    roles: dict[str, list[str]] = Field(default_factory=dict)
    options: dict[str, Scalar | list[str]]
    loading: dict[str, Scalar | dict[str, Scalar]] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
