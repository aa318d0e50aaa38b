"""Classes of texts by a graph of `mtl export RUN --format onnx`: python onnx_predict.py RUN/onnx sst "The soup was not good." ..."""

import json
import sys

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder, task, *texts = sys.argv[1:]
with open(f"{folder}/{task}.json", encoding="utf-8") as file:
    facts = json.load(file)
rows = Tokenizer.from_file(f"{folder}/tokenizer.json").encode_batch(texts)
feed = {"input_ids": np.array([row.ids for row in rows], dtype=np.int64)}
feed["attention_mask"] = np.array([row.attention_mask for row in rows], dtype=np.int64)
session = onnxruntime.InferenceSession(f"{folder}/{task}.onnx")
probabilities = session.run(["probabilities"], feed)[0]
print([facts["labels"][best] for best in probabilities.argmax(1)])
