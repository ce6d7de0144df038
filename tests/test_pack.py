"""The evidence pack, and whether `verify` finds any single changed byte: in the pack, ledger, card and lineage."""

import json
import random
import re
import shutil
import zipfile

import pytest
from governed import govern, make_run

from ftlib import pack
from ftlib.__main__ import main
from ftlib.evidence import verify_run
from ftlib.files import sha256

LEDGER, LINEAGE = "gates.jsonl", "lineage.jsonl"
CARD = "artifacts/governance/model_card.md"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return govern(make_run(tmp_path_factory.mktemp("runs") / "r1"))


@pytest.fixture(scope="module")
def packed(finished, tmp_path_factory):
    return pack.build_pack(finished, out=tmp_path_factory.mktemp("out") / "r1.zip")


def test_pack_is_the_same_each_time_opens_and_holds_no_weights(finished, packed, tmp_path):
    again = pack.build_pack(finished, out=tmp_path / "again.zip")
    assert again.read_bytes() == packed.read_bytes()
    assert pack.verify_pack(packed) == [] and pack.verify_pack(packed, expected=sha256(packed)) == []
    assert "not the pack with sha256" in pack.verify_pack(packed, expected="0" * 64)[0]
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
    assert names[1:] == sorted(names[1:]) and names[0] == "MANIFEST.json"
    assert {LEDGER, LINEAGE, CARD, "summary.json"} <= set(names)
    assert [name for name in names if name.endswith(".safetensors")] == []
    whole = pack.build_pack(finished, weights=True, out=tmp_path / "weights.zip")
    assert "artifacts/dpo/adapter/adapter_model.safetensors" in zipfile.ZipFile(whole).namelist()
    assert pack.verify_pack(whole) == []


