"""Train, use and compare small models from Python, on made-up rows: `python examples/python.py` takes some seconds.

The cells (`# %%`) run one by one in VS Code, Spyder or Jupyter (with jupytext).
"""

# %% A recipe, as a dict: two tasks, few rows, a small encoder with random weights
import mtlcli
from mtlcli.training.events import Evaluated

recipe = {
    "sample": True,
    "tasks": {name: {"max_rows": 300} for name in ("sst", "sts")},
    "encoder": {"name": "tiny", "dim": 32, "layers": 1, "attention_heads": 2, "intermediate": 64, "vocabulary": 500},
    "training": {"steps": 30, "steps_per_epoch": 10, "batch_size": 8},
}
print(mtlcli.load_config(recipe).optimizer.lr)


# %% Train, and print the score of every evaluation
def show(event):
    if isinstance(event, Evaluated):
        print(f"step {event.step}: score {event.score:.3f}{' (best so far)' if event.is_best else ''}")


run = mtlcli.train(recipe, output="runs/python/equal", overwrite=True, on_event=show)
accuracy = run.results["sst"]["accuracy"]
print(f"{run}: accuracy {accuracy.value:.3f}, 95 % interval {accuracy.low:.3f} to {accuracy.high:.3f}")

# %% Another method: sections given by keyword win over the recipe
other = mtlcli.train(recipe, balancer="uncertainty+pcgrad", output="runs/python/pcgrad", overwrite=True)

# %% Predict: one prediction for each row, in order
model = mtlcli.load(run)
for prediction in model.predict(["The soup was delightful.", "The service was slow."], task="sst"):
    print(prediction.label, prediction.probabilities)

pairs = [("A man plays a guitar.", "A man plays an instrument."), ("A dog runs.", "The stock market fell.")]
print([round(prediction.score, 2) for prediction in model.predict(pairs, task="sts")])

# %% Without a task: every task that can read the rows
print({task: len(predictions) for task, predictions in model.predict(pairs).items()})

# %% Encode: one vector for each text
vectors = model.encode(["The soup was delightful.", "The service was slow."])
print(vectors.shape, vectors.dtype)

# %% Evaluate on other rows or splits, and compare
print(mtlcli.evaluate(run, split="test", resamples=200)["sst"]["test"]["accuracy"].value)
for row in mtlcli.compare(run, other, resamples=200).compared:
    print(row.task, row.metric, f"{row.difference.value:+.3f}", f"p {row.p_holm:.2f}")
