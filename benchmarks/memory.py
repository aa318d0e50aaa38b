"""Peak memory of a step with PCGrad against the plain sum, each in a process of its own.

    python benchmarks/memory.py --encoder minilm --data FOLDER

Expected: model and optimizer + k rows + one task's graph, so PCGrad takes k rows of shared parameters more, less the one
copy of the gradients that the plain sum holds anyway: (k - 1) x parameters x 4 bytes.
"""

import argparse
import multiprocessing
import resource

from step import configuration, ours


def peak(
    arguments: argparse.Namespace, method: str, answers: "multiprocessing.SimpleQueue[tuple[int, int, int]]"
) -> None:
    """Ten steps on the longest batches; answers with the peak before and after them, in bytes, and the parameters."""
    import torch

    from mtlcli.training.passes import TaskLoss
    from mtlcli.training.setup import set_up

    run = set_up(configuration(arguments, method))
    step = ours(run)
    batches = [TaskLoss(task, (source.longest().to(run.device),)) for task, source in enumerate(run.train)]

    def highest() -> int:
        if run.device.type == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before = highest()
    for _ in range(10):
        step(batches)
    answers.put((before, highest(), run.engine.size))


def main() -> None:
    """Runs both and prints the difference beside what was expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="tiny")
    parser.add_argument("--data", default=None)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    found = {}
    context = multiprocessing.get_context("spawn")
    for method in ("equal", "pcgrad"):
        answers = context.SimpleQueue()
        process = context.Process(target=peak, args=(arguments, method, answers))
        process.start()
        before, after, parameters = answers.get()
        process.join()
        found[method] = after
        print(f"{method:8} peak {after / 2**20:.0f} MiB ({before / 2**20:.0f} before the first step)")
    expected = 2 * parameters * 4
    print(
        f"pcgrad takes {(found['pcgrad'] - found['equal']) / 2**20:.0f} MiB more; 2 rows are {expected / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
