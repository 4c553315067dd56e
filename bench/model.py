"""The bare loops of embedding: texts in arrival order or sorted, on one session or several.

    python -m bench.model [TEXTS.jsonl.gz] [--source NAME|DIR|WHEEL] [--texts N]

TEXTS has one JSON object with a `text` in each line. Without it the file that VKTEAMS_BENCH_DATA names is read, and
without that the built-in texts, which are longer than a chat's. The source is converted in both precisions into a
temporary directory. Texts are tokenized beforehand. Each loop runs `--rounds` times, in turn, and its best time counts.
Only the figures of one run can be compared.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime

from bench.archive import read_texts
from vkteams_daemon.embedding import model_info
from vkteams_daemon.embedding.install import installer
from vkteams_daemon.embedding.model import TOKEN_BUDGET, Chunk, Model, batches, load_session, load_tokenizer
from vkteams_daemon.embedding.model_info import ModelInfo

ARRIVAL = 32  # texts in a batch in arrival order

Loop = Callable[[Sequence[Chunk]], None]
Cut = Callable[[Sequence[Chunk], int], Iterable[list[int]]]


def several_threads(info: ModelInfo, threads: int) -> Model:
    """The model on a session that divides each run among threads, as the runtime does by default."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    file = info.directory / model_info.ONNX
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return Model(info, load_tokenizer(info.directory / model_info.TOKENIZER), session)


def one_thread(info: ModelInfo) -> Model:
    """The model as the daemon loads it."""
    tokenizer = load_tokenizer(info.directory / model_info.TOKENIZER)
    return Model(info, tokenizer, load_session(info.directory / model_info.ONNX))


def in_order(model: Model, size: int) -> Loop:
    """Batches in the order of the texts."""

    def loop(chunks: Sequence[Chunk]) -> None:
        for start in range(0, len(chunks), size):
            model.embed(chunks[start : start + size])

    return loop


def filled(chunks: Sequence[Chunk], budget: int) -> Iterator[list[int]]:
    """Indices of the chunks, sorted by length, in batches each as full as the budget allows."""
    batch: list[int] = []
    for index in sorted(range(len(chunks)), key=lambda i: len(chunks[i])):
        if batch and (len(batch) + 1) * len(chunks[index]) > budget:
            yield batch
            batch = []
        batch.append(index)
    yield batch


def sorted_by_length(models: Sequence[Model], budget: int, cut: Cut = filled) -> Loop:
    """Batches of similar length within the budget, one thread for each of the models."""

    def loop(chunks: Sequence[Chunk]) -> None:
        parts = list(cut(chunks, budget))

        def work(first: int) -> None:
            for part in parts[first :: len(models)]:
                models[first].embed([chunks[i] for i in part])

        with ThreadPoolExecutor(len(models)) as pool:
            list(pool.map(work, range(len(models))))

    return loop


def loops(info: ModelInfo, threads: int, budget: int) -> dict[str, Loop]:
    """Every loop for one model, by its name in the table."""
    together, ours = several_threads(info, threads), one_thread(info)
    return {
        f"batches of {ARRIVAL} in arrival order, 1 session x {threads} threads": in_order(together, ARRIVAL),
        f"one at a time, 1 session x {threads} threads": in_order(together, 1),
        f"sorted, {budget} tokens, 1 session x {threads} threads": sorted_by_length([together], budget),
        f"sorted, {budget} tokens, {threads} sessions x 1 thread": sorted_by_length(
            [ours, *(one_thread(info) for _ in range(threads - 1))], budget
        ),
        f"sorted, {budget} tokens, 1 session shared by {threads} threads": sorted_by_length([ours] * threads, budget),
        "the same, cut where the length changes (ours)": sorted_by_length([ours] * threads, budget, batches),
        f"sorted, {budget} tokens, 1 thread": sorted_by_length([ours], budget),
    }


def measure(infos: Sequence[ModelInfo], chunks: Sequence[Chunk], threads: int, budget: int, rounds: int) -> None:
    """Run every loop of every model in turn, and print texts a second and ratios."""
    table = {info.precision: loops(info, threads, budget) for info in infos}
    best: dict[tuple[str, str], float] = {}
    for number in range(rounds + 1):
        for precision, named in table.items():
            for name, loop in named.items():
                start = time.perf_counter()
                loop(chunks if number else chunks[:ARRIVAL])  # round 0 is a warm-up
                if number:
                    key = (precision, name)
                    best[key] = min(best.get(key, float("inf")), time.perf_counter() - start)
    names = list(next(iter(table.values())))
    print(f"{'':68}" + "".join(f"{precision + ' texts/s':>16}{'ratio':>8}" for precision in table) + "  int8/fp32")
    for name in names:
        row = f"{name:68}"
        for precision in table:
            seconds = best[precision, name]
            row += f"{len(chunks) / seconds:16.0f}{best[precision, names[0]] / seconds:8.2f}"
        print(f"{row}{best['fp32', name] / best['int8', name]:11.2f}")


def main() -> None:
    """Install the models, read the texts, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, metavar="TEXTS.jsonl.gz")
    parser.add_argument("--source", default="all-MiniLM-L6-v2", metavar="NAME|DIR|WHEEL")
    parser.add_argument("--texts", type=int, default=1000, metavar="N")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--budget", type=int, default=TOKEN_BUDGET, metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        infos = [
            installer.install(options.source, Path(work, precision), precision=precision)
            for precision in ("fp32", "int8")
        ]
        for info in infos:
            if info.precision == "int8":
                print(f"{info.name}: int8 against fp32 over the acceptance texts: mean cosine {info.cosine_mean},")
                print(f"worst {info.cosine_worst}, {info.speedup} times faster on one thread")
        model = one_thread(infos[0])
        chunks = [chunk for text in read_texts(options.file, options.texts) for chunk in model.chunks(text)]
        lengths = sorted(len(chunk) for chunk in chunks)
        mean, highest = sum(lengths) / len(lengths), lengths[int(0.95 * len(lengths))]
        print(f"{len(chunks)} chunks, {mean:.1f} tokens in the mean, 95 % have at most {highest}")
        measure(infos, chunks, options.threads, options.budget, options.rounds)


if __name__ == "__main__":
    main()
