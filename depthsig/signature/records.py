"""What the records of results hold, as ``signature.json``: every field that anything reads, with its type.

A record comes from a file that anybody may have written, so it is held to these types before anything else
sees it. Fields that no type is declared for are kept as they are; nothing reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from depthsig.errors import InputError, shown
from depthsig.metrics.entries.fields import read_entry
from depthsig.metrics.rules import CLAIM_STATEMENTS

MOST_STEPS = 1 << 15
"""Steps of a plan: 1024 passes, the most that can be asked for, of 32 layers."""

Index = Annotated[int, Field(ge=0, lt=1 << 24)]
Count = Annotated[int, Field(ge=1, lt=1 << 24)]
Seed = Annotated[int, Field(ge=0, lt=1 << 64)]
Amount = Annotated[int, Field(ge=0, lt=1 << 120)]
"""Parameters, bytes and operations: no model has more."""
Scalar = str | bool | int | float | None
Named = dict[str, Scalar]


class Record(BaseModel):
    """What all records have in common: strict types, fields that nobody reads left aside."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class RecordedStep(Record):
    """One executed step of the plan."""

    step: Index
    layer: Index
    iteration: Index | None = None
    span: str | None = None
    block: Index | None = None
    phase: Index | None = None
    outer: Index | None = None
    boundary: str | None = None


STEP_COLUMNS = ("step", "layer", "iteration", "span", "block", "phase")
"""What every step has, though it may be nothing."""


class RecordedSpan(Record):
    """A loop that runs or a declared span, in steps."""

    start: Index
    end: Count
    size: Count
    count: Count
    kind: str
    source: str
    executed: bool = True


class FoundBlock(Record):
    """A block that was found blindly, in layers."""

    start: Index
    size: Count
    count: Count


class Spans(Record):
    """What was declared, and where it is."""

    declared: Named = {}
    executed: list[RecordedSpan] = []
    labelled: list[RecordedSpan] = []
    found: list[FoundBlock] = []


class Pattern(Record):
    """A field of the config that differs from layer to layer."""

    name: str
    values: list[str]


class RecordedCheckpoint(Record):
    """What was measured."""

    id: str | None = None
    name: str
    kind: str | None = None
    revision: str | None = None
    content_hash: str | None = None
    family: str | None = None
    n_layers: Annotated[int, Field(ge=0, le=1 << 15)] | None = None
    vocabulary: Annotated[int, Field(ge=1, le=1 << 30)] | None = None
    layer_patterns: list[Pattern] = []


class RecordedCertificate(Record):
    """One proof with its number."""

    name: str
    value: float | None = None
    tolerance: float | None = None
    note: str = ""
    passed: bool


class RecordedCosts(Record):
    """What a token costs in inference, and what was spent on training; None where it is not known."""

    parameters: Amount
    parameters_without_embeddings: Amount
    parameters_read: Amount | None = None
    parameters_read_repeated: Amount | None = None
    matmul_flops: Amount | None = None
    attention_flops: Amount | None = None
    kv_bytes: Amount | None = None
    context: Count
    training_tokens: Amount | None = None
    training_flops: Amount | None = None
    notes: list[str] = []


class RecordedLens(Record):
    """A lens that was used."""

    path: str | None = None
    translators: Scalar = None
    content_hash: str | None = None


class RecordedCalibration(Record):
    """What the readouts of truncated runs were fitted on, and what was chosen for k = 1 .. S−1 steps."""

    prompts: Scalar = None
    objects: bool = False
    n: Index
    tokens: Index
    width: Index | None = None
    held_out: Index
    sha256: list[str] = []
    temperature: list[float] = []
    ridge: list[float | None] = []


class RandomState(Record):
    """The seed of a random initial state."""

    seed: Seed


class GivenPrompts(Record):
    """What was given as prompts."""

    name: Scalar = None
    objects: bool
    count: Index
    first: Count | None = None
    kept: bool = False


class GivenPlugin(Record):
    """A file of the user's own."""

    path: str
    sha256: str | None = None


class RecordedGiven(Record):
    """What makes the result again."""

    source: str | None = None
    why: str | None = None
    prompts: GivenPrompts
    plan: Named | None = None
    loading: dict[str, Scalar | Named] | None = None
    plugins: list[GivenPlugin] | None = None
    declared: list[str] | None = None


def _own_metrics(records: Any) -> Any:
    """Entries of a user's own metrics are read as the registry reads them."""
    if not isinstance(records, list):
        raise ValueError("it is no list")
    for record in records:
        read_entry(record)
    return records


OwnMetrics = Annotated[list[dict[str, Any]], BeforeValidator(_own_metrics)]


