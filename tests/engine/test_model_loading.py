"""Model folders: what they may look like, and errors that name what is wrong."""

from __future__ import annotations

import json

import pytest
import torch
from model_cases import SMALL, make_reference
from safetensors.torch import load_file, save_file

from sgl_lang.errors import InvalidRequest, SglError, UnsupportedFeature
from sgl_runtime.model import load_runner

CONFIG = {**SMALL, "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}


@pytest.fixture
def folder(tmp_path):
    make_reference("llama", tmp_path)
    return tmp_path


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            UnsupportedFeature,
            r"GPT2LMHeadModel.*supported: LlamaForCausalLM",
        ),
        ({"architectures": None, "model_type": "mamba"}, UnsupportedFeature, "mamba"),
        ({"hidden_act": "gelu"}, UnsupportedFeature, "gelu"),
        ({"sliding_window": 64}, UnsupportedFeature, "sliding window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, UnsupportedFeature, "sliding"),
        ({"quantization_config": {"quant_method": "gptq"}}, UnsupportedFeature, "quantization_config"),
        ({"rope_parameters": {"rope_type": "longrope"}}, UnsupportedFeature, "longrope"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8}}, InvalidRequest, "low_freq_factor"),
        ({"num_hidden_layers": 0}, InvalidRequest, "num_hidden_layers"),
        ({"hidden_size": None}, InvalidRequest, "hidden_size"),
        ({"num_attention_heads": 5}, InvalidRequest, "multiple"),
        ({"intermediate_size": 81}, InvalidRequest, "shape"),
        ({"num_hidden_layers": 4}, InvalidRequest, r"9 tensors are missing: model.layers.3"),
        ({"num_hidden_layers": 2}, UnsupportedFeature, r"no use for 9 tensors: model.layers.2"),
    ],
)
def test_errors_name_what_is_wrong(folder, changes, error, message):
    edit_config(folder, **changes)
    with pytest.raises(error, match=message):
        load_runner(folder)


def test_folders_that_lack_something(folder):
    with pytest.raises(InvalidRequest, match="no such model folder"):
        load_runner(folder / "nowhere")
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:100])
    with pytest.raises(InvalidRequest, match="not a readable safetensors file"):
        load_runner(folder)
    weights.unlink()
    with pytest.raises(InvalidRequest, match=r"neither model.safetensors"):
        load_runner(folder)
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnsupportedFeature, match="never loaded"):
        load_runner(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}))
    with pytest.raises(InvalidRequest, match=r"not there: gone.safetensors"):
        load_runner(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../escape.safetensors"}}))
    with pytest.raises(InvalidRequest, match="no file of the folder"):
        load_runner(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InvalidRequest, match=r"no config.json"):
        load_runner(folder)


def test_integer_weights_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UnsupportedFeature, match=r"model.norm.weight holds torch.int8"):
        load_runner(folder)


def test_old_spellings_mean_the_same(folder):
    new = load_runner(folder, dtype="float32", num_pages=4)
    data = json.loads((folder / "config.json").read_text())
    data["rope_theta"] = data.pop("rope_parameters")["rope_theta"]
    data["torch_dtype"] = data.pop("dtype")
    data["rope_scaling"] = None
    (folder / "config.json").write_text(json.dumps(data))
    assert load_runner(folder, dtype="float32", num_pages=4).info == new.info


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "int3"},
        {"page_size": 0},
        {"page_size": 65},
        {"num_pages": 0},
        {"load_format": "pickle"},
        {"quantization": "int2"},
        {"max_context": 513},
        {"threads": 0},
    ],
)
def test_options_are_checked(options):
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        load_runner(CONFIG, **{"load_format": "dummy", **options})


def test_dummy_weights(tmp_path):
    with pytest.raises(InvalidRequest, match="load_format='dummy'"):
        load_runner(CONFIG)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    by_file = load_runner(path, load_format="dummy", num_pages=2)
    assert by_file.info.architecture == "LlamaForCausalLM"
    assert by_file.info.eos_token_ids == {2}
    weights = 2 * 301 * 48 + 48 * (6 + 2 * 2) * 16 + 6 * 16 * 48 + 3 * 48 * 80 + 3 * 48
    assert by_file.info.weight_bytes == 4 * weights
    with pytest.raises(InvalidRequest, match="not a model folder"):
        load_runner(path)


def test_memory_for_pages():
    info = load_runner(CONFIG, load_format="dummy", num_pages=3)
    assert (info.num_pages, info.info.kv_bytes_per_token) == (3, 2 * 2 * 16 * 4)
    sized = load_runner(CONFIG, load_format="dummy", page_size=8, memory_bytes=256 * 8 * 10 + 5)
    assert sized.num_pages == 10
    with pytest.raises(SglError, match="one page"):
        load_runner(CONFIG, load_format="dummy", memory_bytes=100)


def test_generation_defaults(folder):
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, 9], "do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 20})
    )
    defaults = load_runner(folder, num_pages=2).info.generation
    assert (defaults.temperature, defaults.top_p, defaults.top_k) == (0.7, 0.9, 20)
    assert defaults.eos_token_ids == {2, 9}
    assert defaults.bos_token_id == 1