def test_any_changed_byte_of_the_pack_is_found(packed, tmp_path):
    """500 single bytes, drawn over the whole file, its last 200 bytes for certain, each set to another value."""
    data, rng, path = packed.read_bytes(), random.Random(8), tmp_path / "x.zip"
    places = [*range(len(data) - 200, len(data)), *rng.sample(range(len(data) - 200), 300)]
    missed = []
    for place in places:
        changed = bytearray(data)
        changed[place] ^= rng.randint(1, 255)
        path.write_bytes(changed)
        if not pack.verify_pack(path):
            missed.append(place)
    assert missed == []


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\n", lambda d: b"", lambda d: b"x" + d])
def test_cut_and_extended_packs_are_found(change, packed, tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(change(packed.read_bytes()))
    assert pack.verify_pack(path) != []


def rebuilt(packed, tmp_path, *, replace=(), add=(), drop=()):
    """A pack whose members were changed and whose seal was made anew."""
    path = tmp_path / "forged.zip"
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if name not in drop:
                new.writestr(name, dict(replace).get(name, old.read(name)))
        for name, data in add:
            new.writestr(name, data)
        new.comment = pack._MARK + b"0" * 64
    data = path.read_bytes()
    import hashlib

    path.write_bytes(data[:-64] + hashlib.sha256(data[:-64]).hexdigest().encode())
    return path


def test_verify_says_in_words_what_was_changed(packed, tmp_path):
    assert pack.verify_pack(rebuilt(packed, tmp_path)) == []
    card = zipfile.ZipFile(packed).read(CARD).replace(b"0.9", b"1.0")
    assert pack.verify_pack(rebuilt(packed, tmp_path, replace={CARD: card}.items())) == [
        f"{CARD}: changed since the pack was made"
    ]
    assert pack.verify_pack(rebuilt(packed, tmp_path, drop=[LEDGER])) == ["gates.jsonl: gone from the pack"]
    assert pack.verify_pack(rebuilt(packed, tmp_path, add=[("../x", "y")])) == ["../x: added to the pack"]
    data = bytearray(packed.read_bytes())
    place = data.rindex(b"PK\x01\x02") + 12  # the time of the last member, in the zip's directory only
    data[place] ^= 1
    (tmp_path / "y.zip").write_bytes(data)
    assert "the zip's own bookkeeping" in pack.verify_pack(tmp_path / "y.zip")[-1]
    (tmp_path / "no.zip").write_bytes(b"PK")
    assert "no evidence pack" in pack.verify_pack(tmp_path / "no.zip")[0]


@pytest.mark.parametrize("name", [LEDGER, CARD, LINEAGE])
def test_any_changed_byte_of_ledger_card_and_lineage_is_found_in_the_run(name, tmp_path):
    run = govern(make_run(tmp_path / "r1"))
    assert verify_run(run) == []
    path, rng = run / name, random.Random(name)
    data, missed = path.read_bytes(), []
    for place in rng.sample(range(len(data)), 60):
        changed = bytearray(data)
        changed[place] ^= rng.randint(1, 255)
        path.write_bytes(changed)
        if not verify_run(run):
            missed.append(place)
    assert missed == []
    white = data.replace(b'": ', b'":\t', 1)  # the same JSON, another byte
    if white != data:
        path.write_bytes(white)
        assert verify_run(run) != []


def edited(path, change):
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


EDITS = {
    "verdict": (lambda s: s["gates"][1].update(verdict="FAIL"), "verdict is 'FAIL' in summary.json and 'PASS' in the"),
    "threshold": (lambda s: s["gates"][1].update(threshold=0.1), "threshold is 0.1 in summary.json and 0.6 in the"),
    "n": (lambda s: s["gates"][1].update(n=9999), "n is 9999 in summary.json and 160 in the ledger"),
    "waived": (lambda s: s["gates"][1].update(waived="fine"), "waived is 'fine' in summary.json and None in the"),
    "removed": (lambda s: s["gates"].pop(1), "gate 'dpo.win_rate' of 05_validate is in the ledger, but not in"),
    "baseline": (lambda s: s["metrics"]["dpo.win_rate"].update(baseline=0.1), "dpo.win_rate: baseline is 0.5"),
    "interval": (lambda s: s["metrics"]["dpo.win_rate"].update(ci95=[0.2, 0.3]), "dpo.win_rate: ci95_of_difference"),
    "profile": (lambda s: s.update(seed=18), "seed is 18, run.json says 17"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_the_summary_is_found_in_the_run_and_in_the_pack(name, finished, packed, tmp_path):
    change, words = EDITS[name]
    run = tmp_path / "r1"
    shutil.copytree(finished, run)
    assert verify_run(run) == []
    edited(run / "summary.json", change)
    faults = "\n".join(verify_run(run))
    assert words in faults
    if name != "profile":
        summary = (run / "summary.json").read_bytes()
        manifest = json.loads(zipfile.ZipFile(packed).read("MANIFEST.json"))
        manifest["members"]["summary.json"] = {"sha256": sha256(run / "summary.json"), "bytes": len(summary)}
        forged = {"summary.json": summary, "MANIFEST.json": json.dumps(manifest)}
        assert words in "\n".join(pack.verify_pack(rebuilt(packed, tmp_path, replace=forged.items())))


@pytest.mark.parametrize(
    ("stage", "change", "words"),
    [
        (
            "sft",
            lambda m: m["sources"].update({"data/sft/test.jsonl": "0" * 64}),
            "data/sft/test.jsonl has another sha256",
        ),
        ("sft", lambda m: m["sources"].clear(), "data/sft/test.jsonl has another sha256"),
        ("preferences", lambda m: m["sources"].update({"data/more.jsonl": "0" * 64}), "data/more.jsonl has another"),
        (
            "dpo",
            lambda m: m["inputs"].pop("preferences/pairs.jsonl"),
            "r1/artifacts/preferences/pairs.jsonl has another",
        ),
        ("dpo", lambda m: m.update(seed=18), "manifest.json: seed is 18, run.json says 17"),
    ],
)
def test_an_edit_of_a_manifest_is_found(stage, change, words, finished, tmp_path):
    run = tmp_path / "r1"
    shutil.copytree(finished, run)
    edited(run / "artifacts" / stage / "manifest.json", change)
    assert words in "\n".join(verify_run(run))


def test_what_is_not_packed(tmp_path):
    run = make_run(tmp_path / "r1")
    with pytest.raises(FileNotFoundError, match="needs 08_govern, which was not completed"):
        pack.build_pack(run)
    govern(run)
    summary = (run / "summary.json").read_text()
    (run / "summary.json").write_text(summary.replace('"id": "dpo.win_rate"', '"id": "dpo.other"'))
    with pytest.raises(ValueError, match="'dpo.other' of 05_validate .* the ledger has no"):
        pack.build_pack(run)
    (run / "summary.json").write_text(summary)
    ledger = (run / LEDGER).read_text()
    (run / LEDGER).write_text(ledger.replace('"value": 0.5', '"value": 0.9'))
    with pytest.raises(ValueError, match=r"gates\.jsonl line \d+: the hash chain breaks here"):
        pack.build_pack(run)


def test_the_command_line(tmp_path, capsys):
    run = govern(make_run(tmp_path / "r1"))
    assert main(["pack", str(run)]) == 0
    said = capsys.readouterr().out
    digest = re.search(r"sha256 ([0-9a-f]{64})", said)[1]
    made = run / "r1-evidence.zip"
    assert main(["verify", str(made), "--sha256", digest]) == 0 and main(["verify", str(run)]) == 0
    made.write_bytes(made.read_bytes()[:-1] + b"?")
    assert main(["verify", str(made)]) == 1 and "the pack was changed" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "none.zip")]) == 2
    assert "expected an evidence pack, found no file" in capsys.readouterr().err