class SignatureRecord(Record):
    """``signature.json``."""

    schema_: str = Field(alias="schema")
    created: str | None = None
    versions: dict[str, str] = {}
    checkpoint: RecordedCheckpoint
    costs: RecordedCosts | None = None
    dtype: str | None = None
    device: str | None = None
    threads: Count | None = None
    seed: Seed = 0
    random_state: RandomState | None = None
    plan: Annotated[list[RecordedStep], Field(min_length=1, max_length=MOST_STEPS)]
    spans: Spans
    certificates: list[RecordedCertificate] = []
    control: str | None = None
    lens: RecordedLens | None = None
    jacobian_lens: RecordedLens | None = None
    calibration: RecordedCalibration | None = None
    options: dict[str, Scalar | list[Scalar] | Named]
    given: RecordedGiven | None = None
    metrics: OwnMetrics = []
    warnings: list[str] = []
    rows: dict[str, Index] = {}


class ComparedModel(Record):
    """One compared signature."""

    name: str
    role: str
    path: str | None = None
    checkpoint: Named
    content: str
    steps: Count
    declared: Named = {}
    prompts: Scalar = None
    n_prompts: Index


class ComparedPrompts(Record):
    """On what the signatures were compared."""

    n: Index
    same_tokens: bool


class ComparedProfiles(Record):
    """Which profiles took part."""

    compared: list[str]
    left_out: dict[str, str] = {}


class ComparedOptions(Record):
    """How they were compared."""

    seed: Seed = 0
    resamples: Index
    strict: bool = False
    reworded: dict[str, list[str]] = {}
    random_ablation: dict[str, list[str]] = {}


class ComparisonRecord(Record):
    """``compare.json``."""

    schema_: str = Field(alias="schema")
    created: str
    versions: dict[str, str]
    models: Annotated[list[ComparedModel], Field(min_length=2)]
    roles: dict[str, list[str]]
    roles_from: str
    options: ComparedOptions
    prompts: ComparedPrompts
    profiles: ComparedProfiles
    metrics: OwnMetrics = []
    warnings: list[str]


class StudiedCheckpoint(Record):
    """What was studied; a live model has no name of its own."""

    id: str | None = None
    content_hash: str | None = None


class RepeatRecord(Record):
    """``repeat.json``."""

    created: str | None = None
    versions: dict[str, str] = {}
    checkpoint: StudiedCheckpoint = StudiedCheckpoint()
    plan: str = ""
    tasks: list[str] = []
    span: str | None = None
    n: Index | None = None
    shots: Index = 0
    seed: Seed = 0
    max_tokens: Index | None = None


class LensDepth(Record):
    """What was fitted at one depth: held-out KL in nats with the plain and the tuned lens; of a Jacobian, its shape."""

    depth: Index
    layer: Index
    plain: float | None = None
    tuned: float | None = None
    kept: str = ""
    iteration: Index = 0
    phase: Index | None = None
    participation: float | None = None
    kurtosis: float | None = None
    cosine_to_next_pass: float | None = None


class LensTokens(Record):
    """How many tokens a lens was fitted to, how many were held out, and how many of those it was judged on."""

    train: Index
    held_out: Index = 0
    judged: Index = 0


class LensRecord(Record):
    """``lens.json``; ``kind``: ``tuned`` or ``jacobian``."""

    kind: str = "tuned"
    created: str | None = None
    versions: dict[str, str] = {}
    checkpoint: StudiedCheckpoint = StudiedCheckpoint()
    dtype: str | None = None
    options: dict[str, Scalar | list[Scalar] | Named] = {}
    certificates: list[RecordedCertificate] = []
    loss: str = ""
    n_prompts: Index = 0
    tokens: LensTokens
    depths: Annotated[list[LensDepth], Field(min_length=1, max_length=MOST_STEPS)]


class BlockRecord(Record):
    """One block that was found."""

    start: Index
    size: Count
    count: Count
    kind: str
    evidence: list[str]
    p_value: float | None = None
    note: str = ""


class BlocksRecord(Record):
    """``blocks.json``; ``layers``: the layer of every step."""

    created: str | None = None
    versions: dict[str, str] = {}
    checkpoint: str
    level: float
    layers: Annotated[list[Index], Field(min_length=1, max_length=MOST_STEPS)]
    blocks: list[BlockRecord] = []
    p_values: dict[str, float] = {}
    notes: list[str] = []
    options: dict[str, Scalar | list[Scalar] | Named] = {}


CLAIMS = tuple(CLAIM_STATEMENTS)
VERDICTS = tuple(dict.fromkeys(verdict for said in CLAIM_STATEMENTS.values() for verdict in said))
"""What ``claim`` and ``verdict`` of the table of claims may say."""


Kind = TypeVar("Kind", bound=Record)


def as_record(info: Mapping[str, Any], kind: type[Kind]) -> Kind:
    """A record with everything that is declared of it, what it leaves out at its default.

    Raises:
        InputError: naming the field that is missing or of another type, and what was found.
    """
    try:
        return kind.model_validate(info)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    place = ".".join(str(piece) for piece in first["loc"])
    if first["type"] == "missing":
        raise InputError(f"{shown(place)} is missing")
    says = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    raise InputError(f"{shown(place)} is {shown(first['input'], 40)}; {says}")


PASSED = ("yes", "no", "not tested")
STRICT = ("stands", "falls", "untested")
"""What a unit test of a claim may say, and all of its tests together."""
