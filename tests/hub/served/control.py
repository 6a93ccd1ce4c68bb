"""The control interface, ``/_control/...``: no part of the Hub, for tests to look, to tamper and to order faults."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from tests.hub.served.faults import Chance, Faults, Rule
from tests.hub.served.messages import Answer, Log, Request, Stored, of_json
from tests.hub.served.repositories import Entry, Hub, Refusal, Repository
from tests.hub.served.settings import Settings


class Control:
    def __init__(self, hub: Hub, settings: Settings, faults: Faults, log: Log) -> None:
        self.hub, self.settings, self.faults, self.log = hub, settings, faults, log
        self._defaults = replace(settings)

    def route(self, request: Request) -> tuple[str, Callable[[], Answer]] | None:
        if request.parts[0] != "_control":
            return None
        name = "_".join(request.parts[1:]).replace("-", "_")
        work: Callable[[dict[str, Any]], Any] | None = getattr(self, f"on_{name}", None)

        def run() -> Answer:
            if work is None:
                raise Refusal(404, f"no control {name}")
            try:
                found = work({**request.query, **request.json()})
            except (KeyError, ValueError, TypeError) as error:
                raise Refusal(400, f"{type(error).__name__}: {error}") from error
            return found if isinstance(found, Answer) else of_json(found)

        return "control", run

    def on_reset(self, given: dict[str, Any]) -> Any:
        """Forget repositories, faults, counters and settings."""
        self.faults.clear()
        with self.hub.lock:
            self.hub.repositories.clear()
        self.log.reset()
        return self.on_settings(asdict(self._defaults))

    def on_settings(self, given: dict[str, Any]) -> Any:
        for known in fields(Settings):
            if known.name in given:
                setattr(self.settings, known.name, given[known.name])
        return asdict(self.settings)

    def on_counters(self, given: dict[str, Any]) -> Any:
        return self.log.counters()

    def on_requests(self, given: dict[str, Any]) -> Any:
        return self.log.listed()

    def on_counters_reset(self, given: dict[str, Any]) -> Any:
        self.log.reset()
        return {}

    def on_faults_add(self, given: dict[str, Any]) -> Any:
        self.faults.rules.extend([Rule.of(rule) for rule in given["rules"]])
        return {}

    def on_faults(self, given: dict[str, Any]) -> Any:
        chance = self.faults.chance
        made = {"hits": chance.hits, "made": chance.made} if chance else None
        return {"rules": [asdict(rule) for rule in self.faults.rules], "chance": made}

    def on_faults_clear(self, given: dict[str, Any]) -> Any:
        self.faults.clear()
        return {}

    def on_faults_chance(self, given: dict[str, Any]) -> Any:
        self.faults.chance = Chance(**given)
        return {}

    def on_repository(self, given: dict[str, Any]) -> Any:
        """Return the refs, the commits from the newest of main on, and the files of one commit."""
        repository = self._find(given)
        head = repository.branches.get("main")
        wanted = given.get("commit") or head
        commit = repository.find(wanted) if wanted else None
        listed = list(repository.history(repository.commits[head])) if head else []
        return {
            "head": head,
            "private": repository.private,
            "branches": repository.branches,
            "tags": repository.tags,
            "objects": repository.objects,
            "commits": [{"id": one.id, "title": one.title, "parent": one.parent} for one in listed],
            "files": {path: _dumped(entry) for path, entry in sorted(commit.files.items())} if commit else {},
        }

    def on_file(self, given: dict[str, Any]) -> Answer:
        entry = self._find(given).find(given.get("commit") or "main").files.get(given["path"])
        if entry is None:
            raise Refusal(404, "no such file")
        stored = self.hub.objects.path(entry.content)
        return Answer(200, {"Content-Type": "application/octet-stream"}, Stored(stored, 0, stored.stat().st_size))

    def on_commit(self, given: dict[str, Any]) -> Any:
        """Add a commit of arbitrary files, which no rule of the Hub is asked about."""
        name, branch = given["repository"], given.get("branch", "main")
        with self.hub.lock:
            repository = self.hub.repositories.get(("model", name)) or self.hub.create(name)
            head = repository.branches.get(branch)
            files: dict[str, Entry] = {}
            if head and not given.get("replace"):
                files = dict(repository.commits[head].files)
            for path in given.get("deleted", []):
                files.pop(path, None)
            for item in given.get("files", []):
                files[item["path"]] = self._entry(item)
            title, author = given.get("message", "tampered"), given.get("author", "mallory")
            commit = self.hub.commit(repository, branch, title, "", files, parent=head, author=author)
        return {"commit": commit.id}

    def on_replace(self, given: dict[str, Any]) -> Any:
        """Let a commit that is there serve other bytes; with ``keep_claims`` under the old size and digest."""
        repository = self._find(given)
        with self.hub.lock:
            commit = repository.find(given.get("commit") or "main")
            entry = self._entry(given)
            old = commit.files.get(given["path"])
            if old and given.get("keep_claims"):
                entry = replace(old, content=entry.content)
            self.hub.tamper(repository, commit.id, given["path"], entry)
        return {}

    def on_ref(self, given: dict[str, Any]) -> Any:
        """Let a tag or branch name a commit, or, without ``commit``, be gone."""
        repository = self._find(given)
        refs = repository.branches if given.get("kind") == "branch" else repository.tags
        with self.hub.lock:
            if given.get("commit"):
                refs[given["name"]] = repository.find(given["commit"]).id
            else:
                refs.pop(given["name"], None)
        return {}

    def _find(self, given: Mapping[str, Any]) -> Repository:
        found = self.hub.repositories.get((given.get("kind_of_repository", "model"), given["repository"]))
        if found is None:
            raise Refusal(404, "no such repository")
        return found

    def _entry(self, item: Mapping[str, Any]) -> Entry:
        """Return an entry of ``content`` (base64), of the local file ``source``, or of a ``symlink``'s target."""
        if "symlink" in item:
            target = item["symlink"].encode()
            extra = (("mode", "120000"), *(item.get("extra") or {}).items())
            return replace(self.hub.objects.regular(target), extra=extra)
        if "source" in item:
            sha256 = self.hub.objects.add_file(Path(item["source"]))
        else:
            sha256 = self.hub.objects.add(base64.b64decode(item["content"]))
        path = self.hub.objects.path(sha256)
        is_lfs = item.get("is_lfs", bool(re.search(r"\.(safetensors|parquet|bin|pt)$", item["path"])))
        size = path.stat().st_size
        entry = self.hub.objects.large(sha256, size) if is_lfs else self.hub.objects.regular(path.read_bytes())
        return replace(
            entry,
            sha256=item.get("claimed_sha256") or entry.sha256,
            size_bytes=size if item.get("claimed_size") is None else item["claimed_size"],
            extra=tuple((item.get("extra") or {}).items()),
        )


def _dumped(entry: Entry) -> dict[str, Any]:
    return {"sha256": entry.sha256, "size": entry.size_bytes, "is_lfs": entry.is_lfs, "content": entry.content}
