"""A corpus behind ``pragreg serve``, asked by the official openai client, as a transcript in Markdown.

    python examples/serve.py --work FOLDER [--port 8000] [-- BUILD-OPTION...] > transcript.md

Four documents of the sample corpus become two versions: in the second one the Amber Fog smelled of something else. The
server is started as it is shown, every command is run and all Python is executed as it is printed. Keys are not shown.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from transcript import HOME, HOME_VARIABLE, PRAGREG, Run, Transcript, in_a_process, parsed, work_parser

EXAMPLES = Path(__file__).resolve().parent
BEFORE, AFTER = "burnt honey", "wet slate"
"""What the Amber Fog smelled of, in the first version and in the second."""
QUESTION = "What scent filled the air during the Amber Fog?"
BUILD = ("build", "isles", "--corpus", "isles", "--augmenter", "import:augmentations.jsonl")
SCOPES = ("ask", "search", "documents", "metrics")
START_SECONDS = 120
SHOWN_RECORDS = 3


def main() -> None:
    """Write the transcript."""
    parser = work_parser(__doc__)
    parser.add_argument("--port", type=int, default=8000, help="where to serve (default: %(default)s)")
    options, further = parsed(parser, sys.argv[1:])
    Serving(options.work, options.port, in_a_process).show_all(further)


class Serving:
    """The folder, the server, and the Python session that asks it."""

    def __init__(self, work: Path, port: int, run: Run) -> None:
        """Put the documents and their augmentations into ``work``."""
        self.transcript, self._run, self._port = Transcript(work, run), run, port
        self._names: dict[str, Any] = {}
        folder = self.transcript.work / "isles"
        folder.mkdir()
        for file in sorted((EXAMPLES / "corpus").glob("*.txt")):
            (folder / file.name).write_bytes(file.read_bytes())
        augmentations = self.transcript.work / "augmentations.jsonl"
        augmentations.write_bytes((EXAMPLES / "augmentations.jsonl").read_bytes())

    def show_all(self, build_options: Sequence[str]) -> None:
        """Go through everything once; both builds take the further options."""
        further = f" -- {shlex.join(build_options)}" if build_options else ""
        print("# A corpus behind `pragreg serve`, from a script\n")
        print(f"Written by `python examples/serve.py --work FOLDER{further}`: commands and Python are run as shown.")
        self.build_two_versions(build_options)
        self.make_a_key()
        with self.server() as log:
            self.plain_answers()
            self.move_the_alias()
            self.refusals()
            self.search_and_metrics()
        self.transcript.say("SIGTERM lets it finish what it has begun. From its log, which names no question:")
        records = [line for line in log.read_text(encoding="utf-8").splitlines() if '"/v1/chat' in line]
        print("```text", *records[:SHOWN_RECORDS], "```", sep="\n")

    def build_two_versions(self, options: Sequence[str]) -> None:
        """Build, name what came of it, edit a document, and build again."""
        self.transcript.say("## Two versions of a corpus")
        self.transcript.pragreg("init")
        self.transcript.pragreg(*BUILD, *options, "--message", "as it was told")
        self.transcript.pragreg("alias", "set", "isles@v1", "production")
        self.transcript.say(f"The Amber Fog smelled of {AFTER}, it turns out, not of {BEFORE}:")
        for file in (
            self.transcript.work / "isles" / "The_Amber_Fog.txt",
            self.transcript.work / "augmentations.jsonl",
        ):
            file.write_text(file.read_text(encoding="utf-8").replace(BEFORE, AFTER), encoding="utf-8")
        self.transcript.pragreg(*BUILD, *options, "--message", "another smell")

    def make_a_key(self) -> None:
        """Make a key, and give it to the client as its documentation says."""
        self.transcript.say("## A key, and the server")
        arguments = ("keys", "create", "laptop", *(part for scope in SCOPES for part in ("--scope", scope)))
        status, output = self._run(arguments, self.transcript.work)
        found = re.search(r"pragreg-[\w-]{43}", output)
        key = found[0] if found else ""
        self.transcript.show(arguments, status, output.replace(key, "pragreg-...") if key else output)
        os.environ.update(OPENAI_API_KEY=key, OPENAI_BASE_URL=f"http://127.0.0.1:{self._port}/v1")

    @contextmanager
    def server(self) -> Iterator[Path]:
        """Serve for the time of a block; yields the file with the log, which is complete after it."""
        log = self.transcript.work / "serve.log"
        arguments = ["serve", "--port", str(self._port)]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*PRAGREG, *arguments],
                cwd=self.transcript.work,
                env={**os.environ, HOME_VARIABLE: HOME},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait(process, log)
            print(f"```console\n$ pragreg {shlex.join(arguments)} &\n{self.shown(log)}```")
            yield log
            process.send_signal(signal.SIGTERM)
            if status := process.wait(START_SECONDS):
                raise SystemExit(f"the server ended with {status}\n{log.read_text(encoding='utf-8')}")
        finally:
            process.kill()
            process.wait()

    def _wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        until = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < until:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=5).close()
                return
            except (OSError, urllib.error.URLError):
                time.sleep(0.1)
        raise SystemExit(f"the server does not answer\n{log.read_text(encoding='utf-8')}")

    def plain_answers(self) -> None:
        """Ask at once, in a stream, and with the texts beside the adapters."""
        self.transcript.say(
            "## The openai client\n\n`OPENAI_BASE_URL` is `http://127.0.0.1:8000/v1` and `OPENAI_API_KEY` the key. "
            "Models are corpora, their aliases and their versions:"
        )
        self.python(
            """
            from openai import OpenAI

            client = OpenAI()
            print(*(model.id for model in client.models.list()))
            """
        )
        self.transcript.say("An answer carries what gave it:")
        self.python(
            f"""
            question = {{"role": "user", "content": "{QUESTION}"}}
            answer = client.chat.completions.create(model="isles@production", messages=[question], max_tokens=24)
            print(answer.choices[0].message.content)
            print(answer.usage.prompt_tokens, "tokens in the prompt,", answer.usage.completion_tokens, "in the answer")
            print(answer.pragreg["version"], answer.pragreg["mode"])
            for hit in answer.pragreg["hits"]:
                print(f"{{hit['title']}}: score {{hit['score']:.2f}}, weight {{hit['weight']:.2f}}")
            """
        )
        self.transcript.say("The command line says the same:")
        self.transcript.pragreg("query", QUESTION, "--corpus", "isles@production", "--max-tokens", "24")
        self.transcript.say("As a stream; the last chunk has the sources:")
        self.python(
            """
            stream = client.chat.completions.create(
                model="isles@production", messages=[question], max_tokens=24, stream=True
            )
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    print(chunk.choices[0].delta.content, end="|")
            print("\\nfrom", chunk.pragreg["version"])
            """
        )
        self.transcript.say("With the passages in the prompt beside the adapters; `k` and `merge` go the same way:")
        self.python(
            """
            answer = client.chat.completions.create(
                model="isles@production+combined", messages=[question], max_tokens=24, extra_body={"pragreg": {"k": 1}}
            )
            print(answer.choices[0].message.content)
            print(answer.usage.prompt_tokens, "tokens in the prompt,", len(answer.pragreg["hits"]), "hit")
            """
        )

    def move_the_alias(self) -> None:
        """Let the alias name the second version while the server runs."""
        self.transcript.say("## A version goes into production\n\nThe server runs on; the next request sees the move:")
        self.transcript.pragreg("alias", "set", "isles@v2", "production")
        self.python(
            """
            for model in ("isles@production", "isles@v1"):
                answer = client.chat.completions.create(model=model, messages=[question], max_tokens=24)
                print(model, "is", answer.pragreg["version"] + ":", answer.choices[0].message.content)
            """
        )

    def refusals(self) -> None:
        """Ask with a wrong key, for a model that is not there, and for what cannot be done."""
        self.transcript.say("## What is refused, and how")
        self.python(
            """
            import openai

            def attempt(client, **changed):
                try:
                    asked = {"model": "isles", "messages": [question], "max_tokens": 24} | changed
                    client.chat.completions.create(**asked)
                except openai.APIStatusError as error:
                    print(type(error).__name__, error.status_code, error.body["message"])

            attempt(OpenAI(api_key="pragreg-not-a-key"))
            attempt(client, model="isles@v9")
            attempt(client, tools=[{"type": "function", "function": {"name": "now"}}])
            attempt(client, max_tokens=1_000_000)
            """
        )

    def search_and_metrics(self) -> None:
        """Ask what else the server has."""
        self.transcript.say("## Search, and metrics")
        self.python(
            """
            import json, os, urllib.request

            def fetch(path, body=None):
                key = os.environ["OPENAI_API_KEY"]
                headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
                url = os.environ["OPENAI_BASE_URL"].removesuffix("/v1") + path
                request = urllib.request.Request(url, body and json.dumps(body).encode(), headers)
                return urllib.request.urlopen(request).read().decode()

            found = json.loads(fetch("/search", {"model": "isles@production", "question": "stew with turnip", "k": 2}))
            print(json.dumps(found, indent=1))
            document = json.loads(fetch("/documents/" + found["hits"][0]["digest"]))
            print(document["title"] + ":", document["text"][:60] + "...")
            """
        )
        self.python(
            """
            for line in fetch("/metrics").splitlines():
                if line.startswith("pragreg_") and "_bucket" not in line and "_created" not in line:
                    print(line)
            """
        )

    def python(self, code: str) -> None:
        """Execute code in the session, and print it with what it prints."""
        code = textwrap.dedent(code).strip()
        print(f"```python\n{code}\n```")
        output = io.StringIO()
        with redirect_stdout(output):
            exec(compile(code, "<session>", "exec"), self._names)
        print(f"```text\n{output.getvalue().strip()}\n```", flush=True)

    def shown(self, log: Path) -> str:
        """Return what the server has said, without this machine's folder."""
        text = log.read_text(encoding="utf-8")
        return text.replace(str(self.transcript.work) + os.sep, "").replace(str(self.transcript.work), ".")


if __name__ == "__main__":
    main()
