"""One zip with the evidence of a run, and the check that says what was changed in it.

Members come in sorted order with a fixed date, so the same run gives the same bytes. `MANIFEST.json` holds the sha256
of every other member. The archive's comment, which is its last bytes, holds the sha256 of all bytes before that
digest: so a change anywhere shows, also in the zip's own headers, and a change of the digest itself shows as well.

Left out on purpose: signatures. Who rewrites the whole pack can write new digests; keep the sha256 that `pack` prints
somewhere else, and give it to `verify`. Weights are left out unless asked for; their hashes are always in the pack.
"""

import hashlib
import json
import os
import tempfile
import zipfile
from pathlib import Path

from ftlib.cards import card_faults
from ftlib.evidence import manifest_faults, unsigned_gates, verify_run
from ftlib.files import list_files, read_json, replacing, sha256, to_json
from ftlib.ledger import verify_ledger
from ftlib.lineage import last_made, lineage_faults, read_events
from ftlib.risks import GOVERN
from ftlib.runs import is_complete, stage_path

MANIFEST = "MANIFEST.json"
_MARK = b"ftlib-pack sha256:"
_DATE = (1980, 1, 1, 0, 0, 0)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_AT_TOP = ("run.json", "summary.json", "gates.jsonl", "lineage.jsonl", "report.html")
_ODD = 2**31  # no member that is no weight is that large; a stated size above it is a trap


def build_pack(run_path: str | Path, *, weights: bool = False, out: str | Path | None = None) -> Path:
    """Write `<run_id>-evidence.zip` beside the run folder's other files, atomically.

    Args:
        run_path: a run whose notebook 08 is complete.
        weights: also the adapters' weights.
        out: where else to write it.

    Raises:
        FileNotFoundError: 08 has not completed.
        ValueError: the run is not as it was made (each fault named).
    """
    run_path = Path(run_path)
    if not (stage_path(run_path, GOVERN) / "COMPLETE").exists():
        raise FileNotFoundError(
            f"run {run_path.name}: the evidence pack needs {GOVERN}, which was not completed; run it first "
            f"(python -m ftlib run --run {run_path.name} --only {GOVERN})"
        )
    faults = verify_run(run_path)
    if not is_complete(run_path, GOVERN):
        faults.append(f"{GOVERN} stands on what was made anew since; run it again")
    if faults:
        raise ValueError(f"run {run_path.name} is not packed, {len(faults)} fault(s):\n" + "\n".join(faults))
    members = _members(run_path, weights)
    manifest = {
        "run_id": run_path.name,
        "weights": weights,
        "members": {name: {"sha256": sha256(path), "bytes": path.stat().st_size} for name, path in members.items()},
    }
    out = Path(out) if out else run_path / f"{run_path.name}-evidence.zip"
    with replacing(out) as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(_info(MANIFEST), to_json(manifest, MANIFEST, indent=1) + "\n")
            for name, path in members.items():
                with archive.open(_info(name), "w", force_zip64=True) as member, open(path, "rb") as source:
                    while chunk := source.read(1 << 20):
                        member.write(chunk)
            archive.comment = _MARK + b"0" * 64
        # The digest covers all that stands before it, the comment's own length and mark too.
        file.flush()
        file.seek(0)
        digest = _digest_of(file, os.fstat(file.fileno()).st_size - 64)
        file.seek(-64, os.SEEK_END)
        file.write(digest.encode())
    return out


