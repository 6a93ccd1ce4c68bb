"""What the Hub refuses and warns of in the metadata of a README.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_LICENCES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m"
    " afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0"
    " cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0"
    " cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0"
    " cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl"
    " gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr"
    " mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr"
    " deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4"
    " grok2-community gemma unknown other"
)
LICENCES = frozenset(_LICENCES.split())
PIPELINES = {"text-generation", "question-answering", "feature-extraction", "text2text-generation", "other"}
_FRONT = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MODEL = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?", re.ASCII)


def metadata(content: str) -> Any:
    """Return the YAML at the start of a README.md, None where there is none; ValueError if it cannot be read."""
    import yaml  # comes with huggingface_hub

    found = _FRONT.match(content)
    if found is None:
        return None
    try:
        return yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        raise ValueError(f"YAML Metadata Error: {error}") from error


def judge(content: str) -> tuple[list[str], list[str]]:
    """Return the errors and the warnings about a README.md."""
    try:
        found = metadata(content)
    except ValueError as error:
        return [str(error)], []
    if not found:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(found, dict):
        return ["YAML Metadata Error: it must be a mapping"], []
    return list(_errors(found)), list(_warnings(found))


def _errors(found: dict[str, Any]) -> Iterator[str]:
    for licence in _listed(found.get("license")):
        if licence not in LICENCES:
            yield f'"license" must be one of [{", ".join(sorted(LICENCES))}]'
    for model in _listed(found.get("base_model")):
        if not isinstance(model, str) or not _MODEL.fullmatch(model):
            yield f'"base_model" with value "{model}" is not valid. Use a model id from https://hf.co/models.'
    for language in _listed(found.get("language")):
        if not isinstance(language, str) or not re.fullmatch("[a-z]{2,3}(-[A-Za-z0-9]+)*|code|multilingual", language):
            yield f'"language" with value "{language}" is not valid. It must be an ISO 639-1, 639-2 or 639-3 code'
    tags = found.get("tags")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        yield '"tags" must be an array of strings'
    for key in ("library_name", "pipeline_tag", "license_name", "license_link", "base_model_relation"):
        if key in found and not isinstance(found[key], str):
            yield f'"{key}" must be a string'
    for data in _listed(found.get("datasets")):
        if not isinstance(data, str) or not _MODEL.fullmatch(data):
            yield f'"datasets" with value "{data}" is not valid. Use a dataset id from https://hf.co/datasets.'
    if "model-index" in found:
        yield from _model_index(found["model-index"])


def _model_index(index: Any) -> Iterator[str]:
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for number, model in enumerate(index):
        where = f"model-index[{number}]"
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            yield f'"{where}.name" is required'
            continue
        if not isinstance(model.get("results"), list):
            yield f'"{where}.results" is required'
            continue
        for place, result in enumerate(model["results"]):
            yield from _result(result, f"{where}.results[{place}]")


def _result(result: Any, where: str) -> Iterator[str]:
    if not isinstance(result, dict):
        yield f'"{where}" must be an object'
        return
    wanted = {"task": ("type",), "dataset": ("type", "name")}
    for key, needed in wanted.items():
        part = result.get(key)
        for name in needed:
            if not isinstance(part, dict) or not isinstance(part.get(name), str):
                yield f'"{where}.{key}.{name}" is required'
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        yield f'"{where}.metrics" is required'
        return
    for number, metric in enumerate(metrics):
        for name in ("type", "value"):
            if not isinstance(metric, dict) or metric.get(name) is None:
                yield f'"{where}.metrics[{number}].{name}" is required'


def _warnings(found: dict[str, Any]) -> Iterator[str]:
    pipeline = found.get("pipeline_tag")
    if isinstance(pipeline, str) and pipeline not in PIPELINES:
        yield f'The pipeline tag "{pipeline}" is not in the official list'


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
