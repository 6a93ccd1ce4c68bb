"""The tables, as typed models. Only the catalog's own modules and the migrations import them."""

from registry.catalog.models.activity import BuildAdapterRow, BuildItemRow, BuildRow, QueryHitRow, QueryRow
from registry.catalog.models.api_keys import ApiKeyRow
from registry.catalog.models.artifacts import (
    AdapterInputRow,
    AdapterLocationRow,
    AdapterRow,
    AugmentationRequestRow,
    AugmentationRow,
    BaseModelRow,
    DocumentRow,
    PackRow,
    RecipeRow,
    SourceRow,
    TaskAdapterQuestionRow,
    TaskAdapterRow,
    TrainedColumns,
)
from registry.catalog.models.base import Base, utc_now
from registry.catalog.models.corpora import (
    AliasMoveRow,
    AliasRow,
    CorpusRow,
    MembershipRow,
    PinRow,
    PlaceRow,
    VersionRow,
)
from registry.catalog.models.evaluations import EvaluationResultRow, EvaluationRow, EvaluationScoreRow
from registry.catalog.models.remotes import RemoteLocationRow, RemoteNameRow, RemotePackRow, RemoteRow

__all__ = [
    "AdapterInputRow",
    "AdapterLocationRow",
    "AdapterRow",
    "AliasMoveRow",
    "AliasRow",
    "ApiKeyRow",
    "AugmentationRequestRow",
    "AugmentationRow",
    "Base",
    "BaseModelRow",
    "BuildAdapterRow",
    "BuildItemRow",
    "BuildRow",
    "CorpusRow",
    "DocumentRow",
    "EvaluationResultRow",
    "EvaluationRow",
    "EvaluationScoreRow",
    "MembershipRow",
    "PackRow",
    "PinRow",
    "PlaceRow",
    "QueryHitRow",
    "QueryRow",
    "RecipeRow",
    "RemoteLocationRow",
    "RemoteNameRow",
    "RemotePackRow",
    "RemoteRow",
    "SourceRow",
    "TaskAdapterQuestionRow",
    "TaskAdapterRow",
    "TrainedColumns",
    "VersionRow",
    "utc_now",
]
