"""Servers that a notebook starts: a real `transformers serve` behind the router, and what is said where none is up."""

import socket
import sys
import time

import httpx
import openai
import pytest

from ftlib import generate, models
from ftlib.engines import listening, model_server, program
from ftlib.rollout import Guardrail, Plan
from ftlib.serve import SHADOW, HttpBackend, LocalBackend, Router, answer_text, app

PLAN = Plan(shares=(0.5, 1.0), requests=(10, 0), guardrails=(Guardrail("failed"),), salt="t")
PYTHON = sys.executable
CHAT = [{"role": "user", "content": "What is the capital of France?"}]  # no two words nearly tie, as bf16 would show


def test_transformers_serve_answers_as_the_model_in_this_process(tmp_path):
    """Shadow, as in notebook 07: the embedded model here is the baseline, the same one behind a server the candidate.

    Both are greedy, so weights and stop tokens are the same if the texts are; the length of the prompt shows the
    template. The server ends with the block.
    """
    folder = models.resolve("embedded")
    model, tokenizer = models.load_model("embedded", dtype="bf16"), models.load_tokenizer("embedded")
    here = LocalBackend(
        lambda chat, limit: generate.sample_chats(model, tokenizer, [chat], max_new_tokens=limit)[0].text, model="here"
    )
    with model_server(folder, engine="transformers") as url:
        router = Router(
            PLAN, mode=SHADOW, baseline=here, candidate=HttpBackend(url, folder), log=tmp_path / "log.jsonl",
            timeout_s=120, slow_s=600,
        )  # fmt: skip
        with listening(app(router)) as address:
            shop = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
            reply = shop.chat.completions.create(model="shop", messages=CHAT, user="u", max_tokens=8, temperature=0)
            router.drain()
        direct = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        asked = direct.chat.completions.create(model=folder, messages=CHAT, max_tokens=1, temperature=0)
    assert asked.usage.prompt_tokens == len(generate.chat_ids(tokenizer, [CHAT])[0])
    (shadowed,) = [entry for entry in router.log.read() if entry["kind"] == "shadowed"]
    assert shadowed["error"] == "" and shadowed["events"] == [], shadowed
    assert answer_text(shadowed["reply"]) == reply.choices[0].message.content
    assert "Paris" in reply.choices[0].message.content
    with pytest.raises(httpx.ConnectError):
        httpx.get(url.removesuffix("/v1") + "/health")


def test_an_engine_that_is_not_here_or_unknown_is_said_before_anything_starts(tmp_path, monkeypatch):
    assert program("in-process") is None and program("transformers").is_file()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(FileNotFoundError, match=r"engine='vllm': expected the program .* found none; install it \(pip"):
        program("vllm")
    with (
        pytest.raises(FileNotFoundError, match="or take engine='in-process'"),
        model_server(tmp_path, engine="transformers"),
    ):
        pass
    with pytest.raises(ValueError, match=r"expected one of \['in-process', 'transformers', 'vllm'\], got 'vlm'"):
        program("vlm")
    with pytest.raises(ValueError, match="for a server, got 'in-process'"), model_server("x", engine="in-process"):
        pass


SERVER = """#!{python}
import json, os, sys, http.server
print("hello from", sys.argv[1:3], flush=True)
{act}
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(dict(os.environ)).encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[-1])), Answer).serve_forever()
"""


def stand_in(tmp_path, monkeypatch, act: str = ""):
    """A program called vllm beside what passes for this Python: it obeys the same command line."""
    script = tmp_path / "vllm"
    script.write_text(SERVER.format(python=PYTHON, act=act))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))


def test_vllm_gets_its_command_line_and_ends_with_the_block(tmp_path, monkeypatch):
    """No vLLM here: a stand-in takes its command line, so this shows start, environment and end, not vLLM itself."""
    stand_in(tmp_path, monkeypatch)
    with model_server(tmp_path, engine="vllm") as url:
        seen = httpx.get(url).json()
    assert seen["HF_HUB_OFFLINE"] == seen["HF_HUB_DISABLE_UPDATE_CHECK"] == "1"
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


@pytest.mark.parametrize(
    ("act", "wait_s", "words"),
    [
        ("sys.exit('no such weights')", 60, r"(?s)vllm serve did not come up: .*no such weights"),
        ("import time; time.sleep(60)", 0.2, "vllm serve did not come up"),
    ],
    ids=["it ends", "it is late"],
)
def test_a_server_that_does_not_come_up(act, wait_s, words, tmp_path, monkeypatch):
    """One that has ended is not waited for, and its last words are in the error."""
    stand_in(tmp_path, monkeypatch, act=act)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=words), model_server(tmp_path, engine="vllm", wait_s=wait_s):
        pass
    assert time.monotonic() - started < 30


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # uvicorn exits its thread
def test_a_port_that_is_taken_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = f"nothing listens on port {port}; is it taken"
        with pytest.raises(RuntimeError, match=words), listening(lambda *_: None, port=port):
            pass
