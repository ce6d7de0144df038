"""Four ways of changing a model by SFT, chosen by one name: which weights are loaded how, which train, what is saved.

    lora          two thin matrices beside each linear layer; the base is frozen in the profile's number format
    qlora         the same, over a base in NF4
    full          every weight
    later_layers  the weights of the upper layers as they are; what lies below is frozen and needs no backward pass

Weights that train are fp32 in all four: small steps round away in 16 bits, and fp16 training needs it. What is saved
can be read by `models.load_merged` whatever the method was, so later notebooks need not know.

Left out on purpose: learning rates and ranks, which belong to the lesson, and other adapters (DoRA, prefixes), which
are a PEFT config away in the notebook.
"""

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from ftlib.files import did_you_mean
from ftlib.machine import trim_heap
from ftlib.models import load_model, save_adapter, save_trained

METHODS = {
    "lora": "LoRA",
    "qlora": "QLoRA (NF4 base)",
    "full": "full fine-tuning",
    "later_layers": "later layers only",
}
WITH_ADAPTER = ("lora", "qlora")
LATER_SHARE = 0.25  # of the layers, counted from the top; as `costs.Plan` has it
LOOK_EVERY_S = 0.02


def check_method(method: str, among: Sequence[str] = tuple(METHODS), *, name: str = "method") -> str:
    """The method, if it is one of METHODS, or of those of them that a notebook knows.

    Args:
        name: of the notebook's parameter, for the message.

    Raises:
        ValueError: it is not; names them.
    """
    if method not in among:
        raise ValueError(
            f"{name}={method!r}: expected one of {', '.join(among)}{did_you_mean(str(method), among)}; correct it"
        )
    return method


def load_for(method: str, model_id: str, *, dtype: str, device: str, later_share: float = LATER_SHARE):
    """The base model as this method trains it; weights that it leaves alone are frozen.

    Args:
        dtype: of the frozen weights and of the products; weights that train are fp32 (the trainer's `bf16` or `fp16`
            computes in 16 bits all the same).
        later_share: for "later_layers", the share of the layers that train, at least one layer.

    Raises:
        ValueError: an unknown method, a share outside (0, 1], or a model whose layers are not found.
    """
    check_method(method)
    if method in WITH_ADAPTER:
        return load_model(model_id, dtype=dtype, nf4=method == "qlora", device=device)
    model = load_model(model_id, dtype="fp32", device=device)
    if method == "later_layers":
        layers = getattr(model.get_decoder(), "layers", None)
        if not layers:
            raise ValueError(f"later_layers: {type(model).__name__} has no list of layers; take method='lora'")
        model.requires_grad_(False)
        for layer in layers[len(layers) - n_upper(len(layers), later_share) :]:
            layer.requires_grad_(True)
    return model


def n_upper(n_layers: int, share: float) -> int:
    """How many layers, counted from the top, a share of them is: at least one.

    Raises:
        ValueError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share of layers: expected more than 0 and at most 1, got {share!r}; correct it")
    return max(1, round(share * n_layers))


def below_upper(n_layers: int, share: float) -> str | None:
    """PEFT's `exclude_modules` for adapters on the upper layers only; None where all layers get one.

    Raises:
        ValueError: a share outside (0, 1].

    Example:
        >>> below_upper(4, 0.5)
        '.*\\\\.layers\\\\.(0|1)\\\\..*'
    """
    below = range(n_layers - n_upper(n_layers, share))
    return rf".*\.layers\.({'|'.join(map(str, below))})\..*" if below else None


def left_out(n_layers: int, *, share: float, chosen: Sequence[int] = ()) -> str | None:
    """PEFT's `exclude_modules` for adapters on chosen layers only, or on the upper share where none is chosen.

    Args:
        chosen: numbers of the layers that get an adapter, counted from 0 at the bottom.

    Raises:
        ValueError: a number that is no layer's, or one that comes twice; a share outside (0, 1].

    Example:
        >>> left_out(4, share=1.0, chosen=[1, 3])
        '.*\\\\.layers\\\\.(0|2)\\\\..*'
    """
    if not chosen:
        return below_upper(n_layers, share)
    wrong = [n for n in chosen if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < n_layers]
    if wrong or len(set(chosen)) < len(chosen):
        raise ValueError(
            f"chosen layers: expected different whole numbers in 0..{n_layers - 1}, got {list(chosen)}; correct them"
        )
    others = [n for n in range(n_layers) if n not in set(chosen)]
    return rf".*\.layers\.({'|'.join(map(str, others))})\..*" if others else None


def adapter_config(method: str, lora):
    """The PEFT config for the trainer: `lora` where the method has an adapter, else None."""
    return lora if check_method(method) in WITH_ADAPTER else None


def train_in_fp32(model) -> int:
    """Make all weights that train fp32; TRL makes the adapter of a 4-bit base bf16. Returns how many were changed."""
    changed = [weight for weight in model.parameters() if weight.requires_grad and weight.element_size() < 4]
    for weight in changed:
        weight.data = weight.data.float()
    return len(changed)


def save_for(method: str, model, folder: Path, *, dtype: str, not_nf4: Sequence[str] = ()) -> None:
    """Write what was trained, so that `models.load_merged(model_id, [folder])` gives the trained model.

    What the folder held goes first: the leavings of another method would be read as a part of this one. An adapter is a
    PEFT folder (QLoRA's notes its NF4 base); the other two write the weights that trained, whole.

    Args:
        dtype: as given to `load_for`.
        not_nf4: of QLoRA, the layers of the base that were not quantised, as given to `models.load_model`.
    """
    check_method(method)
    if Path(folder).exists():
        shutil.rmtree(folder)
    if method == "qlora":
        save_adapter(model, folder, nf4_from=dtype, not_nf4=not_nf4)
    elif method == "lora":
        model.save_pretrained(str(folder))
    else:
        save_trained(model, folder, dtype=dtype)


class PeakMemory:
    """The most memory that was held inside a `with` block, in MB (2**20 bytes): `mb`, set at its end.

    On a CPU it is the whole process, packages and all, looked at 50 times a second, because the system's own mark is
    that of the process's whole life. On a GPU it is what torch had given out there.
    """

    def __init__(self, device: str = "cpu"):
        self.device, self.mb = device, 0.0
        self._over = threading.Event()

    def __enter__(self) -> "PeakMemory":
        if self.device == "cpu":
            trim_heap()  # else what an earlier block has freed would count
            self._look()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        else:
            import torch

            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *_) -> None:
        if self.device == "cpu":
            self._over.set()
            self._thread.join()
            self._look()
        else:
            import torch

            self.mb = torch.cuda.max_memory_allocated() / 2**20

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        import psutil

        self.mb = max(self.mb, psutil.Process().memory_info().rss / 2**20)
