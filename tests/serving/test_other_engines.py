"""What the server finds and names is what another engine merges, and answers as the server does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

from registry.base_model import encode_prompt
from registry.engines.merges import EngineSettings, Merges
from registry.layout import question_prompt
from registry.settings import Home
from tests.serving.conftest import Guarded, ask, client_of

QUESTION = "What does the ferry of Tarn carry, and what does the mill on the Osk grind?"
MODEL = "default@v1"
TOKENS = 12


@pytest.mark.parametrize("merge", ["uniform", "softmax"])
def test_another_engine_merges_and_answers_as_the_server_does(
    guarded: Guarded, guarded_home: Home, tiny_model_path: Path, tmp_path: Path, merge: str
) -> None:
    with client_of(guarded.url, guarded.key) as client:
        options = {"k": 2, "merge": merge}
        found = client.post("/search", json={"model": MODEL, "question": QUESTION, "remember": True, **options})
        answer = ask(client, QUESTION, MODEL, max_tokens=TOKENS, pragreg=options).json()
        bare = ask(client, QUESTION, f"{MODEL}+closed-book", max_tokens=TOKENS).json()
    merges = Merges(EngineSettings(guarded_home, tmp_path / "cache", merge=merge))
    folder = merges.find(str(tiny_model_path), found.json()["retrieval"])
    by_name = merges.find(str(tiny_model_path), answer["pragreg"]["retrieval"])
    assert folder is not None
    assert by_name is not None
    # A name has no scores, so only a method that does not look at them gives the same by it.
    assert (folder == by_name) == (merge == "uniform")

    model = AutoPeftModelForCausalLM.from_pretrained(str(folder.path))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path)
    prompt = torch.tensor([encode_prompt(tokenizer, question_prompt("chat", QUESTION))])
    tokens = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=TOKENS, do_sample=False
    )
    text = tokenizer.decode(tokens[0, prompt.shape[1] :], skip_special_tokens=True).strip()
    assert text == answer["choices"][0]["message"]["content"]
    assert text != bare["choices"][0]["message"]["content"]