def verify_pack(path: str | Path, *, expected: str = "") -> list[str]:
    """Check a pack: its bytes, each member's hash, the ledger's chain, the lineage, and the model card.

    Nothing is unpacked but three text files, under fixed names, into a folder that is removed.

    Args:
        path: the zip.
        expected: the sha256 of the whole file, as `pack` printed it.

    Returns:
        The faults in words, one line each; none when all is as it was made.

    Raises:
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected an evidence pack, found no file; give the zip that `pack` wrote")
    faults = []
    if expected and sha256(path) != expected.strip().lower():
        faults.append(f"{path.name}: not the pack with sha256 {expected}; this one has {sha256(path)}")
    whole = _seal_fault(path)
    faults += [whole] if whole else []
    try:
        with zipfile.ZipFile(path) as archive:
            inside = _member_faults(archive)
            faults += inside
            if not inside:
                faults += _content_faults(archive)
    except Exception as error:  # a damaged zip raises anything, from BadZipFile to struct.error
        faults.append(f"{path.name}: the zip cannot be read ({type(error).__name__}: {error})")
        inside = ["unread"]
    if whole and not inside:
        faults.append(f"{path.name}: every member is as it was; what was changed is the zip's own bookkeeping")
    return faults


# --- the zip ---


def _members(run_path: Path, weights: bool) -> dict[str, Path]:
    found = {name: run_path / name for name in _AT_TOP if (run_path / name).is_file()}
    for path in list_files(run_path / "artifacts"):
        rel = path.relative_to(run_path)
        if "checkpoints" in rel.parts or (path.suffix in _WEIGHTS and not weights):
            continue
        found[rel.as_posix()] = path
    return dict(sorted(found.items()))


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=_DATE)
    info.compress_type, info.external_attr, info.create_system = zipfile.ZIP_DEFLATED, 0o644 << 16, 3
    return info


def _digest_of(file, size: int) -> str:
    digest = hashlib.sha256()
    while size > 0 and (chunk := file.read(min(1 << 20, size))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def _seal_fault(path: Path) -> str:
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - 64 - len(_MARK)))
        end = file.read()
        file.seek(0)
        digest = _digest_of(file, size - 64)
    if not end.startswith(_MARK):
        return f"{path.name}: the seal at its end is gone; the file was cut, extended, or is no evidence pack"
    if end[len(_MARK) :] != digest.encode():
        return f"{path.name}: its bytes do not fit its seal (sha256 {digest[:12]}…); the pack was changed"
    return ""


def _member_faults(archive: zipfile.ZipFile) -> list[str]:
    names = [info.filename for info in archive.infolist()]
    if MANIFEST not in names:
        return [f"{MANIFEST} is missing from the pack"]
    if archive.getinfo(MANIFEST).file_size > _ODD // 64:
        return [f"{MANIFEST} claims to be {archive.getinfo(MANIFEST).file_size} bytes"]
    known = json.loads(archive.read(MANIFEST))["members"]
    faults = [f"{name}: twice in the pack" for name in sorted({name for name in names if names.count(name) > 1})]
    faults += [f"{name}: gone from the pack" for name in known if name not in names]
    faults += [f"{name}: added to the pack" for name in names if name not in known and name != MANIFEST]
    for name in names:
        if name in known:
            try:
                with archive.open(name) as member:
                    digest = _digest_of(member, known[name]["bytes"])
                    longer = bool(member.read(1))
            except Exception as error:  # a broken stream raises zlib.error, BadZipFile, EOFError, …
                faults.append(f"{name}: cannot be unpacked ({type(error).__name__}: {error})")
                continue
            if longer or digest != known[name]["sha256"]:
                faults.append(f"{name}: changed since the pack was made")
    return faults


def _content_faults(archive: zipfile.ZipFile) -> list[str]:
    """Ledger, lineage, card and stages of a pack whose members are whole."""
    faults: list[str] = []
    names = set(archive.namelist())
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name in ("summary.json", "gates.jsonl", "lineage.jsonl"):
            if name in names:
                (home / name).write_bytes(archive.read(name))
            else:
                faults.append(f"{name}: missing from the pack")
        if faults:
            return faults
        summary = read_json(home / "summary.json")
        try:
            verify_ledger(home / "gates.jsonl")
            faults += unsigned_gates(home)
        except (ValueError, FileNotFoundError) as error:
            faults.append(str(error).replace(f"{home}{os.sep}", ""))
        faults += lineage_faults(home / "lineage.jsonl", anchored=summary.get("lineage"))
        if not faults:
            made = last_made(read_events(home / "lineage.jsonl"))
            for name in sorted(names):
                if name.endswith("/manifest.json"):
                    faults += manifest_faults(json.loads(archive.read(name)), made, where=name)
    card = "artifacts/governance/model_card.md"
    if card not in names:
        return [*faults, f"{card}: missing from the pack"]
    return faults + card_faults(archive.read(card).decode("utf-8"), summary)
